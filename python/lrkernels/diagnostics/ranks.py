"""Numbers between 1 and the rank that say over how many directions a matrix is spread."""

from __future__ import annotations

import torch
from torch import Tensor

from lrkernels.nn.weighted_svd import check_moment, square_root
from lrkernels.ops import rsvd
from lrkernels.ops.sketch._checks import check_matrices

# With rsvd's defaults at rank 1 the norm of a Gaussian matrix is up to 8 % low.
_MORE_COLUMNS = 32
_POWER_STEPS = 6


@torch.no_grad()
def stable_rank(a: Tensor, exact: bool = True) -> Tensor:
    """‖A‖_F² / ‖A‖₂² of a matrix ``[..., rows, cols]``, at most its rank; ``[...]`` in float64.

    With ``exact=False`` ‖A‖₂ is that of :func:`lrkernels.rsvd` at rank 1 with 32 more columns and six power steps
    instead of LAPACK's, several times faster on a large matrix. It is from below, so the stable rank is from above: by
    up to 3 % on Gaussian matrices of up to 2048 rows, whose spectra are flat, by nothing that shows where the first
    singular value stands out. NaN of a zero matrix.

    Rudelson and Vershynin, "Sampling from large matrices", 2007.
    """
    check_matrices("stable_rank", a)
    a = _wide(a)
    if exact:
        largest = torch.linalg.matrix_norm(a, 2)
    else:
        columns = min(_MORE_COLUMNS, min(a.shape[-2:]) - 1)
        largest = rsvd(a, 1, oversample=columns, power_iters=_POWER_STEPS)[1].squeeze(-1)
    return torch.linalg.matrix_norm(a.double()).square() / largest.double().square()


@torch.no_grad()
def effective_rank(a: Tensor) -> Tensor:
    """exp(H(p)), p = S / ΣS the singular values of ``[..., rows, cols]`` as probabilities, H their entropy.

    d for d equal singular values, 1 for a single one; ``[...]`` in float64. NaN of a zero matrix.

    Roy and Vetterli, "The effective rank: a measure of effective dimensionality", EUSIPCO 2007.
    """
    check_matrices("effective_rank", a)
    return exponential_entropy(torch.linalg.svdvals(_wide(a)).double())


@torch.no_grad()
def numerical_rank(a: Tensor, tolerance: float | None = None, at_most: int | None = None) -> Tensor:
    """How many singular values of ``[..., rows, cols]`` exceed ``tolerance`` times the largest; ``[...]`` int64.

    ``tolerance`` defaults to max(rows, cols) roundings of the arithmetic, as ``torch.linalg.matrix_rank``'s does:
    float32's for half dtypes, whose matrices are taken as they are. One that was of low rank before it was rounded to
    half precision needs a tolerance of that rounding. With ``at_most`` the count ends there and
    :func:`lrkernels.rsvd` of that rank gives the singular values.
    """
    check_matrices("numerical_rank", a)
    a = _wide(a)
    if tolerance is None:
        tolerance = max(a.shape[-2:]) * torch.finfo(a.dtype).eps
    if not tolerance >= 0.0:
        raise ValueError(f"numerical_rank: tolerance is {tolerance}, expected at least 0")
    s = torch.linalg.svdvals(a) if at_most is None else rsvd(a, at_most)[1]
    return (s > tolerance * s[..., :1]).sum(-1)


@torch.no_grad()
def utilised_rank(weight: Tensor, input_moment: Tensor, tolerance: float = 1e-3) -> Tensor:
    """How much rank of ``weight [out, in]`` its inputs reach: the numerical rank of W·R, R·Rᵀ = E[x·xᵀ]; int64.

    At most the dimensions of the space that inputs lie in, as far as the moment's rounding lets ``tolerance`` tell;
    ``LowRankLinear.from_linear`` with this rank and the same moment has the same outputs, up to the singular values
    below ``tolerance`` times the largest.

    Garg, Joshi and Singh, "Revealing the utilized rank of subspaces of learning in neural networks", 2024, who project
    on the outputs too.
    """
    check_matrices("utilised_rank", weight, "weight")
    check_moment("utilised_rank", "input_moment", input_moment, weight.shape[-1], "input")
    wide = _wide(weight)
    return numerical_rank(wide @ square_root(input_moment).to(wide), tolerance)


def exponential_entropy(values: Tensor) -> Tensor:
    """exp(−Σ p·log p) along the last dimension, p = values / Σ values."""
    p = values / values.sum(-1, keepdim=True)
    return torch.special.entr(p).sum(-1).exp()


def _wide(a: Tensor) -> Tensor:
    return a.to(torch.promote_types(a.dtype, torch.float32))
