"""PiSSA: train the principal singular components of the weight."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from lrkernels.adapters.lora import LoRA
from lrkernels.adapters.low_rank_adapter import Factors
from lrkernels.nn.arguments import check_dense_weight
from lrkernels.nn.truncated_svd import truncated_svd


class PiSSA(LoRA):
    """W_res + scale·up·down with up·√scale = U_r·√S_r, √scale·down = √S_r·V_rᵀ and W_res = W − scale·up₀·down₀ frozen.

    The residual is computed as W + scale·[up, −up₀]·[down; down₀], the paper's form of a PiSSA adapter as a LoRA of
    rank 2r. So the base weight stays what it was: switching the adapter off gives the original layer, several can be
    there, a tied weight stays tied, and in half precision the residual is not rounded. It costs the op rank 2r. To hold
    the residual itself instead, as for quantising it, write W_res into the base weight and train a ``LoRA`` from
    (up₀, down₀). The SVD is exact. Needs a dense base weight, else raises TypeError.

    Meng, Wang and Zhang, "PiSSA: principal singular values and singular vectors adaptation of large language models",
    NeurIPS 2024.
    """

    def __init__(self, base_layer: nn.Linear, r: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(base_layer, r, *args, **kwargs)
        check_dense_weight("PiSSA", "base_layer", base_layer)
        if self.alpha <= 0.0:
            raise ValueError(
                f"PiSSA: alpha is {self.alpha:g}, expected a positive number, because the factors split it"
            )
        self.down_start = self.parameter(r, self.in_features, trained=False)
        self.up_start = self.parameter(self.out_features, r, trained=False)

    @torch.no_grad()
    def reset_parameters(self, base_layer: nn.Linear) -> None:
        u, s, vh = truncated_svd("PiSSA", base_layer.weight, self.r)
        root = (s / self.scale).sqrt()
        for down, up in ((self.down, self.up), (self.down_start, self.up_start)):
            down.copy_(root[:, None] * vh)
            up.copy_(u * root)

    def factors(self) -> Factors:
        down = torch.cat([self.down, self.down_start])
        up = torch.cat([self.up, -self.up_start], dim=1)
        return Factors(down, up, scale=self.scale)
