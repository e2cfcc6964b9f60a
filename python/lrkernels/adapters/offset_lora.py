"""LoRA whose factors may start anywhere: what they start with is taken off again."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lrkernels.adapters.lora import LoRA
from lrkernels.adapters.low_rank_adapter import Factors


class OffsetLoRA(LoRA):
    """W + scale·(up·down − up₀·down₀), with up₀ and down₀ frozen: whatever the start, the layer begins as its base.

    ``start_from(down, up)`` sets both pairs; by itself an adapter starts as ``LoRA`` does. It is the residual form of a
    starting point, W − scale·up₀·down₀ frozen and scale·up·down trained, as scale·[up, −up₀]·[down; down₀]: a LoRA of
    rank 2r. So the base weight stays what it was: switching the adapter off gives the original layer, several can be
    there, a tied weight stays tied, and in half precision the residual is not rounded. It costs the op rank 2r. To hold
    the residual itself instead, as for quantising it, write it into the base weight and train a ``LoRA``.
    """

    def __init__(self, base_layer: nn.Linear, r: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(base_layer, r, *args, **kwargs)
        self.down_start = self.parameter(r, self.in_features, trained=False)
        self.up_start = self.parameter(self.out_features, r, trained=False)

    def reset_parameters(self, base_layer: nn.Linear) -> None:
        super().reset_parameters(base_layer)
        self.start_from(self.down, self.up)

    @torch.no_grad()
    def start_from(self, down: Tensor, up: Tensor) -> None:
        for target, value in (
            (self.down, down),
            (self.down_start, down),
            (self.up, up),
            (self.up_start, up),
        ):
            target.copy_(value)

    def factors(self) -> Factors:
        down = torch.cat([self.down, self.down_start])
        up = torch.cat([self.up, -self.up_start], dim=1)
        return Factors(down, up, scale=self.scale)
