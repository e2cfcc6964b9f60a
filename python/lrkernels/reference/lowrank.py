"""The low-rank family in plain torch."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_MASK32 = 0xFFFFFFFF


def _multiply_32x32(constant: int, value: Tensor) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of constant * value, in int64 without overflow of the high part."""
    low = constant * (value & 0xFFFF)
    high = constant * (value >> 16)
    return ((high + (low >> 16)) >> 16) & _MASK32, (low + ((high & 0xFFFF) << 16)) & _MASK32


def philox_bits(seed: Tensor, count: int) -> Tensor:
    """32 random bits (as int64) for each element index below ``count``: Philox4x32-10 keyed by ``seed``.

    Element i takes word i % 4 of counter i // 4, as csrc/device/philox.h does.
    Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
    """
    block = torch.arange((count + 3) // 4, device=seed.device, dtype=torch.int64)
    c0, c1 = block & _MASK32, block >> 32
    c2, c3 = torch.zeros_like(block), torch.zeros_like(block)
    key0, key1 = seed & _MASK32, (seed >> 32) & _MASK32
    for _ in range(10):
        high0, low0 = _multiply_32x32(0xD2511F53, c0)
        high1, low1 = _multiply_32x32(0xCD9E8D57, c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ key0, low1, high0 ^ c3 ^ key1, low0
        key0, key1 = (key0 + 0x9E3779B9) & _MASK32, (key1 + 0xBB67AE85) & _MASK32
    return torch.stack((c0, c1, c2, c3), dim=-1).flatten()[:count]


def dropout_mask(shape: torch.Size, dtype: torch.dtype, seed: Tensor, dropout: float) -> Tensor:
    """The multiplier of every element: 0 with probability ``dropout``, else 1 / (1 - dropout).

    It depends on the row-major logical index of the element alone, never on strides.
    """
    if dropout >= 1.0:
        return torch.zeros(shape, dtype=dtype, device=seed.device)
    threshold = min(int(dropout * 4294967296.0), _MASK32)
    keep = philox_bits(seed, shape.numel()) >= threshold
    return (keep.to(dtype) / (1.0 - dropout)).view(shape)


def _drop(x: Tensor, seed: Tensor | None, dropout: float) -> Tensor:
    """mask ⊙ x, where a dropped NaN or Inf is dropped too."""
    if dropout == 0.0:
        return x
    mask = dropout_mask(x.shape, x.dtype, seed, dropout)
    return torch.where(mask > 0, x * mask, torch.zeros_like(x))


def _project(x: Tensor, down: Tensor, gate: Tensor | None, seed: Tensor | None, dropout: float) -> Tensor:
    """gate * (drop(x) downᵀ) in the wider of x's and the factors' dtypes."""
    dtype = torch.promote_types(x.dtype, down.dtype)
    s = F.linear(_drop(x.to(dtype), seed, dropout), down.to(dtype))
    return s if gate is None else s * gate.to(dtype)


def _expand(
    s: Tensor, up: Tensor, base: Tensor | None, bias: Tensor | None, scale: float, dtype: torch.dtype
) -> Tensor:
    wide = torch.promote_types(s.dtype, up.dtype)
    y = F.linear(s.to(wide), up.to(wide)) * scale
    if base is not None:
        y = base + y
    if bias is not None:
        y = y + bias
    return y.to(dtype).contiguous()


def lowrank_project(
    x: Tensor, down: Tensor, gate: Tensor | None = None, seed: Tensor | None = None, *, dropout: float = 0.0
) -> Tensor:
    """s = gate ⊙ (drop(x)·downᵀ)."""
    return _project(x, down, gate, seed, dropout).to(x.dtype).contiguous()


def lowrank_expand(
    s: Tensor, up: Tensor, base: Tensor | None = None, bias: Tensor | None = None, *, scale: float = 1.0
) -> Tensor:
    """y = base + scale·s·upᵀ + bias."""
    return _expand(s, up, base, bias, scale, s.dtype)


def lowrank_linear(
    x: Tensor,
    down: Tensor,
    up: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    core: Tensor | None = None,
    gate: Tensor | None = None,
    base: Tensor | None = None,
    seed: Tensor | None = None,
    *,
    scale: float = 1.0,
    dropout: float = 0.0,
) -> Tensor:
    """y = (x·weightᵀ or base) + scale·(gate ⊙ (drop(x)·downᵀ))·coreᵀ·upᵀ + bias."""
    s = _project(x, down, gate, seed, dropout)
    if core is not None:
        s = F.linear(s, core.to(s.dtype))
    if weight is not None:
        base = F.linear(x, weight)
    return _expand(s, up, base, bias, scale, x.dtype)


def lowrank_merge(
    weight: Tensor,
    down: Tensor,
    up: Tensor,
    core: Tensor | None = None,
    gate: Tensor | None = None,
    *,
    scale: float = 1.0,
) -> Tensor:
    """W' = weight + scale·up·core·diag(gate)·down, accumulated in float32 or wider and rounded once."""
    dtype = torch.promote_types(weight.dtype, torch.float32)
    left = up.to(dtype)
    if core is not None:
        left = left @ core.to(dtype)
    if gate is not None:
        left = left * gate.to(dtype)
    return (weight.to(dtype) + scale * (left @ down.to(dtype))).to(weight.dtype).contiguous()


def lowrank_linear_saving(
    x, down, up, weight=None, bias=None, core=None, gate=None, base=None, seed=None, *, scale=1.0, dropout=0.0
) -> tuple[Tensor, Tensor]:
    """lowrank_linear and the ungated product drop(x)·downᵀ, which its gradients need."""
    y = lowrank_linear(x, down, up, weight, bias, core, gate, base, seed, scale=scale, dropout=dropout)
    return y, _project(x, down, None, seed, dropout).contiguous()


# Bit i of `needs` asks for the i-th gradient; what is not asked for comes back as an empty tensor.
NEEDS_X, NEEDS_DOWN, NEEDS_UP, NEEDS_CORE, NEEDS_GATE = 1, 2, 4, 8, 16


def _rows(tensor: Tensor) -> Tensor:
    return tensor.reshape(math.prod(tensor.shape[:-1]), tensor.shape[-1])


def _reduce_to_gate(per_token: Tensor, gate: Tensor) -> Tensor:
    """A gate gradient of one row a token, summed over what the gate shares."""
    if gate.dim() == 1 and gate.shape[0] == 1 and per_token.shape[-1] != 1:
        per_token = per_token.sum().reshape(1)
    elif gate.dim() == 1:
        per_token = per_token.sum(0)
    return per_token.reshape(gate.shape).to(gate.dtype)


def lowrank_linear_backward(
    grad, down, up, x=None, projected=None, weight=None, core=None, gate=None, seed=None, *, scale, dropout, needs
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of x, down, up, core and gate, line by line.

    With p = drop(x)·downᵀ, g = gate ⊙ p, s = g·coreᵀ and y = … + scale·s·upᵀ: ds = scale·dy·up, dup = scale·dyᵀ·s,
    dcore = dsᵀ·g, dg = ds·core, dgate = dg ⊙ p, dp = gate ⊙ dg, ddown = dpᵀ·drop(x), dx = dy·weight + mask ⊙ (dp·down).
    """
    dtype = torch.promote_types(grad.dtype, down.dtype)
    dy = _rows(grad).to(dtype)
    dx, ddown, dup = grad.new_empty(0), down.new_empty(0), up.new_empty(0)
    dcore, dgate = (core if core is not None else up).new_empty(0), (gate if gate is not None else up).new_empty(0)
    row_gate = None
    if gate is not None:
        row_gate = (gate if gate.dim() == 1 else _rows(gate)).to(dtype)
    if needs & (NEEDS_UP | NEEDS_CORE | NEEDS_GATE):
        p = _rows(projected).to(dtype)
        g = p if row_gate is None else p * row_gate
    if needs & NEEDS_UP:
        s = g if core is None else g @ core.to(dtype).mT
        dup = (scale * (dy.mT @ s)).to(up.dtype)
    ds = scale * (dy @ up.to(dtype))
    if needs & NEEDS_CORE:
        dcore = (ds.mT @ g).to(core.dtype)
    dg = ds if core is None else ds @ core.to(dtype)
    if needs & NEEDS_GATE:
        dgate = _reduce_to_gate(dg * p, gate)
    dp = dg if row_gate is None else dg * row_gate
    if needs & NEEDS_DOWN:
        dropped = _drop(_rows(x).to(dtype), seed, dropout)
        ddown = (dp.mT @ dropped).to(down.dtype)
    if needs & NEEDS_X:
        branch = _drop(dp @ down.to(dtype), seed, dropout)
        if weight is not None:
            branch = branch + (_rows(grad) @ weight).to(dtype)
        dx = branch.to(grad.dtype).reshape(*grad.shape[:-1], down.shape[1])
    return dx, ddown, dup, dcore, dgate


def lowrank_project_backward(grad, down, x=None, gate=None, seed=None, *, dropout, needs) -> tuple[Tensor, ...]:
    """The gradients of x, down and gate of s = gate ⊙ (drop(x)·downᵀ); needs as above, without up and core."""
    dtype = torch.promote_types(grad.dtype, down.dtype)
    ds = _rows(grad).to(dtype)
    dx, ddown, dgate = grad.new_empty(0), down.new_empty(0), (gate if gate is not None else down).new_empty(0)
    dp = ds if gate is None else ds * (gate if gate.dim() == 1 else _rows(gate)).to(dtype)
    if needs & (NEEDS_DOWN | NEEDS_GATE):
        dropped = _drop(_rows(x).to(dtype), seed, dropout)
    if needs & NEEDS_X:
        dx = _drop(dp @ down.to(dtype), seed, dropout)
        dx = dx.to(grad.dtype).reshape(*grad.shape[:-1], down.shape[1])
    if needs & NEEDS_DOWN:
        ddown = (dp.mT @ dropped).to(down.dtype)
    if needs & NEEDS_GATE:
        dgate = _reduce_to_gate(ds * (dropped @ down.to(dtype).mT), gate)
    return dx, ddown, dgate


def lowrank_expand_backward(grad, up, s=None, *, scale, needs) -> tuple[Tensor, Tensor]:
    """The gradients of s (bit 0 of needs) and up (bit 1) of y = base + scale·s·upᵀ + bias."""
    dtype = torch.promote_types(grad.dtype, up.dtype)
    dy = _rows(grad).to(dtype)
    ds, dup = grad.new_empty(0), up.new_empty(0)
    if needs & 1:
        ds = (scale * (dy @ up.to(dtype))).to(grad.dtype).reshape(*grad.shape[:-1], up.shape[1])
    if needs & 2:
        dup = (scale * (dy.mT @ _rows(s).to(dtype))).to(up.dtype)
    return ds, dup
