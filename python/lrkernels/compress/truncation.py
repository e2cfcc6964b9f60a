"""TRP: training that keeps returning to low-rank weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


@torch.no_grad()
def truncate_(layers: Mapping[str, nn.Linear], energy: float = 0.98) -> dict[str, int]:
    """Replace every weight, in place, by its best approximation that keeps a share ``energy`` of ‖W‖_F².

        for step, batch in enumerate(data):
            loss(batch).backward()
            add_nuclear_subgradient_(layers, 3e-4)
            optimizer.step(), optimizer.zero_grad()
            if step % 20 == 0:
                ranks = truncate_(layers)

    The least rank that does; the weight stays dense and trains on, so that ranks that matter come back. The error is
    the tail of the spectrum. At the end, ``compress(model, ranks)`` loses nothing; it leaves a layer as it is where
    factors of its rank would have more numbers than the weight. Returns the ranks.

    Xu et al., "Trained rank pruning for efficient deep neural networks", 2019; "TRP", IJCAI 2020.
    """
    if not 0.0 < energy <= 1.0:
        raise ValueError(f"truncate_: energy is {energy}, expected a share in (0, 1]")
    ranks = {}
    for name, layer in layers.items():
        u, s, vh = _decomposed(layer.weight)
        kept = s.double().square().cumsum(0)
        rank = min(int((kept < energy * kept[-1]).sum()) + 1, len(s))
        ranks[name] = rank
        layer.weight.copy_((u[:, :rank] * s[:rank]) @ vh[:rank])
    return ranks


@torch.no_grad()
def add_nuclear_subgradient_(layers: Mapping[str, nn.Linear], strength: float) -> None:
    """Add ``strength``·U_r·V_rᵀ to the gradients: a subgradient of the nuclear norm Σσ, which makes spectra fall.

    r is the numerical rank. A step along it takes the same from every singular value, as the norm's proximal step
    (singular value thresholding) does. A weight without a gradient gets one.
    """
    for layer in layers.values():
        u, s, vh = _decomposed(layer.weight)
        rank = int((s > max(layer.weight.shape) * torch.finfo(s.dtype).eps * s[0]).sum())
        subgradient = (strength * u[:, :rank] @ vh[:rank]).to(layer.weight.dtype)
        if layer.weight.grad is None:
            layer.weight.grad = subgradient
        else:
            layer.weight.grad.add_(subgradient)


def _decomposed(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The whole decomposition, by LAPACK: both ask for all of the spectrum."""
    return torch.linalg.svd(weight.to(torch.promote_types(weight.dtype, torch.float32)), full_matrices=False)
