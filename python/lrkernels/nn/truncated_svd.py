"""The leading singular triplets of a layer's weight, which several initialisations start from."""

from __future__ import annotations

import torch
from torch import Tensor


def truncated_svd(name: str, weight: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """U ``[out, rank]``, S ``[rank]`` and Vᵀ ``[rank, in]`` of ``weight [out, in]``, in float32 or wider.

    ``name`` stands in the ValueError that a weight with NaN or Inf raises. A weight on the meta device gives meta
    tensors.
    """
    wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
    if not wide.is_meta and not torch.isfinite(wide).all():
        raise ValueError(f"{name}: linear.weight holds NaN or Inf, which has no SVD")
    u, s, vh = torch.linalg.svd(wide, full_matrices=False)
    return u[:, :rank], s[:rank], vh[:rank]
