"""The low-rank family: fakes, gradients, autocast and vmap of ``torch.ops.lrk.lowrank_*``, and their Python twins.

Throughout, ``down [rank, in]`` is LoRA's A (V in an SVD) and ``up [out, rank]`` its B (U).
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from lrkernels import reference
from lrkernels.ops import _lowrank_checks as checks
from lrkernels.ops import _registration as registration
from lrkernels.reference.lowrank import NEEDS_CORE, NEEDS_DOWN, NEEDS_GATE, NEEDS_UP, NEEDS_X

_lrk = torch.ops.lrk


def _rows(tensor: Tensor) -> Tensor:
    return tensor.reshape(math.prod(tensor.shape[:-1]), tensor.shape[-1])


# --- lowrank_linear ---


class _LowRankLinear(registration.ReverseModeFunction):
    """Saves x only when ``down`` or ``weight`` is trained, else the [tokens, rank] product; never a dropout mask."""

    op_name = "lowrank_linear"

    @staticmethod
    def forward(x, down, up, weight, bias, core, gate, base, seed, scale, dropout):
        return _lrk._lowrank_linear_saving(
            x, down, up, weight, bias, core, gate, base, seed, scale=scale, dropout=dropout
        )

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, down, up, weight, bias, core, gate, _, seed, ctx.scale, ctx.dropout = inputs
        _, projected = output
        need_x, need_down, need_up, need_weight, _, need_core, need_gate = ctx.needs_input_grad[:7]
        ctx.set_materialize_grads(False)
        ctx.x_dtype, ctx.bias_dtype = x.dtype, None if bias is None else bias.dtype
        ctx.save_for_backward(
            x if need_down or need_weight else None,
            projected if need_up or need_core or need_gate else None,
            down,
            up,
            weight if need_x else None,
            core,
            gate,
            seed,
        )

    @staticmethod
    def backward(ctx, grad, grad_projected):
        x, projected, down, up, weight, core, gate, seed = ctx.saved_tensors
        need_x, need_down, need_up, need_weight, need_bias, need_core, need_gate, need_base = ctx.needs_input_grad[:8]
        dx = ddown = dup = dweight = dbias = dcore = dgate = dbase = None
        if grad is not None:
            needs = need_x * NEEDS_X + need_down * NEEDS_DOWN + need_up * NEEDS_UP
            needs += need_core * NEEDS_CORE + need_gate * NEEDS_GATE
            if needs:
                grads = _linear_backward(
                    grad, down, up, x, projected, weight, core, gate, seed,
                    scale=ctx.scale, dropout=ctx.dropout, needs=needs,
                )  # fmt: skip
                wanted = (need_x, need_down, need_up, need_core, need_gate)
                dx, ddown, dup, dcore, dgate = (g if need else None for g, need in zip(grads, wanted, strict=True))
            dweight = registration.library_gemm(_rows(grad).mT, _rows(x)) if need_weight else None
            dbias = _rows(grad).sum(0, dtype=ctx.bias_dtype) if need_bias else None
            dbase = grad if need_base else None
        if grad_projected is not None and (need_x or need_down):
            # Only a second derivative gets here: the saved product is itself a function of x and down.
            needs = need_x * NEEDS_X + need_down * NEEDS_DOWN
            more_dx, more_ddown, _ = _project_backward(
                grad_projected, down, x, None, seed, dropout=ctx.dropout, needs=needs
            )
            if need_x:
                more_dx = more_dx.to(ctx.x_dtype)
                dx = more_dx if dx is None else dx + more_dx
            if need_down:
                ddown = more_ddown if ddown is None else ddown + more_ddown
        return dx, ddown, dup, dweight, dbias, dcore, dgate, dbase, None, None, None


def _apply_linear(
    x, down, up, weight=None, bias=None, core=None, gate=None, base=None, seed=None, *, scale=1.0, dropout=0.0
):
    return registration.apply_function(
        _LowRankLinear, x, down, up, weight, bias, core, gate, base, seed, scale, dropout
    )[0]


def lowrank_linear(
    x: Tensor,
    down: Tensor,
    up: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    core: Tensor | None = None,
    gate: Tensor | None = None,
    base: Tensor | None = None,
    seed: Tensor | None = None,
    *,
    scale: float = 1.0,
    dropout: float = 0.0,
) -> Tensor:
    """A linear layer with a low-rank term, or a low-rank layer, in one op.

        y = (x·weightᵀ or base) + scale·(gate ⊙ (drop(x)·downᵀ))·coreᵀ·upᵀ + bias

    Args:
        x: ``[..., in]``, any leading dimensions and strides; float32, float64, bfloat16 or float16.
        down, up: ``[rank, in]`` and ``[out, rank]`` (LoRA's A and B), x's dtype, or float32 next to a half x. On CUDA
            the tensor cores read such factors, and the projected values, rounded to x's dtype (as under autocast): in
            float16 what is beyond 65504 overflows. Sums are float32 everywhere.
        weight: ``[out, in]``, x's dtype. Without ``weight`` and ``base`` the layer is purely low-rank.
        bias: ``[out]``, x's dtype or float32.
        core: ``[rank, rank]`` between the factors.
        gate: ``[1]``, ``[rank]`` or one row a token ``[..., rank]``. A gate per token over concatenated factors is a
            mixture of adapters; a scale that changes at run time belongs here, because a new ``scale`` recompiles.
        base: ``[..., out]``, the output of any other layer (quantised, sparse), in place of ``weight``.
        seed: 0-dim int64 tensor on x's device; required when ``dropout`` > 0. The same seed, the same mask.
        scale: a finite constant (alpha / rank in LoRA).
        dropout: probability that an element of the low-rank term's input is zeroed; kept ones are divided by
            1 - dropout. No mask is stored.

    Returns:
        ``[..., out]``, contiguous, x's dtype.

    Differentiable in every floating tensor, any number of times; forward-mode differentiation raises. Nothing is kept
    for a gradient that is not wanted: with ``down`` frozen, x is not saved.

    Raises:
        TypeError, ValueError: an argument of the wrong type, dtype, shape, device or value, before any work.

    Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022.
    """
    tensors = (x, down, up, weight, bias, core, gate, base, seed)
    return _call_linear(tensors, {"scale": scale, "dropout": dropout})


def _fake_linear(
    x, down, up, weight=None, bias=None, core=None, gate=None, base=None, seed=None, *, scale=1.0, dropout=0.0
):
    checks.check_linear("lowrank_linear", x, down, up, weight, bias, core, gate, base, seed, scale, dropout)
    return x.new_empty(*x.shape[:-1], up.shape[0])


def _fake_linear_saving(x, down, *args, **scalars):
    dtype = torch.promote_types(x.dtype, down.dtype)
    return _fake_linear(x, down, *args, **scalars), x.new_empty(*x.shape[:-1], down.shape[0], dtype=dtype)


def _fake_linear_backward(
    grad, down, up, x=None, projected=None, weight=None, core=None, gate=None, seed=None, *, scale, dropout, needs
):
    core, gate = up if core is None else core, up if gate is None else gate
    return (
        grad.new_empty(*grad.shape[:-1], down.shape[1]) if needs & NEEDS_X else grad.new_empty(0),
        down.new_empty(down.shape if needs & NEEDS_DOWN else 0),
        up.new_empty(up.shape if needs & NEEDS_UP else 0),
        core.new_empty(core.shape if needs & NEEDS_CORE else 0),
        gate.new_empty(gate.shape if needs & NEEDS_GATE else 0),
    )


def _to_front(tensor: Tensor | None, dim: int | None, batch: int) -> Tensor | None:
    """A row operand with the batch first: moved there, or repeated by a zero stride."""
    if tensor is None:
        return None
    return tensor.movedim(dim, 0) if dim is not None else tensor.expand(batch, *tensor.shape)


def _fold_linear(batch, in_dims, args, scalars, outputs=0):
    """Under vmap, a batch of x (and base, and per-token gates) is one more leading dimension."""
    names = ("x", "down", "up", "weight", "bias", "core", "gate", "base", "seed")
    dims = dict(zip(names, in_dims, strict=False))
    values = dict(zip(names, args, strict=False))
    shared = ("down", "up", "weight", "bias", "core", "seed")
    if scalars.get("dropout", 0.0) > 0.0 or any(dims.get(name) is not None for name in shared):
        return None
    x, gate = values["x"], values.get("gate")
    if gate is not None:
        per_token = gate.dim() - (dims["gate"] is not None) > 1
        if per_token:
            values["gate"] = _to_front(gate, dims["gate"], batch)
        elif dims["gate"] is not None:
            return None
    values["x"] = _to_front(x, dims["x"], batch)
    if values.get("base") is not None:
        values["base"] = _to_front(values["base"], dims["base"], batch)
    return [values.get(name) for name in names[: len(args)]], outputs


# --- lowrank_project ---


class _LowRankProject(registration.ReverseModeFunction):
    op_name = "lowrank_project"

    @staticmethod
    def forward(x, down, gate, seed, dropout):
        return _lrk.lowrank_project(x, down, gate, seed, dropout=dropout)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, down, gate, seed, ctx.dropout = inputs
        _, need_down, need_gate = ctx.needs_input_grad[:3]
        ctx.save_for_backward(x if need_down or need_gate else None, down, gate, seed)

    @staticmethod
    def backward(ctx, grad):
        x, down, gate, seed = ctx.saved_tensors
        wanted = ctx.needs_input_grad[:3]
        needs = wanted[0] * NEEDS_X + wanted[1] * NEEDS_DOWN + wanted[2] * NEEDS_GATE
        grads = _project_backward(grad, down, x, gate, seed, dropout=ctx.dropout, needs=needs)
        return (*(g if need else None for g, need in zip(grads, wanted, strict=True)), None, None)


def _apply_project(x, down, gate=None, seed=None, *, dropout=0.0):
    return registration.apply_function(_LowRankProject, x, down, gate, seed, dropout)


def lowrank_project(
    x: Tensor, down: Tensor, gate: Tensor | None = None, seed: Tensor | None = None, *, dropout: float = 0.0
) -> Tensor:
    """The first half of a low-rank product: s = gate ⊙ (drop(x)·downᵀ).

    x ``[..., in]``, down ``[rank, in]``, gate ``[1]``, ``[rank]`` or ``[..., rank]``, seed a 0-dim int64 tensor when
    ``dropout`` > 0; dtypes, errors and differentiability as :func:`lowrank_linear`. Returns ``[..., rank]``, x's dtype.
    """
    return _call_project((x, down, gate, seed), {"dropout": dropout})


def _fake_project(x, down, gate=None, seed=None, *, dropout=0.0):
    checks.check_project("lowrank_project", x, down, gate, seed, dropout)
    return x.new_empty(*x.shape[:-1], down.shape[0])


def _fake_project_backward(grad, down, x=None, gate=None, seed=None, *, dropout, needs):
    gate = down if gate is None else gate
    return (
        grad.new_empty(*grad.shape[:-1], down.shape[1]) if needs & NEEDS_X else grad.new_empty(0),
        down.new_empty(down.shape if needs & NEEDS_DOWN else 0),
        gate.new_empty(gate.shape if needs & NEEDS_GATE else 0),
    )


# --- lowrank_expand ---


class _LowRankExpand(registration.ReverseModeFunction):
    op_name = "lowrank_expand"

    @staticmethod
    def forward(s, up, base, bias, scale):
        return _lrk.lowrank_expand(s, up, base, bias, scale=scale)

    @staticmethod
    def setup_context(ctx, inputs, output):
        s, up, _, bias, ctx.scale = inputs
        ctx.bias_dtype = None if bias is None else bias.dtype
        ctx.save_for_backward(s if ctx.needs_input_grad[1] else None, up)

    @staticmethod
    def backward(ctx, grad):
        s, up = ctx.saved_tensors
        need_s, need_up, need_base, need_bias = ctx.needs_input_grad[:4]
        ds = dup = None
        if need_s or need_up:
            grads = _expand_backward(grad, up, s, scale=ctx.scale, needs=need_s + 2 * need_up)
            ds, dup = grads[0] if need_s else None, grads[1] if need_up else None
        dbias = _rows(grad).sum(0, dtype=ctx.bias_dtype) if need_bias else None
        return ds, dup, grad if need_base else None, dbias, None


def _apply_expand(s, up, base=None, bias=None, *, scale=1.0):
    return registration.apply_function(_LowRankExpand, s, up, base, bias, scale)


def lowrank_expand(
    s: Tensor, up: Tensor, base: Tensor | None = None, bias: Tensor | None = None, *, scale: float = 1.0
) -> Tensor:
    """The second half of a low-rank product: y = base + scale·s·upᵀ + bias.

    s ``[..., rank]``, up ``[out, rank]``, base ``[..., out]`` in s's dtype, bias ``[out]``; dtypes, errors and
    differentiability as :func:`lowrank_linear`. Returns ``[..., out]`` in s's dtype.
    """
    return _call_expand((s, up, base, bias), {"scale": scale})


def _fake_expand(s, up, base=None, bias=None, *, scale=1.0):
    checks.check_expand("lowrank_expand", s, up, base, bias, scale)
    return s.new_empty(*s.shape[:-1], up.shape[0])


def _fake_expand_backward(grad, up, s=None, *, scale, needs):
    return (
        grad.new_empty(*grad.shape[:-1], up.shape[1]) if needs & 1 else grad.new_empty(0),
        up.new_empty(up.shape if needs & 2 else 0),
    )


# --- lowrank_merge ---


class _LowRankMerge(registration.ReverseModeFunction):
    """Merging is rare, so its gradient is plain torch in float32 or wider."""

    op_name = "lowrank_merge"

    @staticmethod
    def forward(weight, down, up, core, gate, scale):
        return _lrk.lowrank_merge(weight, down, up, core, gate, scale=scale)

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, down, up, core, gate, ctx.scale = inputs
        ctx.save_for_backward(down, up, core, gate)

    @staticmethod
    def backward(ctx, grad):
        down, up, core, gate = ctx.saved_tensors
        need_weight, need_down, need_up, need_core, need_gate = ctx.needs_input_grad[:5]
        dtype = torch.promote_types(grad.dtype, torch.float32)
        wide = ctx.scale * grad.to(dtype)
        mixed = up.to(dtype) if core is None else up.to(dtype) @ core.to(dtype)
        ddown = dup = dcore = dgate = None
        if need_down:
            left = mixed if gate is None else mixed * gate.to(dtype)
            ddown = (left.mT @ wide).to(down.dtype)
        if need_up or need_core or need_gate:
            dleft = wide @ down.to(dtype).mT
            if need_gate:
                per_rank = (dleft * mixed).sum(0)
                dgate = (per_rank if gate.shape == per_rank.shape else per_rank.sum().reshape(1)).to(gate.dtype)
            dmixed = dleft if gate is None else dleft * gate.to(dtype)
            if need_core:
                dcore = (up.to(dtype).mT @ dmixed).to(core.dtype)
            if need_up:
                dup = (dmixed if core is None else dmixed @ core.to(dtype).mT).to(up.dtype)
        return grad if need_weight else None, ddown, dup, dcore, dgate, None


def _apply_merge(weight, down, up, core=None, gate=None, *, scale=1.0):
    return registration.apply_function(_LowRankMerge, weight, down, up, core, gate, scale)


def lowrank_merge(
    weight: Tensor,
    down: Tensor,
    up: Tensor,
    core: Tensor | None = None,
    gate: Tensor | None = None,
    *,
    scale: float = 1.0,
) -> Tensor:
    """Folds a low-rank term into a dense weight: W' = weight + scale·up·core·diag(gate)·down.

    weight ``[out, in]``, the factors as in :func:`lowrank_linear`, gate ``[1]`` or ``[rank]``. Accumulated in float32
    or wider and rounded once to weight's dtype (on CUDA, factors next to a half weight are rounded to its dtype first).
    Returns a new ``[out, in]`` tensor; ``weight`` is not touched.
    """
    return _call_merge((weight, down, up, core, gate), {"scale": scale})


def _fake_merge(weight, down, up, core=None, gate=None, *, scale=1.0):
    checks.check_merge("lowrank_merge", weight, down, up, core, gate, scale)
    return torch.empty_like(weight, memory_format=torch.contiguous_format)


# --- Registration ---

for _name, _fake, _twin, _check in (
    ("lowrank_linear", _fake_linear, reference.lowrank_linear, checks.check_linear),
    ("_lowrank_linear_saving", _fake_linear_saving, reference.lowrank_linear_saving, checks.check_linear),
    ("_lowrank_linear_backward", _fake_linear_backward, reference.lowrank_linear_backward, checks.check_backward),
    ("lowrank_project", _fake_project, reference.lowrank_project, checks.check_project),
    ("_lowrank_project_backward", _fake_project_backward, reference.lowrank_project_backward, checks.check_backward),
    ("lowrank_expand", _fake_expand, reference.lowrank_expand, checks.check_expand),
    ("_lowrank_expand_backward", _fake_expand_backward, reference.lowrank_expand_backward, checks.check_backward),
    ("lowrank_merge", _fake_merge, reference.lowrank_merge, checks.check_merge),
):
    registration.register_fake(_name, _fake)
    # The op that also saves speaks in the name of the one that was called.
    registration.register_fallback(_name, _twin, partial(_check, _name.removeprefix("_").removesuffix("_saving")))

registration.register_autograd("lowrank_linear", _apply_linear)
registration.register_autograd("lowrank_project", _apply_project)
registration.register_autograd("lowrank_expand", _apply_expand)
registration.register_autograd("lowrank_merge", _apply_merge)
_linear_backward = registration.register_second_derivative(
    "_lowrank_linear_backward", reference.lowrank_linear_backward
)
_project_backward = registration.register_second_derivative(
    "_lowrank_project_backward", reference.lowrank_project_backward
)
_expand_backward = registration.register_second_derivative(
    "_lowrank_expand_backward", reference.lowrank_expand_backward
)

# Activations by position go to the autocast dtype: x, weight and base; s and base; x.
registration.register_autocast("lowrank_linear", activations=(0, 3, 7), factors=(1, 2, 4, 5, 6))
registration.register_autocast("lowrank_project", activations=(0,), factors=(1, 2))
registration.register_autocast("lowrank_expand", activations=(0, 2), factors=(1, 3))

for _name in (
    "_lowrank_linear_saving",
    "_lowrank_linear_backward",
    "_lowrank_project_backward",
    "_lowrank_expand_backward",
    "lowrank_merge",
):
    registration.register_no_autocast(_name)

_call_linear = registration.twin("lowrank_linear", _apply_linear, checks.check_linear)
_call_project = registration.twin("lowrank_project", _apply_project, checks.check_project)
_call_expand = registration.twin("lowrank_expand", _apply_expand, checks.check_expand)
_call_merge = registration.twin("lowrank_merge", _apply_merge, checks.check_merge)

registration.register_vmap("lowrank_linear", _fold_linear)
registration.register_vmap("_lowrank_linear_saving", lambda *call: _fold_linear(*call, outputs=(0, 0)))
for _name in (
    "_lowrank_linear_backward",
    "lowrank_project",
    "_lowrank_project_backward",
    "lowrank_expand",
    "_lowrank_expand_backward",
    "lowrank_merge",
):
    registration.register_vmap(_name)
