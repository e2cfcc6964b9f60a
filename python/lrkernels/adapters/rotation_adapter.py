"""Adapters that rotate the base layer's input features."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lrkernels.adapters.adapter import Adapter
from lrkernels.nn.base_layer import BaseCall
from lrkernels.nn.rotations.rotated_linear import rotated_output, rotated_weight
from lrkernels.nn.rotations.rotation import Rotation


class RotationAdapter(Adapter):
    """y = base(x·R) for a trained rotation R; the merged weight is W·Rᵀ. ``lrkernels.nn.RotatedLinear`` says more.

    A subclass hands the class of its rotation to ``__init__``, with what that takes after the number of features. The
    base layer runs on x·R, whatever it is; a plain one may have its weight rotated where that costs less. The update
    depends on the weight, so there is no ``delta()``; and there is no dropout.
    """

    changes_input = True
    scale: nn.Parameter | None

    def __init__(
        self,
        base_layer: nn.Linear,
        rotation_class: type[Rotation],
        *args: Any,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(base_layer, device=device, dtype=dtype)
        self.rotation = rotation_class(self.in_features, *args, **self._made_with, **kwargs)
        self.register_parameter("scale", None)  # of the outputs

    def reset_parameters(self, base_layer: nn.Linear) -> None:
        self.rotation.reset_parameters()

    def forward(self, x: Tensor, base: BaseCall) -> Tensor:
        return rotated_output(self.rotation, base, self.scale)

    def merged(self, weight: Tensor) -> Tensor:
        return rotated_weight(self.rotation, weight, self.scale)

    def rotate(self, x: Tensor) -> Tensor:
        """x·R"""
        return self.rotation(x)

    def inverse(self, x: Tensor) -> Tensor:
        """x·R⁻¹"""
        return self.rotation.inverse(x)

    def orthogonality_error(self) -> Tensor:
        """‖RᵀR − I‖₂, a float64 scalar; a diagnostic, which may form R."""
        return self.rotation.orthogonality_error()

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}"
