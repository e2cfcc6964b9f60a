"""sparse24_linear: fake, gradient, autocast and vmap of the op, and its Python twin."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from lrkernels import reference
from lrkernels.ops import _lowrank_checks
from lrkernels.ops import _registration as registration
from lrkernels.ops.sparse24._checks import check_linear

_lrk = torch.ops.lrk


class _Sparse24Linear(registration.ReverseModeFunction):
    """Saves x when anything but x itself trains; never a dense weight."""

    op_name = "sparse24_linear"

    @staticmethod
    def forward(x, values, bitmask, packed, down, up, bias, scale, transposable):
        return _lrk.sparse24_linear(x, values, bitmask, packed, down, up, bias, scale=scale, transposable=transposable)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, values, bitmask, packed, down, up, bias, ctx.scale, ctx.transposable = inputs
        ctx.bias_dtype = None if bias is None else bias.dtype
        x_wanted = any(ctx.needs_input_grad[i] for i in (1, 4, 5))
        ctx.save_for_backward(values, bitmask, packed, down, up, x if x_wanted else None)

    @staticmethod
    def backward(ctx, grad):
        values, bitmask, packed, down, up, x = ctx.saved_tensors
        wanted = tuple(ctx.needs_input_grad[i] for i in (0, 1, 4, 5))
        dx = dvalues = ddown = dup = None
        if any(wanted):
            grads = sparse24_linear_backward(
                grad, values, bitmask, packed, down, up, x,
                scale=ctx.scale, transposable=ctx.transposable, needs=sum(need << i for i, need in enumerate(wanted)),
            )  # fmt: skip
            dx, dvalues, ddown, dup = (g if need else None for g, need in zip(grads, wanted, strict=True))
        dbias = rows_of(grad).sum(0, dtype=ctx.bias_dtype) if ctx.needs_input_grad[6] else None
        return dx, dvalues, None, None, ddown, dup, dbias, None, None


def rows_of(tensor: Tensor) -> Tensor:
    return tensor.unsqueeze(0).flatten(0, -2)


def _apply(x, values, bitmask, packed=None, down=None, up=None, bias=None, *, scale=1.0, transposable=False):
    return registration.apply_function(_Sparse24Linear, x, values, bitmask, packed, down, up, bias, scale, transposable)


def sparse24_linear(
    x: Tensor,
    values: Tensor,
    bitmask: Tensor,
    packed: Tensor | None = None,
    down: Tensor | None = None,
    up: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    scale: float = 1.0,
    transposable: bool = False,
) -> Tensor:
    """A 2:4 sparse layer with a low-rank correction, in one op:

        y = x·W₂₄ᵀ + scale·(x·downᵀ)·upᵀ + bias

    W₂₄ never becomes dense as a whole: a few rows of x read the packing once, many take it in strips.

    Args:
        x: ``[..., in]``, any leading dimensions and strides; float32, float64, bfloat16 or float16. Half products are
            summed in float32 and rounded once.
        values: ``[out, in / 2]``, x's dtype, and
        bitmask: uint8 ``[out, ⌈in / 8⌉]``, as :func:`sparse24_compress` makes them. What they say is trusted: a
            malformed bitmask gives wrong numbers (:func:`sparse24_pack` and :func:`sparse24_decompress` refuse one).
        packed: of :func:`sparse24_pack`, from the same values and bitmask; without it products of few rows are slower.
            Where it is there, it is what a product of few rows reads: while values train, pass none, or pack again
            after every step. One of another shape or dtype is refused, other values are not noticed. Autocast leaves
            it out where it casts values.
        down: ``[rank, in]`` (LoRA's A), x's dtype, or float32 next to a half x.
        up: ``[out, rank]`` (LoRA's B), likewise; both or neither.
        bias: ``[out]``, likewise.
        scale: of the low-rank term.
        transposable: columns of W₂₄ hold two of every four too, so that the gradient of x can be a 2:4 product where
            the device has one; as it was said to :func:`sparse24_pack`.

    Returns:
        ``[..., out]``, contiguous, x's dtype. An x that is not finite may reach every output, as with a dense W that
        has zeros where nothing is kept; a product from the packing does not look at those.

    Differentiable in x, values (on the support alone: a value that is not kept has no gradient), down, up and bias, any
    number of times; forward-mode differentiation raises.

    Raises:
        TypeError, ValueError: an argument of the wrong type, dtype, shape or device, before any work.
    """
    return _call((x, values, bitmask, packed, down, up, bias), {"scale": scale, "transposable": transposable})


def _fake(x, values, bitmask, packed=None, down=None, up=None, bias=None, *, scale=1.0, transposable=False):
    check_linear("sparse24_linear", x, values, bitmask, packed, down, up, bias, scale, transposable)
    return x.new_empty(*x.shape[:-1], values.shape[0])


def _fake_backward(grad, values, bitmask, packed=None, down=None, up=None, x=None, *, scale, transposable, needs):
    nothing = [t.new_empty(0) if t is not None else grad.new_empty(0) for t in (grad, values, down, up)]
    shapes = (
        (*grad.shape[:-1], 2 * values.shape[1]),
        values.shape,
        *((t.shape if t is not None else ()) for t in (down, up)),
    )
    return tuple(
        empty.new_empty(shape) if needs & (1 << i) else empty
        for i, (empty, shape) in enumerate(zip(nothing, shapes, strict=True))
    )


def fold_rows(batch, in_dims, args, scalars):
    """Under vmap, a batch of x is one more leading dimension of one call."""
    if any(dim is not None for dim in in_dims[1:]):
        return None
    return (args[0].movedim(in_dims[0], 0), *args[1:]), 0


# --- Registration ---

registration.register_fake("sparse24_linear", _fake)
registration.register_fallback("sparse24_linear", reference.sparse24_linear, partial(check_linear, "sparse24_linear"))
registration.register_fake("_sparse24_linear_backward", _fake_backward)
registration.register_fallback(
    "_sparse24_linear_backward",
    reference.sparse24_linear_backward,
    partial(_lowrank_checks.check_backward, "sparse24_linear_backward"),
)

registration.register_autograd("sparse24_linear", _apply)
sparse24_linear_backward = registration.register_second_derivative(
    "_sparse24_linear_backward", reference.sparse24_linear_backward
)

registration.register_autocast("sparse24_linear", activations=(0, 1), factors=(4, 5, 6), caches={3: 1})
registration.register_no_autocast("_sparse24_linear_backward")

_call = registration.twin("sparse24_linear", _apply, check_linear)

registration.register_vmap("sparse24_linear", fold_rows, caches={3: 1})
registration.register_vmap("_sparse24_linear_backward", caches={3: 1})
