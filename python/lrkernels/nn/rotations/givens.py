"""Rounds of Givens rotations of the input features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from lrkernels.nn import givens_schedule
from lrkernels.nn.arguments import check_size
from lrkernels.nn.rotations.rotated_linear import RotatedLinear
from lrkernels.nn.rotations.rotation import Rotation, beside
from lrkernels.ops import givens_apply


class GivensRotation(Rotation):
    """R = the product of rounds of plane rotations: x·R is ``lrkernels.givens_apply(x, angles, strides)``.

    angles ``[rounds, features // 2]`` in radians start at 0. ``strides`` default to a butterfly, strides 1, 2, 4, …
    below ``features``, after which every output depends on every input.
    """

    def __init__(self, features: int, strides: Sequence[int] | None = None, **placement: Any) -> None:
        super().__init__(features, **placement)
        self.strides = givens_schedule.butterfly(features) if strides is None else list(strides)
        for stride in self.strides:
            check_size("GivensRotation", "a stride", stride)
        self.angles = self.parameter(len(self.strides), features // 2)
        self.reset_parameters()

    @property
    def work(self) -> float:
        return 2.0 * len(self.strides)

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.angles)

    def forward(self, x: Tensor) -> Tensor:
        return givens_apply(x, beside(x, self.angles), self.strides)

    def transposed(self, x: Tensor) -> Tensor:
        return givens_apply(x, beside(x, self.angles), self.strides, inverse=True)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, strides={self.strides}"


class GivensLinear(RotatedLinear):
    """A frozen linear layer under rounds of Givens rotations of its input features.

        y = base_layer(givens_apply(x, angles, strides));    merged weight W·Rᵀ

    ``rotation.angles [rounds, in_features // 2]``, in radians, start at 0. ``strides`` default to a butterfly of
    ⌈log₂(in_features)⌉ rounds, in_features·log₂(in_features) / 2 angles; any in_features, a power of two or not. R is
    orthogonal whatever the angles are, to rounding. Else as ``RotatedLinear``.

        layer = GivensLinear(nn.Linear(4096, 4096))
    """

    def __init__(self, base_layer: nn.Linear, strides: Sequence[int] | None = None, **placement: Any) -> None:
        super().__init__(base_layer, GivensRotation, strides, **placement)
