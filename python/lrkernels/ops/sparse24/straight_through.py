"""sparse24_linear_ste: the layer that trains a dense weight through a 2:4 mask."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from lrkernels import reference
from lrkernels.ops import _registration as registration
from lrkernels.ops.sparse24 import _checks as checks
from lrkernels.ops.sparse24.format import sparse24_compress
from lrkernels.ops.sparse24.linear import fold_rows, rows_of, sparse24_linear_backward

_lrk = torch.ops.lrk


class _StraightThrough(registration.ReverseModeFunction):
    op_name = "sparse24_linear_ste"

    @staticmethod
    def forward(x, weight, mask, down, up, bias, scale, transposable):
        return _lrk.sparse24_linear_ste(x, weight, mask, down, up, bias, scale=scale, transposable=transposable)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, weight, mask, down, up, bias, ctx.scale, ctx.transposable = inputs
        ctx.bias_dtype = None if bias is None else bias.dtype
        ctx.save_for_backward(weight, mask, down, up, x)

    @staticmethod
    def backward(ctx, grad):
        weight, mask, down, up, x = ctx.saved_tensors
        need_x, need_weight, _, need_down, need_up, need_bias = ctx.needs_input_grad[:6]
        dx = dweight = ddown = dup = None
        if torch.is_grad_enabled():  # to be differentiated again: straight through, as the first time
            dx, dweight, ddown, dup = reference.sparse24_linear_ste_backward(
                grad, x, weight, mask, down, up, scale=ctx.scale
            )
            dbias = rows_of(grad).sum(0, dtype=ctx.bias_dtype) if need_bias else None
            return dx, dweight, None, ddown, dup, dbias, None, None
        if need_x or need_down or need_up:
            values, bitmask = sparse24_compress(weight, mask)
            grads = sparse24_linear_backward(
                grad, values, bitmask, None, down, up, x,
                scale=ctx.scale, transposable=ctx.transposable, needs=need_x + 4 * need_down + 8 * need_up,
            )  # fmt: skip
            dx, _, ddown, dup = (
                g if need else None for g, need in zip(grads, (need_x, False, need_down, need_up), strict=True)
            )
        if need_weight:
            dweight = registration.library_gemm(rows_of(grad).mT, rows_of(x))
        dbias = rows_of(grad).sum(0, dtype=ctx.bias_dtype) if need_bias else None
        return dx, dweight, None, ddown, dup, dbias, None, None


def _apply(x, weight, mask, down=None, up=None, bias=None, *, scale=1.0, transposable=False):
    return registration.apply_function(_StraightThrough, x, weight, mask, down, up, bias, scale, transposable)


def sparse24_linear_ste(
    x: Tensor,
    weight: Tensor,
    mask: Tensor,
    down: Tensor | None = None,
    up: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    scale: float = 1.0,
    transposable: bool = False,
) -> Tensor:
    """The 2:4 layer of a dense weight that trains:

        y = x·(weight ⊙ mask)ᵀ + scale·(x·downᵀ)·upᵀ + bias,    dweight = dyᵀ·x

    The straight-through estimator: what the mask leaves out gets a gradient as if it had been there, and may come back
    when the mask is made again. The gradient of x is that of the masked weight.

    Args:
        x: ``[..., in]``, any leading dimensions and strides; float32, float64, bfloat16 or float16.
        weight: ``[out, in]``, x's dtype; in a multiple of 4.
        mask: bool ``[out, in]``, two of every four of a row (:func:`sparse24_mask`).
        down: ``[rank, in]`` (LoRA's A), x's dtype, or float32 next to a half x.
        up: ``[out, rank]`` (LoRA's B), likewise; both or neither.
        bias: ``[out]``, likewise.
        scale: of the low-rank term.
        transposable: the mask keeps two of every four in columns too, so that the gradient of x can be a 2:4 product
            where the device has one.

    Returns:
        ``[..., out]``, contiguous, x's dtype.

    Differentiable in x, weight, down, up and bias, any number of times, straight through each time; gradients that are
    to be differentiated again (``create_graph``, torch.func) are the plain expression's. Forward-mode differentiation
    raises.

    Raises:
        TypeError, ValueError: an argument of the wrong type, dtype, shape or device, or a mask that does not keep
            exactly two of every four, before any work. On CUDA the latter is known after one synchronization.

    Source: Hu et al., "Accelerating Transformer Pre-training with 2:4 Sparsity", ICML 2024; Bengio et al., "Estimating
    or Propagating Gradients Through Stochastic Neurons", 2013.
    """
    return _call((x, weight, mask, down, up, bias), {"scale": scale, "transposable": transposable})


def _fake(x, weight, mask, down=None, up=None, bias=None, *, scale=1.0, transposable=False):
    checks.check_linear_ste("sparse24_linear_ste", x, weight, mask, down, up, bias, scale, transposable)
    return x.new_empty(*x.shape[:-1], weight.shape[0])


def _plain(x, weight, mask, *args, **scalars):
    checks.check_malformed("sparse24_linear_ste", "mask", mask)
    return reference.sparse24_linear_ste(x, weight, mask, *args, **scalars)


def _check(op, x, weight, mask, *args):
    """What the twin says of a call that the op refused; under torch.func there are no values to look at."""
    checks.check_linear_ste(op, x, weight, mask, *args)
    if not registration.transforming():
        checks.check_malformed(op, "mask", mask)


# --- Registration ---

registration.register_fake("sparse24_linear_ste", _fake)
registration.register_fallback("sparse24_linear_ste", _plain, partial(checks.check_linear_ste, "sparse24_linear_ste"))
registration.register_autograd("sparse24_linear_ste", _apply)
registration.register_autocast("sparse24_linear_ste", activations=(0, 1), factors=(3, 4, 5))
_call = registration.twin("sparse24_linear_ste", _apply, _check)
registration.register_vmap("sparse24_linear_ste", fold_rows)
