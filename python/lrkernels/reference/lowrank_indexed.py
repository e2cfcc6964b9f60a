"""An adapter for every row, in plain torch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lrkernels.reference.lowrank import NEEDS_X, _rows


def _own_rows(x: Tensor, index: Tensor, adapter: int) -> tuple[Tensor, Tensor]:
    """[rows, 1], which rows are the adapter's, and x with zeros elsewhere: what another adapter's row holds, NaN
    included, stays out of every sum."""
    mine = (index.reshape(-1) == adapter).unsqueeze(-1)
    return mine, torch.where(mine, _rows(x), 0)


def _counted(factor: Tensor, ranks: Tensor | None, adapter: int, dim: int) -> Tensor:
    """One adapter's factor with zeros, whatever it holds, from its rank on; ``dim`` runs over the rank."""
    if ranks is None:
        return factor
    counted = torch.arange(factor.shape[dim], device=factor.device) < ranks[adapter]
    return torch.where(counted.unsqueeze(1 - dim), factor, 0)


def _project_indexed(x: Tensor, downs: Tensor, index: Tensor, ranks: Tensor | None) -> Tensor:
    """p_t = x_t·downs[index[t]]ᵀ, [rows, rank]."""
    dtype = torch.promote_types(x.dtype, downs.dtype)
    p = x.new_zeros(index.numel(), downs.shape[1], dtype=dtype)
    for i in range(downs.shape[0]):
        mine, own = _own_rows(x, index, i)
        p = torch.where(mine, own.to(dtype) @ _counted(downs[i], ranks, i, 0).to(dtype).mT, p)
    return p


def _out_of_range(index: Tensor, adapters: int) -> Tensor:
    return ((index < -1) | (index >= adapters)).reshape(-1, 1)


def _row_scales(scales: Tensor, index: Tensor) -> Tensor:
    """[rows, 1]; of rows without an adapter, zero."""
    rows = index.reshape(-1, 1)
    valid = (rows >= 0) & (rows < scales.shape[0])
    if scales.shape[0] == 0:
        return torch.zeros_like(rows, dtype=scales.dtype)
    return torch.where(valid, scales[rows.clamp(0, scales.shape[0] - 1)], 0)


def lowrank_linear_indexed_saving(
    x, downs, ups, index, ranks=None, scales=None, weight=None, bias=None, base=None
) -> tuple[Tensor, Tensor]:
    """lowrank_linear_indexed and the unscaled product x_t·downs[i]ᵀ, which its gradients need."""
    adapters, rank, _ = downs.shape
    p = _project_indexed(x, downs, index, ranks)
    dtype = torch.promote_types(p.dtype, ups.dtype)
    s = p if scales is None else p * _row_scales(scales, index).to(p.dtype)
    y = x.new_zeros(index.numel(), ups.shape[1], dtype=dtype)
    for i in range(adapters):
        mine, own = _own_rows(s, index, i)
        y = torch.where(mine, own.to(dtype) @ _counted(ups[i], ranks, i, 1).to(dtype).mT, y)
    y = y.reshape(*x.shape[:-1], ups.shape[1])
    if weight is not None:
        base = F.linear(x, weight)
    if base is not None:
        y = base + y
    if bias is not None:
        y = y + bias
    wrong = _out_of_range(index, adapters).reshape(*x.shape[:-1], 1)
    y = torch.where(wrong, torch.nan, y.to(x.dtype))
    return y.contiguous(), p.reshape(*x.shape[:-1], rank)


def lowrank_linear_indexed(
    x: Tensor,
    downs: Tensor,
    ups: Tensor,
    index: Tensor,
    ranks: Tensor | None = None,
    scales: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    base: Tensor | None = None,
) -> Tensor:
    """y_t = (x_t·weightᵀ or base_t) + scales[i]·(x_t·downs[i]ᵀ)·ups[i]ᵀ + bias with i = index[t]; NaN where i is no
    adapter and not -1."""
    return lowrank_linear_indexed_saving(x, downs, ups, index, ranks, scales, weight, bias, base)[0]


