"""PSOFT: a rotation of the weight's principal subspace."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lrkernels.adapters.low_rank_adapter import Factors, LowRankAdapter
from lrkernels.nn.psoft_linear import check_psoft, principal_rotation, psoft_core
from lrkernels.nn.rotations.rotation import gram_error
from lrkernels.nn.truncated_svd import truncated_svd


class PSOFT(LowRankAdapter):
    """W + up·(diag(out_scale)·R·diag(in_scale) − I)·down; up = U_r·S_r and down = V_rᵀ of the SVD of W stay constant.

    ``lrkernels.nn.PSOFTLinear`` is the same layer as one module, and says more. Dropout acts on the update's input.
    """

    def __init__(
        self,
        base_layer: nn.Linear,
        r: int,
        dropout: float = 0.0,
        *,
        method: str = "exact",
        terms: int = 5,
        **placement: Any,
    ) -> None:
        super().__init__(base_layer, r, None, dropout, **placement)
        check_psoft("PSOFT", base_layer, r, method, terms)
        self.method, self.terms = method, terms
        self.skew = self.parameter(r * (r - 1) // 2)
        self.out_scale = self.parameter(r)
        self.in_scale = self.parameter(r)
        self.up = self.parameter(self.out_features, r, trained=False)
        self.down = self.parameter(r, self.in_features, trained=False)

    @torch.no_grad()
    def reset_parameters(self, base_layer: nn.Linear) -> None:
        u, s, vh = truncated_svd("PSOFT", base_layer.weight, self.r)
        self.up.copy_(u * s)
        self.down.copy_(vh)
        nn.init.zeros_(self.skew)
        nn.init.ones_(self.out_scale)
        nn.init.ones_(self.in_scale)

    def rotation(self) -> Tensor:
        """R ``[r, r]``, in float32 or wider."""
        return principal_rotation(self.skew, self.r, self.method, self.terms)

    @torch.no_grad()
    def orthogonality_error(self) -> Tensor:
        """‖RᵀR − I‖₂, a float64 scalar; the scales are no part of R."""
        return gram_error(self.rotation())

    def factors(self) -> Factors:
        return Factors(self.down, self.up, core=psoft_core(self.rotation(), self.out_scale, self.in_scale))
