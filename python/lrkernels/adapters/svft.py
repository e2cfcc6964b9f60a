"""SVFT and SVFit: train a band between the weight's singular vectors, or its singular values alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lrkernels.adapters.low_rank_adapter import Factors, LowRankAdapter
from lrkernels.nn.arguments import check_dense_weight
from lrkernels.nn.truncated_svd import truncated_svd


class SVFT(LowRankAdapter):
    """W + scale·U_r·M·V_rᵀ with U_r and V_r of the weight's SVD frozen, and M a trained band, which starts at zero.

    ``bands [2·band + 1, r]`` holds the diagonals of M, ``bands[band + k, i]`` = M[i, i + k]; entries beyond the matrix
    are unused. With ``band=0`` M is diagonal, and r changes of the leading singular values train: SVFit. With r =
    min(in, out) it is SVFT, whose U and V are whole. ‖ΔW‖_F = scale·‖M‖_F.

    Needs a dense base weight, else raises TypeError; ValueError for a ``band`` outside [0, r).

    Lingam et al., "SVFT: parameter-efficient fine-tuning with singular vectors", NeurIPS 2024; Sun et al., "SVFit:
    parameter-efficient fine-tuning of large pre-trained models using singular values", 2024.
    """

    def __init__(self, base_layer: nn.Linear, r: int, *args: Any, band: int = 0, **kwargs: Any) -> None:
        super().__init__(base_layer, r, *args, **kwargs)
        check_dense_weight("SVFT", "base_layer", base_layer)
        if isinstance(band, bool) or not isinstance(band, int):
            raise TypeError(f"SVFT: band is {band!r}, expected an int")
        if not 0 <= band < r:
            raise ValueError(f"SVFT: band is {band}, expected 0 to {r - 1} because r is {r}")
        self.band = band
        self.down = self.parameter(r, self.in_features, trained=False)
        self.up = self.parameter(self.out_features, r, trained=False)
        self.bands = self.parameter(2 * band + 1, r)

    @torch.no_grad()
    def reset_parameters(self, base_layer: nn.Linear) -> None:
        u, _, vh = truncated_svd("SVFT", base_layer.weight, self.r)
        self.down.copy_(vh)
        self.up.copy_(u)
        nn.init.zeros_(self.bands)

    def matrix(self) -> Tensor:
        """M ``[r, r]``."""
        diagonals = []
        for offset, values in zip(range(-self.band, self.band + 1), self.bands):
            kept = values[max(0, -offset) : self.r - max(0, offset)]  # rows i with 0 <= i + offset < r
            diagonals.append(torch.diag_embed(kept, offset))
        return torch.stack(diagonals).sum(0)

    def factors(self) -> Factors:
        if self.band == 0:
            return Factors(self.down, self.up, gate=self.bands[0], scale=self.scale)
        return Factors(self.down, self.up, core=self.matrix(), scale=self.scale)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, band={self.band}"
