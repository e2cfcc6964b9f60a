"""SORSA: train the principal singular values and vectors, the vectors kept nearly orthonormal."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lrkernels.adapters.low_rank_adapter import Factors, LowRankAdapter
from lrkernels.nn.arguments import check_dense_weight
from lrkernels.nn.orthogonality import soft_orthogonality
from lrkernels.nn.truncated_svd import truncated_svd


class SORSA(LowRankAdapter):
    """W_res + scale·up·diag(gate)·down with up = U_r, gate = S_r, down = V_rᵀ of the SVD of W, and W_res the rest.

    All three train; add γ·``penalty()`` to the loss to hold the vectors near orthonormal. W_res = W − scale·up₀·
    diag(gate₀)·down₀ is formed as ``PiSSA`` does it: W stays what it was, and the op's rank is 2r. Needs a dense base
    weight, else raises TypeError.

    Cao and Song, "SORSA: singular values and orthonormal regularized singular vectors adaptation of large language
    models", 2024.
    """

    def __init__(self, base_layer: nn.Linear, r: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(base_layer, r, *args, **kwargs)
        check_dense_weight("SORSA", "base_layer", base_layer)
        for ending, trained in (("", True), ("_start", False)):
            setattr(self, f"up{ending}", self.parameter(self.out_features, r, trained=trained))
            setattr(self, f"gate{ending}", self.parameter(r, trained=trained))
            setattr(self, f"down{ending}", self.parameter(r, self.in_features, trained=trained))

    @torch.no_grad()
    def reset_parameters(self, base_layer: nn.Linear) -> None:
        u, s, vh = truncated_svd("SORSA", base_layer.weight, self.r)
        for up, gate, down in ((self.up, self.gate, self.down), (self.up_start, self.gate_start, self.down_start)):
            up.copy_(u)
            gate.copy_(s)
            down.copy_(vh)

    def factors(self) -> Factors:
        down = torch.cat([self.down, self.down_start])
        up = torch.cat([self.up, self.up_start], dim=1)
        return Factors(down, up, gate=torch.cat([self.gate, -self.gate_start]), scale=self.scale)

    def penalty(self) -> Tensor:
        """‖upᵀ·up − I‖_F + ‖down·downᵀ − I‖_F"""
        # The root of zero has no gradient; where both are orthonormal the penalty's is zero.
        squares = torch.stack([soft_orthogonality(self.up), soft_orthogonality(self.down)])
        return squares.clamp(min=torch.finfo(squares.dtype).tiny).sqrt().sum()
