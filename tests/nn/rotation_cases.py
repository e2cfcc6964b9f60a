"""The rotated layers, and the dense R of x·R that each must act with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import dense_rotations as dense
import torch
from torch import nn

from lrkernels.nn import BOFTLinear, GivensLinear, GOFTLinear, HouseholderLinear, OFTLinear, RotatedLinear


def butterfly_strides(features):
    return [s for s in (1, 2, 4, 8, 16) if s < features]


@dataclass
class Case:
    layer_class: type[RotatedLinear]
    dense: Callable[[dict[str, torch.Tensor], int], torch.Tensor]
    options: dict[str, Any] = field(default_factory=dict)
    orthogonal: bool = True
    std: float = 0.5

    def layer(
        self, in_features=12, out_features=10, dtype=torch.float64, base=nn.Linear, placement=None
    ) -> RotatedLinear:
        """A layer as if it had been trained; ``placement`` is its own dtype."""
        layer = self.layer_class(base(in_features, out_features, dtype=dtype), dtype=placement, **self.options)
        for name, parameter in layer.named_parameters():
            if not name.startswith("base_layer"):
                nn.init.normal_(parameter, std=self.std)
        return layer

    def matrix(self, layer: RotatedLinear) -> torch.Tensor:
        parameters = {name: p.double() for name, p in layer.rotation.named_parameters()}
        return self.dense(parameters, layer.in_features)

    def weight(self, layer: RotatedLinear) -> torch.Tensor:
        """diag(scale)·W·Rᵀ in float64."""
        weight = layer.base_layer.weight.double() @ self.matrix(layer).T
        return weight if layer.scale is None else layer.scale.double()[:, None] * weight


def turns(p):
    return torch.stack([dense.turn(angle) for angle in p["angles"]])


CASES = {
    "Givens": Case(GivensLinear, lambda p, d: dense.givens(p["angles"], butterfly_strides(d), d)),
    "Givens, strides": Case(GivensLinear, lambda p, d: dense.givens(p["angles"], [5, 1, 3], d), {"strides": (5, 1, 3)}),
    "OFT": Case(OFTLinear, lambda p, d: dense.block_diagonal(p["skew"], 4, d), {"block_size": 4}),
    "OFT, shared": Case(
        OFTLinear, lambda p, d: dense.block_diagonal(p["skew"], 3, d), {"block_size": 3, "block_share": True}
    ),
    "OFT, Neumann": Case(
        OFTLinear,
        lambda p, d: dense.block_diagonal(p["skew"], 4, d, dense.neumann),
        {"block_size": 4, "method": "neumann"},
        orthogonal=False,
        std=0.2,
    ),
    "BOFT": Case(BOFTLinear, lambda p, d: dense.butterfly(p["skew"], 2, d), {"block_size": 2, "factors": 2}),
    "HRA": Case(HouseholderLinear, lambda p, d: dense.householder(p["vectors"]).T, {"r": 4}),
    "GOFT": Case(GOFTLinear, lambda p, d: dense.tree(turns(p)).T),
    "qGOFT": Case(GOFTLinear, lambda p, d: dense.tree(p["matrices"]).T, {"quasi": True}, orthogonal=False),
}
