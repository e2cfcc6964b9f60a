"""block_diagonal_apply: fake, gradient, autocast and vmap of the op, and its Python twin."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from lrkernels import reference
from lrkernels.ops import _lowrank_checks as checks
from lrkernels.ops import _registration as registration
from lrkernels.ops.orthogonal._checks import check_block_diagonal

_lrk = torch.ops.lrk


class _BlockDiagonalApply(registration.ReverseModeFunction):
    """Saves x only when the blocks train, and the blocks."""

    op_name = "block_diagonal_apply"

    @staticmethod
    def forward(x, blocks, transpose):
        return _lrk.block_diagonal_apply(x, blocks, transpose=transpose)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, blocks, ctx.transpose = inputs
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, blocks)

    @staticmethod
    def backward(ctx, grad):
        x, blocks = ctx.saved_tensors
        needs_dx, needs_dblocks, _ = ctx.needs_input_grad
        if not needs_dblocks:
            return block_diagonal_apply(grad, blocks, transpose=not ctx.transpose), None, None
        dx, dblocks = _block_diagonal_backward(grad, x, blocks, transpose=ctx.transpose, needs_dx=needs_dx)
        return dx if needs_dx else None, dblocks, None


def _apply(x, blocks, *, transpose=False):
    return registration.apply_function(_BlockDiagonalApply, x, blocks, transpose)


def block_diagonal_apply(x: Tensor, blocks: Tensor, *, transpose: bool = False) -> Tensor:
    """Every block of features as a row vector times its matrix: y_n = x_n·R_n, or x_n·R_nᵀ.

    Args:
        x: ``[..., features]``, any leading dimensions and strides; float32, float64, bfloat16 or float16. Sums are
            float32 (float64 for float64), rounded once to x's dtype.
        blocks: ``[features // block, block, block]``, or ``[1, block, block]``: one matrix for every block. x's dtype,
            or float32 next to a half x, which keeps the accuracy of R: CPUs take it as it is, CUDA's tensor cores as
            two halves (16 bits of R next to bfloat16, 22 next to float16). Any matrices, orthogonal or not; of
            :func:`lrkernels.cayley` the product is OFT's rotation of x.
        transpose: multiply by the transposes, which undoes a rotation.

    Returns:
        ``[..., features]``, contiguous, x's dtype. NaN and Inf stay within their row and block.

    Differentiable in x and blocks, any number of times; forward-mode differentiation raises. x is kept only when the
    blocks train. Gradients are summed in an order that depends on the shapes alone, on CUDA on the device too; on the
    CPU both come from one reading of x. Products that torch's GEMM computes (of wide blocks on some CPUs, as
    ``lrkernels.explain`` says) are one each, and may differ in the last bits with the number of threads.

    Raises:
        TypeError, ValueError: an argument of the wrong type, dtype, shape or device, before any work.

    Source: Qiu et al., "Controlling Text-to-Image Diffusion by Orthogonal Finetuning", NeurIPS 2023.
    """
    return _call((x, blocks), {"transpose": transpose})


def _fake_block_diagonal(x, blocks, *, transpose=False):
    check_block_diagonal("block_diagonal_apply", x, blocks, transpose)
    return x.new_empty(x.shape)


def _fake_block_diagonal_backward(grad, x, blocks, *, transpose, needs_dx):
    return grad.new_empty(grad.shape if needs_dx else (0,)), blocks.new_empty(blocks.shape)


def _fold(batch, in_dims, args, scalars):
    """Under vmap, a batch of x is one more leading dimension of one call."""
    x, blocks = args
    if in_dims[1] is not None:
        return None
    return (x.movedim(in_dims[0], 0), blocks), 0


# --- Registration ---

registration.register_fake("block_diagonal_apply", _fake_block_diagonal)
registration.register_fallback(
    "block_diagonal_apply", reference.block_diagonal_apply, partial(check_block_diagonal, "block_diagonal_apply")
)
registration.register_fake("_block_diagonal_backward", _fake_block_diagonal_backward)
registration.register_fallback(
    "_block_diagonal_backward",
    reference.block_diagonal_backward,
    partial(checks.check_backward, "block_diagonal_backward"),
)

registration.register_autograd("block_diagonal_apply", _apply)
_block_diagonal_backward = registration.register_second_derivative(
    "_block_diagonal_backward", reference.block_diagonal_backward
)

registration.register_autocast("block_diagonal_apply", activations=(0,), factors=(1,))
registration.register_no_autocast("_block_diagonal_backward")

_call = registration.twin("block_diagonal_apply", _apply, check_block_diagonal)

registration.register_vmap("block_diagonal_apply", _fold)
registration.register_vmap("_block_diagonal_backward")
