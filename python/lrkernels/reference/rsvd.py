"""Orthonormal bases and truncated singular value decompositions in plain torch.

Halko, Martinsson and Tropp, "Finding structure with randomness", SIAM Review 2011: algorithm 4.4 (randomised subspace
iteration) and 5.1. What is half is computed in float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lrkernels.reference.sketch import sketch_matrix


def _wide(a: Tensor) -> Tensor:
    return a.to(torch.promote_types(a.dtype, torch.float32))


def basis_size(rank: int, oversample: int, shape: torch.Size) -> int:
    """Columns of a range finder's basis: rank + oversample, at most what the matrix has; −1 is max(10, rank / 2)."""
    return min(rank + (max(10, rank // 2) if oversample < 0 else oversample), *shape[-2:])


def orthonormalize(a: Tensor) -> tuple[Tensor, Tensor]:
    """a = Q·R with QᵀQ = I, R upper triangular and no entry of its diagonal negative.

    Q has orthonormal columns whatever the rank of a is: Householder's reflections complete them.
    """
    q, r = torch.linalg.qr(_wide(a))
    signs = torch.where(r.diagonal(dim1=-2, dim2=-1) < 0, -1, 1).to(r.dtype)
    return (q * signs.unsqueeze(-2)).contiguous(), (r * signs.unsqueeze(-1)).contiguous()


def range_finder(
    a: Tensor, rank: int, q0: Tensor | None = None, *, oversample: int = -1, power_iters: int = 1, seed: int = 0
) -> Tensor:
    """Q = orth(A·orth(Aᵀ·orth(⋯ A·X))), X a sparse sign matrix, its first columns replaced by orth(Aᵀ·q0) if given.

    Of a matrix with up to 64 columns, or of less than twice as many as X has, X is Gaussian: sparse signs lose a
    dimension now and then, which counts where there are few to spare.
    """
    wide = _wide(a)
    size = basis_size(rank, oversample, a.shape)
    kind = "gaussian" if a.shape[-1] <= 64 or 2 * size > a.shape[-1] else "sparse_sign"
    start = sketch_matrix(a.shape[-1], size, kind=kind, seed=seed, device=a.device).to(wide.dtype)
    start = start.expand(*a.shape[:-2], *start.shape)
    if q0 is not None:
        warm = orthonormalize(wide.mT @ q0.to(wide.dtype))[0]
        start = torch.cat([warm, start[..., : size - warm.shape[-1]]], -1)
    q = orthonormalize(wide @ start)[0]
    for _ in range(power_iters):
        q = orthonormalize(wide @ orthonormalize(wide.mT @ q)[0])[0]
    return q


def signs_of_columns(u: Tensor) -> Tensor:
    """±1 for each column, that of its entry of largest magnitude, of equal ones the first."""
    if u.shape[-2] == 0:
        return u.new_ones(*u.shape[:-2], 1, u.shape[-1])
    magnitude = u.abs()
    rows = torch.arange(u.shape[-2], device=u.device).unsqueeze(-1)
    first = torch.where(magnitude == magnitude.amax(-2, keepdim=True), rows, u.shape[-2] - 1).amin(-2, keepdim=True)
    return torch.where(u.gather(-2, first) < 0, -1, 1).to(u.dtype)


def rsvd(
    a: Tensor,
    rank: int,
    q0: Tensor | None = None,
    *,
    oversample: int = -1,
    power_iters: int = 1,
    seed: int = 0,
    check: str = "auto",
) -> tuple[Tensor, Tensor, Tensor]:
    """A ≈ U·diag(S)·Vᵀ of rank ``rank`` from the SVD of QᵀA, Q of :func:`range_finder`; V is ``[n, rank]``."""
    wide = _wide(a)
    finite = wide.isfinite().flatten(-2).all(-1)[..., None, None]
    if check == "raise" or (check == "auto" and a.device.type == "cpu"):
        if not finite.all():
            raise ValueError("rsvd: a holds NaN or Inf, expected finite numbers (check='nan' passes them on as NaN)")
    wide = torch.where(finite, wide, 0)
    q = range_finder(wide, rank, q0, oversample=oversample, power_iters=power_iters, seed=seed)
    u, s, vh = torch.linalg.svd(q.mT @ wide, full_matrices=False)
    u, s, v = q @ u[..., :rank], s[..., :rank], vh[..., :rank, :].mT
    signs = signs_of_columns(u)
    u, s, v = (torch.where(finite.squeeze(-1) if t is s else finite, t, torch.nan) for t in (u, s, v))
    return (u * signs).contiguous(), s.contiguous(), (v * signs).contiguous()


def low_rank_approx(a: Tensor, rank: int, *, seed: int = 0) -> Tensor:
    """A_k = U·diag(S)·Vᵀ of :func:`rsvd`."""
    u, s, v = rsvd(a, rank, seed=seed)
    return ((u * s.unsqueeze(-2)) @ v.mT).to(a.dtype).contiguous()
