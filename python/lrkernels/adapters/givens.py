"""Givens rounds."""

from __future__ import annotations

from typing import Any

from torch import nn

from lrkernels.adapters.rotation_adapter import RotationAdapter
from lrkernels.nn.rotations.givens import GivensRotation


class Givens(RotationAdapter):
    """Rounds of Givens rotations of the input: ``Givens.wrap(linear, strides=None)``.

    ``lrkernels.nn.GivensLinear`` is the same layer as one module, and says more.
    """

    def __init__(self, base_layer: nn.Linear, *args: Any, **options: Any) -> None:
        super().__init__(base_layer, GivensRotation, *args, **options)
