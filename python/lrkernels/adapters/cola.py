"""CoLA: a nonlinearity between the factors."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from lrkernels.adapters.adapter import Adapter
from lrkernels.nn.arguments import check_rank
from lrkernels.nn.base_layer import BaseCall, dropout_seed, factors_beside
from lrkernels.nn.lora_linear import reset_lora
from lrkernels.ops import lowrank_expand, lowrank_project


class CoLA(Adapter):
    """y = base(x) + up·silu(down·drop(x)), started as LoRA. The update is no matrix, so it cannot be merged.

    The paper trains up·silu(down·x) from scratch in the place of a dense layer; here it adapts one.

    Liu et al., "CoLA: compute-efficient pre-training of LLMs via low-rank activation", 2025.
    """

    def __init__(self, base_layer: nn.Linear, r: int, dropout: float = 0.0, **placement: Any) -> None:
        super().__init__(base_layer, dropout, **placement)
        check_rank("CoLA", "r", r, self.in_features, self.out_features)
        self.down = self.parameter(r, self.in_features)
        self.up = self.parameter(self.out_features, r)

    def reset_parameters(self, base_layer: nn.Linear) -> None:
        reset_lora(self.down, self.up)

    def forward(self, x: Tensor, base: BaseCall) -> Tensor:
        y = base.output
        down, up = factors_beside(y.dtype, self.down, self.up)
        seed = dropout_seed(x, self.active_dropout)
        s = F.silu(lowrank_project(x.to(y.dtype), down, seed=seed, dropout=self.active_dropout))
        return lowrank_expand(s, up, base=y)
