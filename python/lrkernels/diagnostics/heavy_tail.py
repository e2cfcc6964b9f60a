"""The exponent of the tail of a weight's spectrum."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lrkernels.ops.sketch._checks import check_matrices


@torch.no_grad()
def heavy_tail_exponent(weight: Tensor, fixed_aspect: bool = True, share: float = 0.5) -> float:
    """α of a density p(λ) ~ λ^−α fitted to the largest ``share`` of the eigenvalues λ of WᵀW, by Hill's estimator.

        α = 1 + k / Σ_{i ≤ k} log(λ_i / λ_{k+1})

    Trained layers have smaller ones than random matrices. The eigenvalues of a long matrix lie close together whatever
    it has learned, so that α grows with the aspect ratio alone. With ``fixed_aspect`` they are therefore those of
    square blocks side by side (the last overlaps its neighbour where they do not fit), taken together: FARMS.

    ``weight [out, in]``. Infinite where the eigenvalues of the tail are all equal, as those of an orthogonal matrix.
    Raises ValueError where the tail has fewer than two eigenvalues or none that are positive.

    Hill, "A simple general approach to inference about the tail of a distribution", 1975; Hu et al., "Eigenspectrum
    analysis of neural networks without aspect ratio bias", ICML 2025; Martin and Mahoney, 2021.
    """
    check_matrices("heavy_tail_exponent", weight, "weight")
    if weight.dim() != 2:
        raise ValueError(f"heavy_tail_exponent: weight has shape {tuple(weight.shape)}, expected (out, in)")
    if not 0.0 < share < 1.0:
        raise ValueError(f"heavy_tail_exponent: share is {share}, expected one in (0, 1)")
    w = weight.to(torch.promote_types(weight.dtype, torch.float32))
    w = w if w.shape[0] <= w.shape[1] else w.mT
    eigenvalues = torch.linalg.svdvals(_square_blocks(w) if fixed_aspect else w).double().square()
    eigenvalues = eigenvalues.flatten().sort(descending=True).values
    k = int(share * len(eigenvalues))
    if k < 2 or not eigenvalues[k] > 0:
        raise ValueError(
            f"heavy_tail_exponent: a tail of {k} eigenvalues above {float(eigenvalues[min(k, len(eigenvalues) - 1)]):g}"
            " fits nothing, expected at least 2 above a positive one"
        )
    logarithms = torch.log(eigenvalues[:k] / eigenvalues[k]).sum().item()
    return 1.0 + k / logarithms if logarithms > 0.0 else math.inf


def _square_blocks(w: Tensor) -> Tensor:
    """``[blocks, rows, rows]`` of a wide matrix."""
    rows, cols = w.shape
    starts = [*range(0, cols - rows, rows), cols - rows]
    return torch.stack([w[:, start : start + rows] for start in starts])
