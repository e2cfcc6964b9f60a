"""BOFT in PEFT's checkpoints.

    boft_R [factors, in / block, block, block], of which S = ½(A − Aᵀ) counts: minus our skew, PEFT's map being
    (I − S)(I + S)⁻¹;    boft_s [out, 1]: our scale

Without its CUDA extension PEFT makes one factor whatever the config says, so the file is what tells. Before 0.13 the
file also held boft_P, the permutations as dense matrices.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lrkernels.interop.peft.checkpoints import config as fields
from lrkernels.interop.peft.checkpoints.config import AdapterConfig
from lrkernels.interop.peft.checkpoints.rotation import RotationKind, same_for_all
from lrkernels.nn import BOFTLinear
from lrkernels.nn.rotations import ButterflyRotation
from lrkernels.nn.rotations.boft import interleave_halves
from lrkernels.reference import skew_matrices

_IGNORED = fields.IGNORED | {"init_weights"}


@dataclass(frozen=True)
class BOFTConfig(AdapterConfig):
    """The settings that ``BOFTLinear`` can honour."""

    boft_block_size: int = 4
    boft_block_num: int = 0
    boft_n_butterfly_factor: int = 1
    boft_dropout: float = 0.0

    def check(self, biases: Iterable[str]) -> None:
        for name in ("boft_block_size", "boft_block_num"):
            fields.check_count(name, getattr(self, name))
        if (self.boft_block_size == 0) == (self.boft_block_num == 0):
            raise ValueError(
                f"boft_block_size is {self.boft_block_size} and boft_block_num {self.boft_block_num}, expected one of "
                "them to be 0, as PEFT does"
            )
        fields.check_positive("boft_n_butterfly_factor", self.boft_n_butterfly_factor)
        fields.check_number("boft_dropout", self.boft_dropout)
        super().check(biases)


class BOFTKind(RotationKind):
    peft_type = "BOFT"
    layer_class = BOFTLinear
    _rotation_class = ButterflyRotation
    parts = ("boft_R", "boft_s")
    optional_parts = ("boft_P",)
    title, article = "BOFT", "a BOFT weight"

    def parse(self, values: dict[str, Any]) -> BOFTConfig:
        config = fields.read(values, BOFTConfig, "BOFTLinear", fields.REFUSED, _IGNORED)
        config.check(self.biases)
        if config.boft_dropout:
            warnings.warn(
                f"load_adapter: boft_dropout is {config.boft_dropout}; BOFTLinear has no dropout, so training goes on "
                "without",
                stacklevel=4,
            )
        return config

    def convert(
        self, config: BOFTConfig, name: str, sizes: tuple[int, int], tensors: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        features, outputs = sizes
        size, number = config.boft_block_size, config.boft_block_num
        if features % (size or number):
            what = "boft_block_size" if size else "boft_block_num"
            raise ValueError(f"'{name}' has {features} features, which {what} = {size or number} does not divide")
        size, number = size or features // number, number or features // size
        a, scale = tensors["boft_R"], tensors["boft_s"]
        factors = config.boft_n_butterfly_factor
        if tuple(a.shape) not in ((factors, number, size, size), (1, number, size, size)):
            raise ValueError(
                f"boft_R of '{name}' is {tuple(a.shape)}, expected {(factors, number, size, size)}, or one factor: the "
                f"config gives {features} features {number} blocks of {size}"
            )
        if tuple(scale.shape) != (outputs, 1):
            raise ValueError(f"boft_s of '{name}' is {tuple(scale.shape)}, expected {(outputs, 1)}")
        if "boft_P" in tensors:
            _check_permutations(name, tensors["boft_P"], features, size, len(a))
        row, column = torch.triu_indices(size, size, 1)
        wide = a.to(torch.promote_types(a.dtype, torch.float32))
        values = {"rotation.skew": 0.5 * (wide - wide.mT)[..., column, row], "scale": scale.squeeze(1)}
        return self.checked(config, name, features, values)

    def options(self, config: BOFTConfig, values: dict[str, Tensor], features: int) -> dict[str, Any]:
        factors, blocks, _ = values["rotation.skew"].shape
        return {"block_size": features // blocks, "factors": factors}

    def tensors(self, layer: BOFTLinear) -> dict[str, Tensor]:
        skew = layer.rotation.skew.detach()
        a = skew_matrices(-skew.flatten(0, 1), layer.rotation.block_size)
        return {"boft_R": a.unflatten(0, tuple(skew.shape[:2])), "boft_s": layer.scale.unsqueeze(1)}

    def compose(self, layers: dict[str, BOFTLinear], all_names: Iterable[str]) -> dict[str, Any]:
        sizes = {name: layer.rotation.block_size for name, layer in layers.items()}
        numbers = {name: layer.in_features // layer.rotation.block_size for name, layer in layers.items()}
        by_number = len(set(sizes.values())) > 1 and len(set(numbers.values())) == 1
        return {
            "boft_block_size": 0 if by_number else same_for_all("block_size", sizes),
            "boft_block_num": next(iter(numbers.values())) if by_number else 0,
            "boft_n_butterfly_factor": same_for_all(
                "factors", {name: layer.rotation.factors for name, layer in layers.items()}
            ),
            "boft_dropout": 0.0,
            "target_modules": fields.target_modules(set(layers), all_names),
        }


def _check_permutations(name: str, boft_p: Tensor, features: int, block: int, factors: int) -> None:
    """Raises ValueError unless these are the permutations that ``ButterflyRotation`` makes."""
    order = torch.arange(features)
    expected = torch.stack([interleave_halves(order, block // 2, i) if i else order for i in range(factors)])
    if boft_p.shape != (factors, features, features) or not torch.equal(boft_p.argmax(1), expected):
        raise ValueError(f"boft_P of '{name}' holds other permutations than those of {factors} factors of {block}")
