"""BOFT."""

from __future__ import annotations

from typing import Any

from torch import nn

from lrkernels.adapters.rotation_adapter import RotationAdapter
from lrkernels.nn.rotations.boft import ButterflyRotation


class BOFT(RotationAdapter):
    """Butterfly orthogonal fine-tuning: ``BOFT.wrap(linear, block_size=8, factors=2)``.

    ``lrkernels.nn.BOFTLinear`` is the same layer as one module, and says more.
    """

    def __init__(self, base_layer: nn.Linear, *args: Any, **options: Any) -> None:
        super().__init__(base_layer, ButterflyRotation, *args, **options)
        self.scale = self.parameter(self.out_features)

    def reset_parameters(self, base_layer: nn.Linear) -> None:
        super().reset_parameters(base_layer)
        nn.init.ones_(self.scale)
