"""sparse24_mask: fake, autocast and vmap of the op, and its Python twin. It has no gradient."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from lrkernels import reference
from lrkernels.ops import _registration as registration
from lrkernels.ops.sparse24._checks import check_mask

_lrk = torch.ops.lrk


def sparse24_mask(weight: Tensor, *, transposable: bool = False, method: str = "exact") -> Tensor:
    """Which entries of ``weight`` a 2:4 matrix keeps: of every four of a row the two of the largest magnitude.

    A transposable mask keeps two of every four in columns too, so that the transposed matrix is 2:4 as well and the
    gradient of the input is a 2:4 product. Of the 90 such patterns of a 4 × 4 tile ``"exact"`` takes the one with the
    largest sum of magnitudes; of Gaussian weights it keeps 0.7025 of Σ|w|, where rows alone keep 0.745.

    Args:
        weight: ``[out, in]``, any strides; float32, float64, bfloat16 or float16; in, and for a transposable mask out,
            a multiple of 4.
        transposable: two of four in columns too.
        method: of transposable masks ``"exact"``; ``"greedy"``, the largest entries of a tile in turn where row and
            column have room, which keeps 0.692 and in one tile of six fewer than eight; or ``"double_pruned"``, the
            mask of rows pruned once more along columns, which keeps 0.655 (both may keep fewer than two of four, and
            are then refused by :func:`sparse24_compress`).

    Returns:
        bool ``[out, in]``, the same on every device. Of equal magnitudes the first is kept; NaN and Inf count as larger
        than any number.

    Raises:
        TypeError, ValueError: an argument of the wrong type, dtype, shape or value, before any work.

    Source: Hu et al., "Accelerating Transformer Pre-training with 2:4 Sparsity", ICML 2024 (transposable masks);
    Hubara et al., "Accelerated Sparse Neural Training", NeurIPS 2021 (greedy); Mozaffari et al., "SLoPe", ICLR 2025
    (double-pruned).
    """
    return _call((weight,), {"transposable": transposable, "method": method})


def _apply(weight, *, transposable=False, method="exact"):
    return _lrk.sparse24_mask(weight.detach(), transposable=transposable, method=method)


def _fake_mask(weight, *, transposable=False, method="exact"):
    check_mask("sparse24_mask", weight, transposable, method)
    return weight.new_empty(weight.shape, dtype=torch.bool)


# --- Registration ---

registration.register_fake("sparse24_mask", _fake_mask)
registration.register_fallback("sparse24_mask", reference.sparse24_mask, partial(check_mask, "sparse24_mask"))
registration.register_autograd("sparse24_mask", _apply)
registration.register_no_autocast("sparse24_mask")
_call = registration.twin("sparse24_mask", _apply, check_mask)
registration.register_vmap("sparse24_mask")
