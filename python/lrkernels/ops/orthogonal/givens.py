"""givens_apply: fake, gradient, autocast and vmap of the op, and its Python twin."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from lrkernels import reference
from lrkernels.ops import _lowrank_checks as checks
from lrkernels.ops import _registration as registration
from lrkernels.ops.orthogonal._checks import check_givens

_lrk = torch.ops.lrk


class _GivensApply(registration.ReverseModeFunction):
    """Saves the result when the angles train, else nothing but the angles: rotations are undone, not remembered."""

    op_name = "givens_apply"

    @staticmethod
    def forward(x, angles, strides, inverse):
        return _lrk.givens_apply(x, angles, strides, inverse=inverse)

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, angles, strides, inverse = inputs
        ctx.strides, ctx.inverse = list(strides), inverse
        ctx.save_for_backward(angles, output if ctx.needs_input_grad[1] else None)

    @staticmethod
    def backward(ctx, grad):
        angles, y = ctx.saved_tensors
        if y is None:
            return givens_apply(grad, angles, ctx.strides, inverse=not ctx.inverse), None, None, None
        dx, dangles = _givens_backward(grad, y, angles, strides=ctx.strides, inverse=ctx.inverse)
        return dx if ctx.needs_input_grad[0] else None, dangles, None, None


def _apply(x, angles, strides, *, inverse=False):
    return registration.apply_function(_GivensApply, x, angles, list(strides), inverse)


def givens_apply(x: Tensor, angles: Tensor, strides: Sequence[int], *, inverse: bool = False) -> Tensor:
    """Rounds of plane (Givens) rotations of the features, all in one pass over x.

    Round t rotates the pairs (i, j = i + strides[t]), for the i with i // strides[t] even and j < features:

        y_i = cos θ·x_i − sin θ·x_j,    y_j = sin θ·x_i + cos θ·x_j    with θ = angles[t, p] of the p-th such i

    log₂(features) rounds of strides 1, 2, 4, … are a butterfly: every output depends on every input, at
    features·log₂(features) / 2 angles. The product is orthogonal whatever the angles are.

    Args:
        x: ``[..., features]``, any leading dimensions and strides; float32, float64, bfloat16 or float16. Half x is
            rotated in float32 and rounded once.
        angles: ``[rounds, features // 2]`` in radians, x's dtype, or float32 next to a half x. Entries past a round's
            last pair are not used; their gradient is zero.
        strides: one int a round, at least 1. A round whose stride is ``features`` or more has no pairs.
        inverse: undo the rounds, last first: ``givens_apply(givens_apply(x, …), …, inverse=True)`` is x.

    Returns:
        ``[..., features]``, contiguous, x's dtype.

    Differentiable in x and angles, any number of times; forward-mode differentiation raises. The backward pass walks
    the result back, so nothing is kept per round, and x is not kept at all: y is when the angles train, and must then
    not be changed in place. From a half y this costs the gradient of angles one rounding of y, whatever the number of
    rounds.

    Raises:
        TypeError, ValueError: an argument of the wrong type, dtype, shape, device or value, before any work.

    Source: Ma et al., "Parameter Efficient Quasi-Orthogonal Fine-Tuning via Givens Rotation", ICML 2024.
    """
    return _call((x, angles, strides), {"inverse": inverse})


def _fake_givens(x, angles, strides, *, inverse=False):
    check_givens("givens_apply", x, angles, strides, inverse)
    return x.new_empty(x.shape)


def _fake_givens_backward(grad, y, angles, *, strides, inverse):
    return grad.new_empty(grad.shape), angles.new_empty(angles.shape)


def _fold(batch, in_dims, args, scalars):
    """Under vmap, a batch of x is one more leading dimension of one call."""
    x, angles, strides = args
    if in_dims[1] is not None:
        return None
    return (x.movedim(in_dims[0], 0), angles, strides), 0


# --- Registration ---

registration.register_fake("givens_apply", _fake_givens)
registration.register_fallback("givens_apply", reference.givens_apply, partial(check_givens, "givens_apply"))
registration.register_fake("_givens_backward", _fake_givens_backward)
registration.register_fallback(
    "_givens_backward", reference.givens_backward, partial(checks.check_backward, "givens_backward")
)

registration.register_autograd("givens_apply", _apply)
_givens_backward = registration.register_second_derivative("_givens_backward", reference.givens_backward)

registration.register_autocast("givens_apply", activations=(0,), factors=(1,))
registration.register_no_autocast("_givens_backward")

_call = registration.twin("givens_apply", _apply, check_givens)

registration.register_vmap("givens_apply", _fold)
registration.register_vmap("_givens_backward")
