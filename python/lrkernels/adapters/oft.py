"""OFT."""

from __future__ import annotations

from typing import Any

from torch import nn

from lrkernels.adapters.rotation_adapter import RotationAdapter
from lrkernels.nn.rotations.oft import BlockRotation


class OFT(RotationAdapter):
    """Block-diagonal orthogonal fine-tuning: ``OFT.wrap(linear, block_size=32, method="exact", …)``.

    ``lrkernels.nn.OFTLinear`` is the same layer as one module, and says more.
    """

    def __init__(self, base_layer: nn.Linear, *args: Any, **options: Any) -> None:
        super().__init__(base_layer, BlockRotation, *args, **options)
