"""EigenLoRAx: the principal subspaces of adapters that exist already, and coefficients within them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lrkernels.adapters.lora_xs import LoRAXS
from lrkernels.ops import orthonormalize


@torch.no_grad()
def eigenlorax_(adapter: LoRAXS, known: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Give an adapter the leading singular vectors of updates that others have learned for its layer.

        layer = LoRAXS.wrap(linear, r=16)
        coefficients = eigenlorax_(layer.adapter, [(a.down, a.scale * a.up) for a in trained])
        layer.adapter.core.copy_(coefficients[3])  # begin as the fourth of them; without it, as the base

    ``known`` has (down ``[rᵢ, in]``, up ``[out, rᵢ]``) of each, their product the update. ``up`` becomes the leading r
    left singular vectors of all updates side by side, ``down`` the right ones of all below one another; core, the r²
    coefficients that train, becomes zero. Where the updates span less than r dimensions the rest of the basis is random
    and orthogonal to it, the paper's augmentation. Returns the coefficients ``[known, r, r]`` whose updates are nearest
    to the known ones, and equal where the basis holds them. Only ratios of the updates' sizes matter.

    Raises ValueError without known updates, for one of another shape, or an adapter whose alpha is 0.

    Kaushik et al., "EigenLoRAx: recycling adapters to find principal subspaces for resource-efficient adaptation and
    inference", 2025.
    """
    if not known:
        raise ValueError("eigenlorax_: there are no known updates")
    if adapter.scale == 0.0:
        raise ValueError("eigenlorax_: the adapter has alpha 0, expected another: coefficients are divided by it")
    dtype = torch.promote_types(adapter.up.dtype, torch.float32)
    downs, ups = ([pair[i].to(adapter.up.device, dtype) for pair in known] for i in (0, 1))
    for down, up in zip(downs, ups, strict=True):
        if up.shape != (adapter.out_features, len(down)) or down.shape[1] != adapter.in_features:
            raise ValueError(
                f"eigenlorax_: an update has factors of shapes {tuple(down.shape)} and {tuple(up.shape)}, expected "
                f"(r, {adapter.in_features}) and ({adapter.out_features}, r)"
            )
    # up·down = (up·Rᵀ)·Qᵀ of downᵀ = Q·R: what stands before an orthonormal factor has the update's column space.
    columns = torch.cat([up @ orthonormalize(down.mT)[1].mT for down, up in zip(downs, ups, strict=True)], dim=1)
    rows = torch.cat([down.mT @ orthonormalize(up)[1].mT for down, up in zip(downs, ups, strict=True)], dim=1)
    adapter.up.copy_(_leading(columns, adapter.r))
    adapter.down.copy_(_leading(rows, adapter.r).mT)
    adapter.core.zero_()
    left, right = adapter.up.to(dtype).mT, adapter.down.to(dtype).mT
    return torch.stack([(left @ up) @ (down @ right) for down, up in zip(downs, ups, strict=True)]) / adapter.scale


def _leading(vectors: Tensor, r: int) -> Tensor:
    """The leading r left singular vectors, completed at random where there are fewer that count."""
    u, s, _ = torch.linalg.svd(vectors, full_matrices=False)
    u = u[:, s > max(vectors.shape) * torch.finfo(s.dtype).eps * s[:1]][:, :r]
    more = torch.randn(len(u), r - u.shape[1], dtype=u.dtype, device=u.device)
    return orthonormalize(torch.cat([u, more], dim=1))[0]