# Bit i of `needs` asks for the i-th gradient of (x, downs, ups, scales).
NEEDS_DOWNS, NEEDS_UPS, NEEDS_SCALES = 2, 4, 8


def lowrank_linear_indexed_backward(
    grad, downs, ups, index, ranks=None, scales=None, x=None, projected=None, weight=None, *, needs
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of x, downs, ups and scales, adapter by adapter.

    With p_t = x_t·downs[i]ᵀ and y_t = … + scales[i]·p_t·ups[i]ᵀ: dups[i] = scales[i]·Σ dy_tᵀ·p_t, ds_t = dy_t·ups[i],
    dscales[i] = Σ ds_t·p_t, dp_t = scales[i]·ds_t, ddowns[i] = Σ dp_tᵀ·x_t, dx_t = dy_t·weight + dp_t·downs[i].
    """
    dtype = torch.promote_types(torch.promote_types(grad.dtype, downs.dtype), ups.dtype)
    dx, ddowns, dups = grad.new_empty(0), downs.new_empty(0), ups.new_empty(0)
    dscales = (scales if scales is not None else ups).new_empty(0)
    branch = grad.new_zeros(index.numel(), downs.shape[2], dtype=dtype)
    down_grads, up_grads, scale_grads = [], [], []
    for i in range(downs.shape[0]):
        mine, dy = _own_rows(grad, index, i)
        dy, scale = dy.to(dtype), 1.0 if scales is None else scales[i].to(dtype)
        down, up = _counted(downs[i], ranks, i, 0).to(dtype), _counted(ups[i], ranks, i, 1).to(dtype)
        ds = dy @ up
        if needs & (NEEDS_UPS | NEEDS_SCALES):
            p = _own_rows(projected, index, i)[1].to(dtype)
            up_grads.append(_counted(scale * (dy.mT @ p), ranks, i, 1))
            scale_grads.append((ds * p).sum())
        if needs & NEEDS_DOWNS:
            own = _own_rows(x, index, i)[1].to(dtype)
            down_grads.append(_counted(scale * (ds.mT @ own), ranks, i, 0))
        branch = torch.where(mine, (scale * ds) @ down, branch)
    if needs & NEEDS_X:
        if weight is not None:
            branch = branch + (_rows(grad) @ weight).to(dtype)
        branch = torch.where(_out_of_range(index, downs.shape[0]), torch.nan, branch)
        dx = branch.to(grad.dtype).reshape(*grad.shape[:-1], downs.shape[2])
    if needs & NEEDS_DOWNS:
        ddowns = torch.stack(down_grads).to(downs.dtype) if down_grads else torch.zeros_like(downs)
    if needs & NEEDS_UPS:
        dups = torch.stack(up_grads).to(ups.dtype) if up_grads else torch.zeros_like(ups)
    if needs & NEEDS_SCALES:
        dscales = torch.stack(scale_grads).to(scales.dtype) if scale_grads else torch.zeros_like(scales)
    return dx, ddowns, dups, dscales


def lowrank_project_indexed_backward(grad, downs, index, ranks, x, *, needs) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of x and downs of p_t = x_t·downs[i]ᵀ; needs as above."""
    dp, dtype = _rows(grad), grad.dtype
    dx = grad.new_zeros(index.numel(), downs.shape[2])
    down_grads = []
    for i in range(downs.shape[0]):
        mine, own = _own_rows(dp, index, i)
        dx = torch.where(mine, own @ _counted(downs[i], ranks, i, 0).to(dtype), dx)
        if needs & NEEDS_DOWNS:
            down_grads.append(_counted(own.mT @ _own_rows(x, index, i)[1].to(dtype), ranks, i, 0))
    ddowns = None
    if needs & NEEDS_DOWNS:
        ddowns = torch.stack(down_grads).to(downs.dtype) if down_grads else torch.zeros_like(downs)
    return dx.reshape(*grad.shape[:-1], downs.shape[2]) if needs & NEEDS_X else None, ddowns
