"""Estimates of a matrix's norm and of an approximation's error, put together from torch's products."""

from __future__ import annotations

import torch
from torch import Tensor

from lrkernels import reference
from lrkernels.ops import _lowrank_checks as checks
from lrkernels.ops.sketch._checks import _at_least, _int, check_matrices

# Columns of A that rsvd_error holds in float64 at a time.
_COLUMNS = 1024


def power_iteration(
    weight: Tensor, v0: Tensor | None = None, *, iters: int = 1, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """σ = ‖W·v‖, never above ‖W‖₂ beyond rounding, and the vectors u and v it is of, by power iteration.

        u ← W·v/‖W·v‖, v ← Wᵀ·u/‖Wᵀ·u‖, iters times;    σ = uᵀ·W·v

    Args:
        weight: ``[..., rows, cols]``, any leading dimensions and strides; float32, float64, bfloat16 or float16.
        v0: ``[..., cols]``, the v of the call before: with weights that move little from step to step, one iteration
            a step follows ‖W‖₂ (spectral normalisation). None starts from random signs.
        iters: products with Wᵀ; there is one with W more.
        seed: of those signs.

    Returns:
        σ ``[...]``, u ``[..., rows]``, v ``[..., cols]``; float32, or float64 of float64. u and v have length 1 (also
        where W is zero) and no gradient. σ is differentiable any number of times with u and v constant, dσ = uᵀ·dW·v,
        which is the gradient of ‖W‖₂ once they have converged.

    The error falls as (σ₂/σ₁)^(4·iters). For a bound from above, which a certificate needs, take
    :func:`spectral_norm_bound`. Plain torch on every device, two reads of W an iteration; nothing waits for the device.
    NaN and Inf are passed on.

    Raises:
        TypeError, ValueError: an argument of the wrong type, dtype, shape or value, before any work.

    Source: Miyato et al., "Spectral normalization for generative adversarial networks", ICLR 2018.
    """
    op = "power_iteration"
    check_matrices(op, weight, "weight")
    checks._tensor(op, "v0", v0, optional=True)
    for name, value in (("iters", iters), ("seed", seed)):
        _int(op, name, value)
    _at_least(op, "iters", iters, 0)
    if v0 is not None:
        expected = (*weight.shape[:-2], weight.shape[-1])
        if tuple(v0.shape) != expected:
            raise ValueError(f"{op}: v0 has shape {tuple(v0.shape)}, expected {expected} as weight is {_shape(weight)}")
        if v0.device != weight.device:
            raise ValueError(f"{op}: v0 is on {v0.device}, but weight is on {weight.device}")
    with torch.autocast(weight.device.type, enabled=False):
        wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
        with torch.no_grad():
            sigma, u, v = reference.power_iteration(wide.detach(), v0, iters=iters, seed=seed)
        if torch.is_grad_enabled() and wide.requires_grad:
            sigma = (u.unsqueeze(-2) @ wide @ v.unsqueeze(-1)).flatten(-2).squeeze(-1)
        return sigma, u, v


@torch.no_grad()
def rsvd_error(a: Tensor, q: Tensor) -> Tensor:
    """‖A − Q·QᵀA‖_F, the error that is left after an approximation in the range of Q.

    Args:
        a: ``[..., rows, cols]``, any leading dimensions and strides; float32, float64, bfloat16 or float16.
        q: ``[..., rows, size]``, the basis of :func:`range_finder`, or U of :func:`rsvd`, for which it is
            ‖A − U·S·Vᵀ‖_F.

    Returns:
        ``[...]`` in float64, without a gradient, right to a few 1e-8 of ‖A‖_F.

    With C = QᵀA it is the root of ‖A‖² − 2‖C‖² + ⟨C, QᵀQ·C⟩, one pass over A in float64: ‖A‖² − ‖C‖² where Q is exactly
    orthonormal, and that Q is so to float32's rounding only would show at 1e-3 of ‖A‖_F. Plain torch on every device.

    Raises:
        TypeError, ValueError: an argument of the wrong type, dtype or shape, before any work.

    Source: Halko, Martinsson and Tropp, "Finding structure with randomness", SIAM Review 2011, section 4.3.
    """
    op = "rsvd_error"
    check_matrices(op, a)
    check_matrices(op, q, "q")
    if q.shape[:-1] != a.shape[:-1]:
        raise ValueError(f"{op}: q has shape {_shape(q)}, expected a's but for the columns because a is {_shape(a)}")
    if q.device != a.device:
        raise ValueError(f"{op}: q is on {q.device}, but a is on {a.device}")
    q = q.double()
    gram = q.mT @ q
    squared = a.new_zeros(a.shape[:-2], dtype=torch.float64)
    for columns in a.split(_COLUMNS, dim=-1):
        columns = columns.double()
        c = q.mT @ columns
        squared = squared + columns.square().sum((-2, -1)) + (c * (gram @ c - 2.0 * c)).sum((-2, -1))
    return squared.clamp(min=0.0).sqrt()


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)
