"""LoRA-XS: an r×r matrix between the weight's own leading singular vectors."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from lrkernels.adapters.low_rank_adapter import Factors, LowRankAdapter
from lrkernels.nn.arguments import check_dense_weight
from lrkernels.nn.truncated_svd import truncated_svd


class LoRAXS(LowRankAdapter):
    """W + scale·up·core·down with up = U_r·S_r and down = V_rᵀ of W frozen, and core ``[r, r]`` trained.

    The paper draws core from N(0, 10⁻¹⁰); zero has the same gradient in the limit and starts exactly at the base.
    Needs a dense base weight, else raises TypeError.

    Bałazy, Banaei, Aberer and Tabor, "LoRA-XS: low-rank adaptation with extremely small number of parameters", 2024.
    """

    def __init__(self, base_layer: nn.Linear, r: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(base_layer, r, *args, **kwargs)
        check_dense_weight("LoRAXS", "base_layer", base_layer)
        self.down = self.parameter(r, self.in_features, trained=False)
        self.up = self.parameter(self.out_features, r, trained=False)
        self.core = self.parameter(r, r)

    @torch.no_grad()
    def reset_parameters(self, base_layer: nn.Linear) -> None:
        u, s, vh = truncated_svd("LoRAXS", base_layer.weight, self.r)
        self.down.copy_(vh)
        self.up.copy_(u * s)
        self.core.zero_()

    def factors(self) -> Factors:
        return Factors(self.down, self.up, core=self.core, scale=self.scale)
