"""PSOFT: a rotation of the weight's principal subspace."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lrkernels.nn.arguments import check_dense_weight, check_dtype, check_linear, check_rank
from lrkernels.nn.base_layer import BaseCall, factor_dtype, factors_beside
from lrkernels.nn.mergeable_linear import MergeableLinear
from lrkernels.nn.rotations.oft import check_method
from lrkernels.nn.rotations.rotation import gram_error, wide
from lrkernels.nn.truncated_svd import truncated_svd
from lrkernels.ops import cayley, lowrank_merge


def check_psoft(name: str, base_layer: nn.Linear, r: int, method: str, terms: int) -> None:
    check_dense_weight(name, "base_layer", base_layer)
    check_rank(name, "r", r, base_layer.in_features, base_layer.out_features)
    if r < 2:
        raise ValueError(f"{name}: r is {r}, expected at least 2: a 1 x 1 rotation is the number 1")
    check_method(name, method, terms)


def principal_rotation(skew: Tensor, r: int, method: str, terms: int) -> Tensor:
    """R ``[r, r]`` of a skew-symmetric matrix's upper triangle ``[r·(r − 1) / 2]``."""
    return cayley(wide(skew)[None], r, method=method, terms=terms)[0]


def psoft_core(rotation: Tensor, out_scale: Tensor, in_scale: Tensor) -> Tensor:
    """diag(out_scale)·R·diag(in_scale) − I: what the layer adds to its weight, between up and down."""
    identity = torch.eye(len(rotation), dtype=rotation.dtype, device=rotation.device)
    return out_scale[:, None] * rotation * in_scale - identity


class PSOFTLinear(MergeableLinear):
    """A frozen linear layer whose weight is rotated within its r leading right singular vectors (PSOFT).

        W = W_res + up·diag(out_scale)·R·diag(in_scale)·down,    up·down = (U_r·S_r)·V_rᵀ, the weight's principal part

    ``skew [r·(r − 1) / 2]`` is the row-major upper triangle of Q in R = (I + Q)(I − Q)⁻¹ and starts at 0, ``out_scale
    [r]`` and ``in_scale [r]`` (the paper's α and β) start at 1; these r·(r + 3) / 2 numbers train. ``up [out, r]`` and
    ``down [r, in]`` are buffers. It runs as W + up·(diag(out_scale)·R·diag(in_scale) − I)·down, one low-rank op, so the
    base weight stays what it was. With both scales at 1, the rows of its principal part keep their lengths and angles.
    It is no rotation of x, so there is no ``inverse(x)``; ``unmerge()`` undoes ``merge()`` as everywhere.

    ``method="neumann"`` takes the paper's series of ``terms`` terms for R; see ``OFTLinear``. Parameters are float32
    over a half-precision base, else in its dtype; ``dtype`` overrides. Merging is ``MergeableLinear``'s.

        layer = PSOFTLinear(nn.Linear(4096, 4096), r=64)

    Raises TypeError when ``base_layer`` is no ``nn.Linear`` or its weight is not dense, ValueError for r outside
    [2, min(in, out)] or a weight with NaN or Inf.

    Wu et al., "Efficient orthogonal fine-tuning with principal subspace adaptation", ICLR 2026.
    """

    adapter_parameters = ("skew", "out_scale", "in_scale")

    def __init__(
        self,
        base_layer: nn.Linear,
        r: int,
        *,
        method: str = "exact",
        terms: int = 5,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_linear("PSOFTLinear", "base_layer", base_layer)
        check_psoft("PSOFTLinear", base_layer, r, method, terms)
        check_dtype("PSOFTLinear", dtype)
        super().__init__(base_layer)
        self.r, self.method, self.terms = r, method, terms
        weight = base_layer.weight
        made_with = {
            "device": weight.device if device is None else device,
            "dtype": factor_dtype(weight) if dtype is None else dtype,
        }
        self.skew = nn.Parameter(torch.empty(r * (r - 1) // 2, **made_with))
        self.out_scale = nn.Parameter(torch.empty(r, **made_with))
        self.in_scale = nn.Parameter(torch.empty(r, **made_with))
        self.register_buffer("up", torch.empty((self.out_features, r), **made_with))
        self.register_buffer("down", torch.empty((r, self.in_features), **made_with))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Take the base weight's principal part anew, unrotated."""
        u, s, vh = truncated_svd("PSOFTLinear", self.base_layer.weight, self.r)
        self.up.copy_(u * s)
        self.down.copy_(vh)
        nn.init.zeros_(self.skew)
        nn.init.ones_(self.out_scale)
        nn.init.ones_(self.in_scale)

    def rotation(self) -> Tensor:
        """R ``[r, r]``, in float32 or wider."""
        return principal_rotation(self.skew, self.r, self.method, self.terms)

    def core(self) -> Tensor:
        return psoft_core(self.rotation(), self.out_scale, self.in_scale)

    @torch.no_grad()
    def orthogonality_error(self) -> Tensor:
        """‖RᵀR − I‖₂, a float64 scalar; the scales are no part of R."""
        return gram_error(self.rotation())

    def _updated(self, base: BaseCall) -> Tensor:
        return base.plus(base.x, self.down, self.up, self.core())

    def _merged_with(self, weight: Tensor) -> Tensor:
        down, up, core = factors_beside(weight.dtype, self.down, self.up, self.core())
        return lowrank_merge(weight, down, up, core)

    def _clear_update(self) -> None:
        with torch.inference_mode(any(p.is_inference() for p in self.parameters())):
            self.reset_parameters()

    def extra_repr(self) -> str:
        sizes = f"in_features={self.in_features}, out_features={self.out_features}, r={self.r}"
        return f"{sizes}, method={self.method!r}, merged={self.merged}"
