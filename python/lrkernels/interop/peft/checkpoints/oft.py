"""OFT in PEFT's checkpoints.

    oft_R [in / block, block·(block − 1) / 2], or [1, …] with block_share: our skew, and its negative with PEFT's exact
    map, which is (I − Q)(I + Q)⁻¹

Before 0.18 PEFT's Neumann series ended in twice its last power (peft #2805), and configs did not name their version.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from lrkernels.interop.peft.checkpoints import config as fields
from lrkernels.interop.peft.checkpoints.config import AdapterConfig
from lrkernels.interop.peft.checkpoints.rotation import RotationKind, same_for_all
from lrkernels.nn import OFTLinear, Rotation
from lrkernels.nn.rotations import BlockRotation
from lrkernels.nn.rotations.rotation import gram_error, wide
from lrkernels.reference import skew_matrices

# module_dropout is of no consequence: PEFT's forward has never used it.
_IGNORED = fields.IGNORED | {"init_weights", "module_dropout"}
_NEW_SERIES, _OLD_SERIES = "0.18.0", "0.17.0"
_UNNAMED = (0, 0)  # the version of a config that names none


class NeumannBefore018(BlockRotation):
    """R = I + 2Q + 2Q² + ··· + 2Qᵗ⁻¹ with t = ``terms``: what PEFT 0.16 and 0.17 call t Neumann terms."""

    def blocks(self) -> Tensor:
        q = skew_matrices(wide(self.constrained_skew()), self.block_size)
        power = torch.eye(self.block_size, dtype=q.dtype, device=q.device).expand_as(q)
        r = power
        for _ in range(self.terms - 1):
            power = power @ q
            r = r + 2.0 * power
        return r

    @torch.no_grad()
    def neumann_error_bound(self) -> Tensor:
        """‖RᵀR − I‖₂ itself: the bound of the newer series does not hold."""
        return gram_error(self.blocks())


@dataclass(frozen=True)
class OFTConfig(AdapterConfig):
    """The settings that ``OFTLinear`` can honour."""

    r: int = 0
    oft_block_size: int = 32
    coft: bool = False
    eps: float = 6e-5
    block_share: bool = False
    use_cayley_neumann: bool = True
    num_cayley_neumann_terms: int = 5
    peft_version: str = "0.0.0"

    def check(self, biases: Iterable[str]) -> None:
        for name in ("r", "oft_block_size"):
            fields.check_count(name, getattr(self, name))
        if (self.r == 0) == (self.oft_block_size == 0):
            raise ValueError(
                f"r is {self.r} and oft_block_size {self.oft_block_size}, expected one of them to be 0, as PEFT does"
            )
        for name in ("coft", "block_share", "use_cayley_neumann"):
            fields.check_flag(name, getattr(self, name))
        fields.check_number("eps", self.eps)
        fields.check_count("num_cayley_neumann_terms", self.num_cayley_neumann_terms)
        if re.match(r"\d+\.\d+", str(self.peft_version)) is None:
            raise ValueError(f"peft_version is {self.peft_version!r}, expected a version like {_NEW_SERIES!r}")
        if _UNNAMED < self.version < (0, 16):
            raise ValueError(f"peft_version is {self.peft_version!r}: before PEFT 0.16, OFT was another")
        super().check(biases)

    @property
    def version(self) -> tuple[int, int]:
        major, minor = re.match(r"(\d+)\.(\d+)", self.peft_version).groups()
        return int(major), int(minor)

    @property
    def has_old_series(self) -> bool:
        return self.use_cayley_neumann and self.num_cayley_neumann_terms > 2 and self.version < (0, 18)

    def block_size(self, features: int) -> int:
        return _nearest_divisor(features, self.oft_block_size) or features // _nearest_divisor(features, self.r)


def _nearest_divisor(features: int, wanted: int) -> int:
    """PEFT's adjustment of a size that does not divide the features: the nearest that does, the lower of two."""
    return 0 if wanted == 0 else min(_divisors(features), key=lambda size: (abs(size - wanted), size))


