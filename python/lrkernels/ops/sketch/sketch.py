"""sketch and unsketch: fakes, gradients, vmap of the ops, and their Python twins."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from lrkernels import reference
from lrkernels.ops import _registration as registration
from lrkernels.ops.sketch._checks import check_sketch, check_unsketch

_lrk = torch.ops.lrk


class _Sketch(registration.ReverseModeFunction):
    op_name = "sketch"

    @staticmethod
    def forward(a, size, columns, kind, seed, dim):
        return _lrk.sketch(a, size, columns, kind=kind, seed=seed, dim=dim)

    @staticmethod
    def setup_context(ctx, inputs, output):
        a, _, columns, *ctx.scalars = inputs
        ctx.full_size = a.shape[ctx.scalars[-1]]
        ctx.save_for_backward(columns)

    @staticmethod
    def backward(ctx, grad):
        (columns,) = ctx.saved_tensors
        kind, seed, dim = ctx.scalars
        return unsketch(grad, ctx.full_size, columns, kind=kind, seed=seed, dim=dim), None, None, None, None, None


class _Unsketch(registration.ReverseModeFunction):
    op_name = "unsketch"

    @staticmethod
    def forward(b, full_size, columns, kind, seed, dim):
        return _lrk.unsketch(b, full_size, columns, kind=kind, seed=seed, dim=dim)

    @staticmethod
    def setup_context(ctx, inputs, output):
        b, _, columns, *ctx.scalars = inputs
        ctx.size = b.shape[ctx.scalars[-1]]
        ctx.save_for_backward(columns)

    @staticmethod
    def backward(ctx, grad):
        (columns,) = ctx.saved_tensors
        kind, seed, dim = ctx.scalars
        return sketch(grad, ctx.size, columns, kind=kind, seed=seed, dim=dim), None, None, None, None, None


def _apply_sketch(a, size, columns=None, *, kind="rademacher", seed=0, dim=-1):
    return registration.apply_function(_Sketch, a, size, columns, kind, seed, dim)


def _apply_unsketch(b, full_size, columns=None, *, kind="rademacher", seed=0, dim=-1):
    return registration.apply_function(_Unsketch, b, full_size, columns, kind, seed, dim)


def sketch(
    a: Tensor, size: int, columns: Tensor | None = None, *, kind: str = "rademacher", seed: int = 0, dim: int = -1
) -> Tensor:
    """a·Ω along a dimension, with a matrix Ω ``[features, size]`` that is made on the fly from a seed.

    Args:
        a: ``[..., features, ...]``, any strides; float32, float64, bfloat16 or float16. Sums are float32 or wider.
        size: how many columns Ω has: of ``"dct"`` at most ``features``, of ``"hadamard"`` the next power of two.
        columns: only of ``"dct"``: int64 ``[size]``, the frequencies; without it they are 0, 1, … (see
            :func:`lrkernels.reference.dct_columns` for those with the most energy).
        kind: ``"rademacher"``, ±1/√size; ``"sparse_sign"``, eight entries ±1/√8 in every row; ``"gaussian"``;
            ``"hadamard"``, random columns of a Walsh–Hadamard matrix with random signs; ``"dct"``, columns of the
            orthonormal cosine transform. Which random bit makes which entry is part of the interface
            (``lrkernels.reference.sketch``): the same on every device, of Gaussians to rounding.
        seed: any int of 64 bits.
        dim: the dimension that is sketched.

    Returns:
        a's shape with ``size`` at ``dim``, contiguous, a's dtype. For the random kinds E‖a·Ω‖² = ‖a‖².

    Differentiable any number of times; its gradient is :func:`unsketch`. Forward-mode differentiation raises. Autocast
    does not change the dtype.

    Raises:
        TypeError, ValueError: an argument of the wrong type, dtype, shape or value, before any work.

    Source: Halko, Martinsson and Tropp, "Finding structure with randomness", SIAM Review 2011.
    """
    return _call_sketch((a, size, columns), {"kind": kind, "seed": seed, "dim": dim})


def unsketch(
    b: Tensor, full_size: int, columns: Tensor | None = None, *, kind: str = "rademacher", seed: int = 0, dim: int = -1
) -> Tensor:
    """b·Ωᵀ along a dimension, the adjoint of :func:`sketch` with the same arguments: ⟨sketch(a), b⟩ = ⟨a, unsketch(b)⟩.

    For the random kinds E[unsketch(sketch(a))] = a over the seeds; of ``"dct"`` it is the projection of a on the
    frequencies in ``columns``. ``full_size`` is the number of features that it gives back; everything else as there.
    """
    return _call_unsketch((b, full_size, columns), {"kind": kind, "seed": seed, "dim": dim})


def _resized(a: Tensor, size: int, dim: int) -> Tensor:
    shape = list(a.shape)
    shape[dim] = size
    return a.new_empty(shape)


def _fake_sketch(a, size, columns=None, *, kind="rademacher", seed=0, dim=-1):
    check_sketch("sketch", a, size, columns, kind, seed, dim)
    return _resized(a, size, dim)


def _fake_unsketch(b, full_size, columns=None, *, kind="rademacher", seed=0, dim=-1):
    check_unsketch("unsketch", b, full_size, columns, kind, seed, dim)
    return _resized(b, full_size, dim)


def _fold(batch, in_dims, args, scalars):
    """The batch goes to the side from which ``dim`` does not count."""
    a, *others = args  # torch leaves out arguments that have their defaults
    if in_dims[0] is None or any(dim is not None for dim in in_dims[1:]):
        return None
    last = scalars.get("dim", -1) >= 0
    return (a.movedim(in_dims[0], -1 if last else 0), *others), a.dim() - 1 if last else 0


# --- Registration ---

for _name, _fake, _plain, _check, _apply in (
    ("sketch", _fake_sketch, reference.sketch, check_sketch, _apply_sketch),
    ("unsketch", _fake_unsketch, reference.unsketch, check_unsketch, _apply_unsketch),
):
    registration.register_fake(_name, _fake)
    registration.register_fallback(_name, _plain, partial(_check, _name))
    registration.register_autograd(_name, _apply)
    registration.register_no_autocast(_name)
    registration.register_vmap(_name, _fold)

_call_sketch = registration.twin("sketch", _apply_sketch, check_sketch)
_call_unsketch = registration.twin("unsketch", _apply_unsketch, check_unsketch)
