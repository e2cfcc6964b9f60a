"""Gradients of truncated decompositions, which stay finite where singular values coincide or vanish.

With X = UᵀdA·V over a full singular basis and d = σᵢ² − σⱼ², column i of the bases moves along column j by

    (UᵀdU)ⱼᵢ = (σᵢXⱼᵢ + σⱼXᵢⱼ)/d,   (VᵀdV)ⱼᵢ = (σᵢXᵢⱼ + σⱼXⱼᵢ)/d,   dσᵢ = Xᵢᵢ.

Of the columns j > k that a truncation dropped all that is needed comes from the residual E = A − U·diag(S)·Vᵀ, whose
singular triplets they are: σᵢ²/d = 1 + σⱼ²/d, so that what lies in the null space of E needs no vectors.
"""

from __future__ import annotations

import torch
from torch import Tensor


def _without(basis: Tensor, x: Tensor) -> Tensor:
    """(I − Q·Qᵀ)·x."""
    return x - basis @ (basis.mT @ x)


def _rounding(a: Tensor, dtype: torch.dtype) -> float:
    """What rounding leaves of a singular value that is zero, or of a gap that is closed, relative to σ₁."""
    return torch.finfo(dtype).eps * torch.sym_max(a.shape[-2], a.shape[-1])


def _first_or_one(s: Tensor) -> Tensor:
    """σ₁ as [..., 1, 1]; 1 where it is zero or there is none."""
    first = s[..., :1].unsqueeze(-1) if s.shape[-1] else s.new_ones(*s.shape[:-1], 1, 1)
    return torch.where(first == 0, 1, first)


