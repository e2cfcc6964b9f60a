"""The leading singular triplets of a layer's weight, which several initialisations start from."""

from __future__ import annotations

import torch
from torch import Tensor

from lrkernels.ops import rsvd

# Where LAPACK decomposes the whole matrix instead, exactly: a matrix this small takes it a few milliseconds, and around
# a quarter of the whole rank (rank / 2 columns of oversampling come on top) rsvd was no longer the faster one every
# time. At an eighth it was, at 256 to 1024 rows on the CPU, by several times.
_SMALL = 128
_SHARE_OF_RANKS = 8
# One more than the op's default: a layer is decomposed once, and on a flat spectrum it halves what is left to gain.
_POWER_STEPS = 2


def truncated_svd(name: str, weight: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """U ``[out, rank]``, S ``[rank]`` and Vᵀ ``[rank, in]`` of ``weight [out, in]``, in float32 or wider.

    They are exact where min(out, in) is at most 128 or 8·rank above it; otherwise ``rsvd``'s, whose error is at most
    1.02 times the best (1.03 on a flat spectrum). The same weight gives the same triplets. ``name`` stands in the
    ValueError that a weight with NaN or Inf raises. A weight on the meta device gives meta tensors.
    """
    wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
    if not wide.is_meta and not torch.isfinite(wide).all():
        raise ValueError(f"{name}: linear.weight holds NaN or Inf, which has no SVD")
    if min(wide.shape) > max(_SMALL, _SHARE_OF_RANKS * rank - 1):
        u, s, v = rsvd(wide, rank, power_iters=_POWER_STEPS, check="ignore")
        return u, s, v.mT
    u, s, vh = torch.linalg.svd(wide, full_matrices=False)
    return u[:, :rank], s[:rank], vh[:rank]  # with LAPACK's signs, which those who restore PSOFT's factors expect
