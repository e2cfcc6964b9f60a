"""householder_apply: fake, gradient, autocast and vmap of the op, and its Python twin."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from lrkernels import reference
from lrkernels.ops import _lowrank_checks as checks
from lrkernels.ops import _registration as registration
from lrkernels.ops.orthogonal._checks import check_householder

_lrk = torch.ops.lrk

# Up to here the gradient starts from x, which other layers of the same input keep too; of more it walks the result
# back. One product takes 128 reflections of at least 256 rows, 64 of at least 64 rows and 32 of fewer: the gradient of
# several products from x computes the result again.
_REFLECTIONS_OF_ONE_PRODUCT = 128


class _HouseholderApply(registration.ReverseModeFunction):
    """Saves x, or of many reflections the result, when the vectors train; else nothing but the vectors."""

    op_name = "householder_apply"

    @staticmethod
    def forward(x, vectors, transpose):
        return _lrk.householder_apply(x, vectors, transpose=transpose)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, vectors, ctx.transpose = inputs
        ctx.of_result = vectors.shape[0] > _REFLECTIONS_OF_ONE_PRODUCT
        ctx.save_for_backward(vectors, (output if ctx.of_result else x) if ctx.needs_input_grad[1] else None)

    @staticmethod
    def backward(ctx, grad):
        vectors, rows = ctx.saved_tensors
        if rows is None:
            return householder_apply(grad, vectors, transpose=not ctx.transpose), None, None
        dx, dvectors = _householder_backward(grad, rows, vectors, transpose=ctx.transpose, of_result=ctx.of_result)
        return dx if ctx.needs_input_grad[0] else None, dvectors, None


def _apply(x, vectors, *, transpose=False):
    return registration.apply_function(_HouseholderApply, x, vectors, transpose)


def householder_apply(x: Tensor, vectors: Tensor, *, transpose: bool = False) -> Tensor:
    """x times a product of Householder reflections.

        y = x·H₁·H₂···H_k,    H = I − 2·vᵀv / ‖v‖² of a row v of vectors, and H = I for v = 0

    The product is orthogonal whatever the vectors are, and reaches every orthogonal matrix with ``features`` of them.
    Up to 128 reflections (64 where x has fewer than 256 rows, 32 below 64) are applied at once, as a product of that
    rank, instead of one after the other: as exactly, of vectors that lie close together (all entries positive, say)
    too, for what is ill conditioned is computed in double.
    Products that torch's GEMM computes may differ in the last bits with the number of threads.

    Args:
        x: ``[..., features]``, any leading dimensions and strides; float32, float64, bfloat16 or float16. Half x is
            reflected in float32 and rounded once.
        vectors: ``[reflections, features]``, of any length, x's dtype, or float32 next to a half x. The lengths of the
            vectors do not matter, however large or small they are.
        transpose: y = x·H_k···H₂·H₁, the inverse.

    Returns:
        ``[..., features]``, contiguous, x's dtype.

    Differentiable in x and vectors, any number of times; forward-mode differentiation raises. The gradient of a zero
    vector is zero. Nothing is kept per reflection: for the gradient of up to 128 vectors x is kept, and of more the
    result, which must then not be changed in place (of a half y that costs one rounding of it); for a gradient of x
    alone neither. Second derivatives are the reference's: exact, and a reflection at a time.

    On the CPU, of more than 128 vectors, columns where a panel of them is zero are passed over: the vectors of a QR
    decomposition take half the time of others.

    Raises:
        TypeError, ValueError: an argument of the wrong type, dtype, shape or device, before any work.

    Source: Bischof and Van Loan, "The WY Representation for Products of Householder Matrices", SIAM J. Sci. Stat.
    Comput. 8, 1987; Yuan et al., "Bridging The Gap between Low-rank and Orthogonal Adaptation via Householder
    Reflection Adaptation", NeurIPS 2024.
    """
    return _call((x, vectors), {"transpose": transpose})


def _fake_householder(x, vectors, *, transpose=False):
    check_householder("householder_apply", x, vectors, transpose)
    return x.new_empty(x.shape)


def _fake_householder_backward(grad, rows, vectors, *, transpose, of_result):
    return grad.new_empty(grad.shape), vectors.new_empty(vectors.shape)


def _fold(batch, in_dims, args, scalars):
    """Under vmap, a batch of x is one more leading dimension of one call."""
    x, vectors = args
    if in_dims[1] is not None:
        return None
    return (x.movedim(in_dims[0], 0), vectors), 0


# --- Registration ---

registration.register_fake("householder_apply", _fake_householder)
registration.register_fallback(
    "householder_apply", reference.householder_apply, partial(check_householder, "householder_apply")
)
registration.register_fake("_householder_backward", _fake_householder_backward)
registration.register_fallback(
    "_householder_backward", reference.householder_backward, partial(checks.check_backward, "householder_backward")
)

registration.register_autograd("householder_apply", _apply)
_householder_backward = registration.register_second_derivative("_householder_backward", reference.householder_backward)

registration.register_autocast("householder_apply", activations=(0,), factors=(1,))
registration.register_no_autocast("_householder_backward")

_call = registration.twin("householder_apply", _apply, check_householder)

registration.register_vmap("householder_apply", _fold)
registration.register_vmap("_householder_backward")