def _towards_dropped(a: Tensor, u: Tensor, s: Tensor, v: Tensor, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """σᵢ·Σⱼ uⱼ·(σᵢ·uⱼᵀleftᵢ + σⱼ·vⱼᵀrightᵢ)/d over the dropped j, and the same with the sides exchanged."""
    left, right = _without(u, left), _without(v, right)
    ue, se, veh = torch.linalg.svd(a - (u * s.unsqueeze(-2)) @ v.mT, full_matrices=False)
    scale = _first_or_one(s)  # the ratios below do not change, and no square leaves the range of floats
    i, j = s.unsqueeze(-2) / scale, se.unsqueeze(-1) / scale
    gap = i.square() - j.square()
    open_gap = gap > 2 * _rounding(a, s.dtype) * i.square()
    gap = torch.where(open_gap, gap, torch.inf)  # no gradient across a gap that is closed
    from_left, from_right = ue.mT @ left, veh @ right
    same, other = j.square() / gap, i * j / gap
    return (
        left + ue @ (same * from_left + other * from_right),
        right + veh.mT @ (same * from_right + other * from_left),
    )


def low_rank_approx_backward(grad: Tensor, a: Tensor, u: Tensor, s: Tensor, v: Tensor) -> Tensor:
    """dA of A_k = U·diag(S)·Vᵀ: U·UᵀGV·Vᵀ, and what couples the kept space to the dropped one.

    Feppon and Lermusiaux, "A geometric approach to dynamical model order reduction", SIMAX 2018.
    """
    wide = s.dtype
    g = grad.to(wide)
    gv, gu = g @ v, g.mT @ u
    left, right = _towards_dropped(a.to(wide), u, s, v, gv, gu)
    return ((u @ (u.mT @ gv) + left) @ v.mT + u @ right.mT).to(a.dtype)


def rsvd_backward(
    grad_u: Tensor | None,
    grad_s: Tensor | None,
    grad_v: Tensor | None,
    a: Tensor,
    u: Tensor,
    s: Tensor,
    v: Tensor,
    *,
    broadening: float = 0.0,
) -> Tensor:
    """dA of U, S and V. Through S it is U·diag(dS)·Vᵀ.

    Through U and V, 1/d within the kept columns becomes d/(d² + η²), η = ``broadening``·σ₁²: finite, and exact for
    functions of the projectors U·Uᵀ and V·Vᵀ, from which that part cancels.
    """
    core = torch.zeros_like(u.mT @ u) if grad_s is None else torch.diag_embed(grad_s.to(s.dtype))
    if grad_u is None and grad_v is None:
        return (u @ core @ v.mT).to(a.dtype)
    grad_u = torch.zeros_like(u) if grad_u is None else grad_u
    grad_v = torch.zeros_like(v) if grad_v is None else grad_v
    scale = _first_or_one(s)
    i, j = s.unsqueeze(-2) / scale, s.unsqueeze(-1) / scale
    gap = (i - j) * (i + j)
    square = gap.square() + broadening**2
    inverse = gap / torch.where(square == 0, torch.inf, square) / scale
    along_u, along_v = u.mT @ grad_u, v.mT @ grad_v
    core = core + inverse * (along_u * i + j * along_v) + (inverse * (j * along_u + along_v * i)).mT
    left, right = _towards_dropped(a.to(s.dtype), u, s, v, grad_u, grad_v)
    reciprocal = 1 / torch.where(i > torch.finfo(s.dtype).eps, i * scale, torch.inf)
    return ((u @ core + left * reciprocal) @ v.mT + u @ (right * reciprocal).mT).to(a.dtype)


def _above_diagonal_mirrored(m: Tensor) -> Tensor:
    """The symmetric matrix with the lower triangle of m."""
    return m.tril() + m.tril(-1).mT


def orthonormalize_backward(grad_q: Tensor | None, grad_r: Tensor | None, a: Tensor, q: Tensor, r: Tensor) -> Tensor:
    """dA of A = Q·R: (dQ + Q·sym(M))·R⁻ᵀ with M = R·dRᵀ − dQᵀ·Q; of a wide A = [X Y], through QᵀY too.

    Where a column of A depends on those before, Q is not differentiable there: that column gets no gradient.
    """
    size = q.shape[-1]
    grad_q = torch.zeros_like(q) if grad_q is None else grad_q.to(q.dtype)
    grad_r = torch.zeros_like(r) if grad_r is None else grad_r.to(q.dtype)
    rest = a[..., size:].to(q.dtype)
    grad_rest = q @ grad_r[..., size:]
    grad_q = grad_q + rest @ grad_r[..., size:].mT
    r1, grad_r1 = r[..., :size], grad_r[..., :size]
    m = _above_diagonal_mirrored(r1 @ grad_r1.mT - grad_q.mT @ q)
    diagonal = r1.diagonal(dim1=-2, dim2=-1)
    lengths = torch.linalg.vector_norm(r1, dim=-2)  # of a's columns
    dependent = diagonal.abs() <= torch.finfo(q.dtype).eps * 2 * max(size, 16) * lengths
    solvable = r1 + torch.diag_embed(torch.where(dependent, torch.inf, 0))
    x = torch.linalg.solve_triangular(solvable.mT, grad_q + q @ m, upper=False, left=False)
    return torch.cat([x, grad_rest], -1).to(a.dtype)


def polar_exact_backward(grad: Tensor, a: Tensor) -> Tensor:
    """dA of Q = U·Vᵀ: U·((G' − G'ᵀ)ᵢⱼ/(σᵢ + σⱼ))·Vᵀ with G' = UᵀGV, and of what lies outside of U or V, G·V·S⁻¹·Vᵀ.

    Where σᵢ is zero up to rounding, Q is not differentiable along it: no gradient goes there.
    """
    wide = torch.promote_types(a.dtype, torch.float32)
    u, s, vh = torch.linalg.svd(a.to(wide), full_matrices=False)
    g, v = grad.to(wide), vh.mT
    s = torch.where(s > _rounding(a, wide) * s[..., :1], s, 0)
    inner, sums = u.mT @ g @ v, s.unsqueeze(-1) + s.unsqueeze(-2)
    turned = (inner - inner.mT) / torch.where(sums == 0, torch.inf, sums)
    scaled = 1 / torch.where(s == 0, torch.inf, s).unsqueeze(-2)
    out = u @ turned @ vh
    if a.shape[-2] > a.shape[-1]:
        out = out + _without(u, g @ v) * scaled @ vh
    elif a.shape[-2] < a.shape[-1]:
        out = out + u @ (_without(v, g.mT @ u) * scaled).mT
    return out.to(a.dtype)
