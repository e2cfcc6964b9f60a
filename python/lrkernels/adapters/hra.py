"""HRA."""

from __future__ import annotations

from typing import Any

from torch import nn

from lrkernels.adapters.rotation_adapter import RotationAdapter
from lrkernels.nn.rotations.householder import HouseholderRotation


class HRA(RotationAdapter):
    """Householder reflection adaptation: ``HRA.wrap(linear, r=8)``.

    ``lrkernels.nn.HouseholderLinear`` is the same layer as one module, and says more.
    """

    def __init__(self, base_layer: nn.Linear, *args: Any, **options: Any) -> None:
        super().__init__(base_layer, HouseholderRotation, *args, **options)