@cache
def _divisors(number: int) -> tuple[int, ...]:
    small = [size for size in range(1, math.isqrt(number) + 1) if number % size == 0]
    return tuple(sorted({*small, *(number // size for size in small)}))


class OFTKind(RotationKind):
    peft_type = "OFT"
    layer_class = OFTLinear
    parts = ("oft_R.weight",)
    title, article = "OFT", "an OFT weight"

    def rotation_class(self, config: OFTConfig) -> type[Rotation]:
        return NeumannBefore018 if config.has_old_series else BlockRotation

    def parse(self, values: dict[str, Any]) -> OFTConfig:
        if "oft_block_size" not in values:
            raise ValueError("has no oft_block_size: it is from before PEFT 0.14, whose OFT was another")
        config = fields.read(values, OFTConfig, "OFTLinear", fields.REFUSED, _IGNORED)
        config.check(self.biases)
        return config

    def explain_key(self, key: str) -> str | None:
        if "oft_embedding_R" in key:
            return "OFT of embeddings is not covered"
        if key.endswith((".oft_r", ".oft_s")):
            return "the file is from before PEFT 0.16, whose OFT was another; PEFT does not load it either"
        return None

    def convert(
        self, config: OFTConfig, name: str, sizes: tuple[int, int], tensors: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        features, block = sizes[0], config.block_size(sizes[0])
        weight = tensors["oft_R.weight"]
        expected = (1 if config.block_share else features // block, block * (block - 1) // 2)
        if tuple(weight.shape) != expected:
            raise ValueError(
                f"oft_R of '{name}' is {tuple(weight.shape)}, expected {expected}: the config gives {features} "
                f"features blocks of {block}{', shared' if config.block_share else ''}"
            )
        values = {"rotation.skew": weight if config.use_cayley_neumann else -weight}
        return self.checked(config, name, features, values)

    def options(self, config: OFTConfig, values: dict[str, Tensor], features: int) -> dict[str, Any]:
        return {
            "block_size": config.block_size(features),
            "method": "neumann" if config.use_cayley_neumann else "exact",
            "terms": max(config.num_cayley_neumann_terms, 1),
            "block_share": config.block_share,
            "coft_eps": config.eps if config.coft else None,
        }

    def tensors(self, layer: OFTLinear) -> dict[str, Tensor]:
        skew = layer.rotation.skew
        return {"oft_R.weight": skew if layer.rotation.method == "neumann" else -skew}

    def compose(self, layers: dict[str, OFTLinear], all_names: Iterable[str]) -> dict[str, Any]:
        rotations = {name: layer.rotation for name, layer in layers.items()}

        def common(what: str) -> Any:
            return same_for_all(what, {name: getattr(rotation, what) for name, rotation in rotations.items()})

        eps = common("coft_eps")
        old = same_for_all("the series", {name: type(r) is NeumannBefore018 for name, r in rotations.items()})
        number, size = _size_for_all({(r.features, r.block_size) for r in rotations.values()})
        return {
            "r": number,
            "oft_block_size": size,
            "use_cayley_neumann": common("method") == "neumann",
            "num_cayley_neumann_terms": common("terms"),
            "block_share": common("block_share"),
            "coft": eps is not None,
            "module_dropout": 0.0,
            "peft_version": _OLD_SERIES if old else _NEW_SERIES,
            "target_modules": fields.target_modules(set(layers), all_names),
        } | ({} if eps is None else {"eps": eps})


def _size_for_all(sizes: set[tuple[int, int]]) -> tuple[int, int]:
    """The r and oft_block_size that PEFT turns into these block sizes, by features; it has one for all layers."""
    largest = max(features for features, _ in sizes)
    for wanted in (*sorted({block for _, block in sizes}), *range(1, largest + 1)):
        if all(_nearest_divisor(features, wanted) == block for features, block in sizes):
            return 0, wanted
    for wanted in range(1, largest + 1):
        if all(features // _nearest_divisor(features, wanted) == block for features, block in sizes):
            return wanted, 0
    raise ValueError(f"block sizes differ between layers, and PEFT has one for all: {sorted(sizes)} (features, block)")
