"""HRA in PEFT's checkpoints.

    hra_u [in, r]: our vectors, transposed

With apply_GS PEFT reflects by what Gram-Schmidt makes of the columns, in every forward; here it is done once, at load,
and training goes on from there without.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lrkernels.interop.peft.checkpoints import config as fields
from lrkernels.interop.peft.checkpoints.config import AdapterConfig
from lrkernels.interop.peft.checkpoints.rotation import RotationKind, same_for_all
from lrkernels.interop.peft.gram_schmidt import gram_schmidt
from lrkernels.nn import HouseholderLinear
from lrkernels.nn.rotations import HouseholderRotation

_IGNORED = fields.IGNORED | {"init_weights"}


@dataclass(frozen=True)
class HRAConfig(AdapterConfig):
    """The settings that ``HouseholderLinear`` can honour."""

    r: int = 8
    apply_GS: bool = False

    def check(self, biases: Iterable[str]) -> None:
        fields.check_positive("r", self.r)
        fields.check_flag("apply_GS", self.apply_GS)
        super().check(biases)


class HRAKind(RotationKind):
    peft_type = "HRA"
    layer_class = HouseholderLinear
    _rotation_class = HouseholderRotation
    parts = ("hra_u",)
    title, article = "HRA", "an HRA weight"

    def parse(self, values: dict[str, Any]) -> HRAConfig:
        config = fields.read(values, HRAConfig, "HouseholderLinear", fields.REFUSED, _IGNORED)
        config.check(self.biases)
        return config

    def convert(
        self, config: HRAConfig, name: str, sizes: tuple[int, int], tensors: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        u = tensors["hra_u"]
        if tuple(u.shape) != (sizes[0], config.r):
            raise ValueError(f"hra_u of '{name}' is {tuple(u.shape)}, expected {(sizes[0], config.r)}")
        vectors = u.mT
        if (vectors == 0).all(1).any():
            raise ValueError(f"hra_u of '{name}' has a column of zeros, which is no reflection: PEFT computes NaN")
        if config.apply_GS:
            new = torch.linalg.qr(u.double()).R.diagonal().abs()  # what is left of each column, to normalise
            if len(new) < config.r or (new < 1e-5 * torch.linalg.vector_norm(u.double(), dim=0)).any():
                raise ValueError(
                    f"hra_u of '{name}' has columns that depend on each other: of them apply_GS leaves rounding errors"
                )
            vectors = gram_schmidt(vectors.double())
        return self.checked(config, name, sizes[0], {"rotation.vectors": vectors})

    def options(self, config: HRAConfig, values: dict[str, Tensor], features: int) -> dict[str, Any]:
        return {"r": config.r}

    def tensors(self, layer: HouseholderLinear) -> dict[str, Tensor]:
        return {"hra_u": layer.rotation.vectors.mT}

    def compose(self, layers: dict[str, HouseholderLinear], all_names: Iterable[str]) -> dict[str, Any]:
        return {
            "r": same_for_all("r", {name: layer.rotation.r for name, layer in layers.items()}),
            "apply_GS": False,
            "target_modules": fields.target_modules(set(layers), all_names),
        }
