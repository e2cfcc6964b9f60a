"""An adapter for every row: fake, gradient, autocast and vmap of ``torch.ops.lrk.lowrank_linear_indexed``, and its
Python twin."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from lrkernels import reference
from lrkernels.ops import _lowrank_checks as checks
from lrkernels.ops import _registration as registration
from lrkernels.ops._lowrank_indexed_checks import check_linear_indexed
from lrkernels.reference.lowrank import NEEDS_X
from lrkernels.reference.lowrank_indexed import NEEDS_DOWNS, NEEDS_SCALES, NEEDS_UPS

_lrk = torch.ops.lrk


def _rows(tensor: Tensor) -> Tensor:
    return tensor.reshape(math.prod(tensor.shape[:-1]), tensor.shape[-1])


class _LowRankLinearIndexed(registration.ReverseModeFunction):
    """Saves x only when ``downs`` or ``weight`` is trained, else the [rows, rank] product."""

    op_name = "lowrank_linear_indexed"

    @staticmethod
    def forward(x, downs, ups, index, ranks, scales, weight, bias, base):
        return _lrk._lowrank_linear_indexed_saving(x, downs, ups, index, ranks, scales, weight, bias, base)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, downs, ups, index, ranks, scales, weight, bias, _ = inputs
        need_x, need_downs, need_ups, _, _, need_scales, need_weight = ctx.needs_input_grad[:7]
        ctx.set_materialize_grads(False)
        ctx.x_dtype, ctx.bias_dtype = x.dtype, None if bias is None else bias.dtype
        ctx.save_for_backward(
            x if need_downs or need_weight else None,
            output[1] if need_ups or need_scales else None,
            downs,
            ups,
            index,
            ranks,
            scales,
            weight if need_x else None,
        )

    @staticmethod
    def backward(ctx, grad, grad_projected):
        x, projected, downs, ups, index, ranks, scales, weight = ctx.saved_tensors
        need_x, need_downs, need_ups, _, _, need_scales, need_weight, need_bias, need_base = ctx.needs_input_grad
        dx = ddowns = dups = dscales = dweight = dbias = dbase = None
        if grad is not None:
            wanted = (need_x, need_downs, need_ups, need_scales)
            bits = (NEEDS_X, NEEDS_DOWNS, NEEDS_UPS, NEEDS_SCALES)
            needs = sum(bit for bit, need in zip(bits, wanted, strict=True) if need)
            if needs:
                grads = _indexed_backward(grad, downs, ups, index, ranks, scales, x, projected, weight, needs=needs)
                dx, ddowns, dups, dscales = (g if need else None for g, need in zip(grads, wanted, strict=True))
            dweight = registration.library_gemm(_rows(grad).mT, _rows(x)) if need_weight else None
            dbias = _rows(grad).sum(0, dtype=ctx.bias_dtype) if need_bias else None
            dbase = grad if need_base else None
        if grad_projected is not None and (need_x or need_downs):
            # Only a second derivative gets here: the saved product is itself a function of x and downs.
            needs = need_x * NEEDS_X + need_downs * NEEDS_DOWNS
            more_dx, more_ddowns = reference.lowrank_project_indexed_backward(
                grad_projected, downs, index, ranks, x, needs=needs
            )
            if need_x:
                more_dx = more_dx.to(ctx.x_dtype)
                dx = more_dx if dx is None else dx + more_dx
            if need_downs:
                ddowns = more_ddowns if ddowns is None else ddowns + more_ddowns
        return dx, ddowns, dups, None, None, dscales, dweight, dbias, dbase


def _apply(x, downs, ups, index, ranks=None, scales=None, weight=None, bias=None, base=None):
    return registration.apply_function(
        _LowRankLinearIndexed, x, downs, ups, index, ranks, scales, weight, bias, base
    )[0]  # fmt: skip


def lowrank_linear_indexed(
    x: Tensor,
    downs: Tensor,
    ups: Tensor,
    index: Tensor,
    ranks: Tensor | None = None,
    scales: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    base: Tensor | None = None,
) -> Tensor:
    """A linear layer whose low-rank term is chosen row by row: several adapters in one batch.

        y_t = (x_t·weightᵀ or base_t) + scales[i]·(x_t·downs[i]ᵀ)·ups[i]ᵀ + bias    with i = index[t]

    Rows are sorted by adapter on their device, so a call reads the factors of those adapters that it uses, once. What
    varies from call to call (index, ranks, scales) is in tensors: nothing waits for the device, and nothing recompiles.

    Args:
        x: ``[..., in]``, any leading dimensions and strides; float32, float64, bfloat16 or float16. Its rows, in
            row-major order, are the t above; fewer than 2^31.
        downs, ups: ``[adapters, rank, in]`` and ``[adapters, out, rank]`` (LoRA's A and B, stacked), x's dtype, or
            float32 next to a half x. On CUDA factors of another dtype than x are rounded to it first, all of them.
        index: int32 or int64, one adapter a row: x's leading dimensions, or ``[rows]``. -1 is no adapter: the row is
            x_t·weightᵀ (or base_t) + bias.
        ranks: int64 ``[adapters]``, for adapters of several ranks padded to one: of adapter i only ``downs[i, :rank]``
            and ``ups[i, :, :rank]`` count. What lies behind is never used (it may hold NaN), and its gradient is zero.
        scales: ``[adapters]``, x's dtype or float32 next to a half x (alpha / rank in LoRA); 1 when absent.
        weight: ``[out, in]``, x's dtype. Without ``weight`` and ``base`` only the low-rank term and bias are computed.
        bias: ``[out]``, x's dtype or float32.
        base: ``[..., out]``, the output of any other layer (quantised, sparse), in place of ``weight``.

    Returns:
        ``[..., out]``, contiguous, x's dtype; rounded once, except where torch's GEMM computed x·weightᵀ in a half
        dtype, as in :func:`lowrank_linear`.

    Differentiable in every floating tensor, any number of times; forward-mode differentiation raises. The gradient of
    an adapter that no row uses is zero. With ``downs`` and ``weight`` frozen, x is not saved.

    Raises:
        TypeError, ValueError: an argument of the wrong type, dtype, shape, device or value, before any work. What
            ``index`` and ``ranks`` hold is checked on the CPU only. On CUDA that would wait for the device: there a row
            whose index is neither -1 nor an adapter becomes NaN, in y and in x's gradient, and ranks are clamped to
            0 ... rank.

    Source: Chen et al., "Punica: Multi-Tenant LoRA Serving", MLSys 2024; Sheng et al., "S-LoRA: Serving Thousands of
    Concurrent LoRA Adapters", MLSys 2024.
    """
    return _call((x, downs, ups, index, ranks, scales, weight, bias, base), {})


def _fake(x, downs, ups, *others):
    check_linear_indexed("lowrank_linear_indexed", x, downs, ups, *others, values=False)
    return x.new_empty(*x.shape[:-1], ups.shape[1])


def _fake_saving(x, downs, *others):
    dtype = torch.promote_types(x.dtype, downs.dtype)
    return _fake(x, downs, *others), x.new_empty(*x.shape[:-1], downs.shape[1], dtype=dtype)


def _fake_backward(
    grad, downs, ups, index, ranks=None, scales=None, x=None, projected=None, weight=None, *, needs
):  # fmt: skip
    scales = ups if scales is None else scales
    return (
        grad.new_empty(*grad.shape[:-1], downs.shape[2]) if needs & NEEDS_X else grad.new_empty(0),
        downs.new_empty(downs.shape if needs & NEEDS_DOWNS else 0),
        ups.new_empty(ups.shape if needs & NEEDS_UPS else 0),
        scales.new_empty(scales.shape if needs & NEEDS_SCALES else 0),
    )


def _fold(batch, in_dims, args, scalars, outputs=0):
    """Under vmap, a batch of x, index and base is one more leading dimension of one call."""
    names = ("x", "downs", "ups", "index", "ranks", "scales", "weight", "bias", "base")
    dims = dict(zip(names, in_dims, strict=False))
    values = dict(zip(names, args, strict=False))
    if any(dims.get(name) is not None for name in ("downs", "ups", "ranks", "scales", "weight", "bias")):
        return None
    for name in ("x", "index", "base"):
        if (tensor := values.get(name)) is not None:
            dim = dims[name]
            values[name] = tensor.movedim(dim, 0) if dim is not None else tensor.expand(batch, *tensor.shape)
    values["index"] = values["index"].reshape(values["x"].shape[:-1])
    return [values.get(name) for name in names[: len(args)]], outputs


# --- Registration ---

for _name, _fake_of, _reference, _check in (
    ("lowrank_linear_indexed", _fake, reference.lowrank_linear_indexed, check_linear_indexed),
    ("_lowrank_linear_indexed_saving", _fake_saving, reference.lowrank_linear_indexed_saving, check_linear_indexed),
    (
        "_lowrank_linear_indexed_backward",
        _fake_backward,
        reference.lowrank_linear_indexed_backward,
        checks.check_backward,
    ),
):
    registration.register_fake(_name, _fake_of)
    # The op that also saves speaks in the name of the one that was called.
    registration.register_fallback(_name, _reference, partial(_check, _name.removeprefix("_").removesuffix("_saving")))

registration.register_autograd("lowrank_linear_indexed", _apply)
_indexed_backward = registration.register_second_derivative(
    "_lowrank_linear_indexed_backward", reference.lowrank_linear_indexed_backward
)

# Activations by position go to the autocast dtype: x, weight and base.
registration.register_autocast("lowrank_linear_indexed", activations=(0, 6, 8), factors=(1, 2, 5, 7))
for _name in ("_lowrank_linear_indexed_saving", "_lowrank_linear_indexed_backward"):
    registration.register_no_autocast(_name)

_call = registration.twin("lowrank_linear_indexed", _apply, check_linear_indexed)

registration.register_vmap("lowrank_linear_indexed", _fold)
registration.register_vmap("_lowrank_linear_indexed_saving", lambda *call: _fold(*call, outputs=(0, 0)))
registration.register_vmap("_lowrank_linear_indexed_backward")
