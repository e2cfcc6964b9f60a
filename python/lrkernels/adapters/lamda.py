"""LaMDA: a trained square between the weight's singular vectors, and an up that freezes row by row."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from lrkernels.adapters.low_rank_adapter import Factors, LowRankAdapter
from lrkernels.nn.arguments import check_dense_weight
from lrkernels.nn.truncated_svd import truncated_svd


class LaMDA(LowRankAdapter):
    """W + scale·up·core·down with down = V_rᵀ of W frozen, core ``[r, r]`` trained and up trained, less and less.

        for step, batch in enumerate(data):
            for layer in adapted_layers(model):
                layer.adapter.freeze_rows(step / (0.3 * steps))  # gone from 30 % of the steps on

    up starts as U_r and core at zero, so that the layer begins as its base. ``freeze_rows(share)`` fixes the first
    share·out rows of up where they are, once for all: they have no gradient, and what an optimizer's momentum or decay
    still does to ``up`` there does not matter, for ``up_frozen`` is what acts. At 1 only the r² numbers of core train.
    The order of the rows is ours, as is core's start. Needs a dense base weight, else raises TypeError.

    Azizi, Kundu and Pedram, "LaMDA: large model fine-tuning via spectrally decomposed low-dimensional adaptation",
    Findings of EMNLP 2024.
    """

    def __init__(self, base_layer: nn.Linear, r: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(base_layer, r, *args, **kwargs)
        check_dense_weight("LaMDA", "base_layer", base_layer)
        self.down = self.parameter(r, self.in_features, trained=False)
        self.up = self.parameter(self.out_features, r)
        self.core = self.parameter(r, r)
        self.up_frozen = self.parameter(self.out_features, r, trained=False)
        self.register_buffer("frozen", torch.zeros(self.out_features, 1, dtype=torch.bool, device=self.up.device))

    @torch.no_grad()
    def reset_parameters(self, base_layer: nn.Linear) -> None:
        u, _, vh = truncated_svd("LaMDA", base_layer.weight, self.r)
        self.down.copy_(vh)
        self.up.copy_(u)
        self.up_frozen.copy_(u)
        self.core.zero_()
        self.frozen.zero_()

    @torch.no_grad()
    def freeze_rows(self, share: float) -> None:
        """Fix the first ``share``·out rows of up, 1 and more all; rows that are fixed stay so."""
        if not share >= 0.0:
            raise ValueError(f"LaMDA.freeze_rows: share is {share}, expected at least 0")
        now = torch.zeros_like(self.frozen)
        now[: round(min(share, 1.0) * self.out_features)] = True
        self.up_frozen.copy_(torch.where(now & ~self.frozen, self.up, self.up_frozen))
        self.frozen |= now

    def factors(self) -> Factors:
        return Factors(self.down, torch.where(self.frozen, self.up_frozen, self.up), core=self.core, scale=self.scale)
