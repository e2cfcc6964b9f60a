"""GOFT and qGOFT."""

from __future__ import annotations

from typing import Any

from torch import nn

from lrkernels.adapters.rotation_adapter import RotationAdapter
from lrkernels.nn.rotations.goft import QuasiTreeRotation, TreeRotation


class GOFT(RotationAdapter):
    """A tree of in_features − 1 Givens rotations, or of free 2 x 2 matrices: ``GOFT.wrap(linear, quasi=False)``.

    ``lrkernels.nn.GOFTLinear`` is the same layer as one module, and says more.
    """

    def __init__(self, base_layer: nn.Linear, quasi: bool = False, **placement: Any) -> None:
        super().__init__(base_layer, QuasiTreeRotation if quasi else TreeRotation, **placement)
