"""HRA: a product of a few Householder reflections."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from lrkernels.nn.arguments import check_size
from lrkernels.nn.rotations.rotated_linear import RotatedLinear
from lrkernels.nn.rotations.rotation import Rotation, beside
from lrkernels.ops import householder_apply


class HouseholderRotation(Rotation):
    """Rᵀ = H₁·H₂···H_r with H = I − 2vᵀv/‖v‖² of the rows v of ``vectors [r, features]``.

    Rows 2i and 2i + 1 start equal, so that their reflections cancel and R is the identity; they come apart in training
    because their gradients differ. That takes an even r. Lengths of the rows do not matter.
    """

    def __init__(self, features: int, r: int = 8, **placement: Any) -> None:
        super().__init__(features, **placement)
        check_size("HRA", "r", r)
        if r % 2:
            raise ValueError(f"HRA: r is {r}, expected an even number: reflections start in pairs that cancel")
        self.r = r
        self.vectors = self.parameter(r, features)
        self.reset_parameters()

    @property
    def work(self) -> float:
        return 2.0 * self.r

    @torch.no_grad()
    def reset_parameters(self) -> None:
        half = self.vectors[::2]
        nn.init.kaiming_uniform_(half, a=math.sqrt(5))
        self.vectors[1::2] = half

    def forward(self, x: Tensor) -> Tensor:
        return householder_apply(x, beside(x, self.vectors), transpose=True)

    def transposed(self, x: Tensor) -> Tensor:
        return householder_apply(x, beside(x, self.vectors))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, r={self.r}"


class HouseholderLinear(RotatedLinear):
    """A frozen linear layer under a product of Householder reflections of its input features (HRA).

        y = base_layer(x·R),    Rᵀ = H₁·H₂···H_r,    H = I − 2vᵀv/‖v‖²;    merged weight W·H₁·H₂···H_r

    ``rotation.vectors [r, in_features]`` (PEFT's ``hra_u``, transposed) start as equal pairs, so that R is the
    identity; r is even. W·Rᵀ − W has rank r at most: HRA is orthogonal and low-rank at once. Add
    ``soft_orthogonality(F.normalize(layer.rotation.vectors))`` to a loss for the paper's
    regulariser. Else as ``RotatedLinear``.

        layer = HouseholderLinear(nn.Linear(4096, 4096), r=8)

    Yuan, Liu and Xu, "Bridging the gap between low-rank and orthogonal adaptation via Householder reflection
    adaptation", NeurIPS 2024.
    """

    def __init__(self, base_layer: nn.Linear, r: int = 8, **placement: Any) -> None:
        super().__init__(base_layer, HouseholderRotation, r, **placement)
