"""range_finder, rsvd and low_rank_approx: fakes, gradients, vmap of the ops, and their Python twins."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from lrkernels import reference
from lrkernels.ops import _registration as registration
from lrkernels.ops.sketch._checks import basis_size, check_low_rank_approx, check_range_finder, check_rsvd
from lrkernels.ops.sketch._gradients import first_order, fold

_lrk = torch.ops.lrk


class _RangeFinder(registration.ReverseModeFunction):
    op_name = "range_finder"

    @staticmethod
    def forward(a, rank, q0, oversample, power_iters, seed):
        return _lrk.range_finder(a, rank, q0, oversample=oversample, power_iters=power_iters, seed=seed)

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, grad):
        raise RuntimeError(
            "range_finder: a basis has no gradient, any rotation of it serves as well; take low_rank_approx, or rsvd "
            "with broadening"
        )


class _Rsvd(registration.ReverseModeFunction):
    op_name = "rsvd"

    @staticmethod
    def forward(a, rank, q0, oversample, power_iters, seed, check, broadening):
        return _lrk.rsvd(
            a, rank, q0, oversample=oversample, power_iters=power_iters, seed=seed, check=check, broadening=broadening
        )

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.broadening = inputs[-1]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(inputs[0], *output)

    @staticmethod
    def backward(ctx, grad_u, grad_s, grad_v):
        if (grad_u is not None or grad_v is not None) and ctx.broadening == 0:
            raise RuntimeError(
                "rsvd: a gradient through U or V grows without bound where singular values come close; pass "
                "broadening (1e-3, say), or take low_rank_approx, whose gradient has no such terms"
            )
        if grad_u is None and grad_s is None and grad_v is None:
            return (None,) * 8
        formula = partial(reference.rsvd_backward, broadening=ctx.broadening)
        return first_order("rsvd", formula, grad_u, grad_s, grad_v, *ctx.saved_tensors), *(None,) * 7


class _LowRankApprox(registration.ReverseModeFunction):
    """Saves the factors, which the forward has anyway."""

    op_name = "low_rank_approx"

    @staticmethod
    def forward(a, rank, seed):
        u, s, v = _lrk.rsvd(a, rank, seed=seed)
        return ((u * s.unsqueeze(-2)) @ v.mT).to(a.dtype), u, s, v

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(inputs[0], *output[1:])

    @staticmethod
    def backward(ctx, grad, *_):
        return first_order("low_rank_approx", reference.low_rank_approx_backward, grad, *ctx.saved_tensors), None, None


def _apply_range_finder(a, rank, q0=None, *, oversample=-1, power_iters=1, seed=0):
    return registration.apply_function(_RangeFinder, a, rank, q0, oversample, power_iters, seed)


def _apply_rsvd(a, rank, q0=None, *, oversample=-1, power_iters=1, seed=0, check="auto", broadening=0.0):
    return registration.apply_function(_Rsvd, a, rank, q0, oversample, power_iters, seed, check, broadening)


def _apply_low_rank_approx(a, rank, *, seed=0):
    return registration.apply_function(_LowRankApprox, a, rank, seed)[0]


def range_finder(
    a: Tensor, rank: int, q0: Tensor | None = None, *, oversample: int = -1, power_iters: int = 1, seed: int = 0
) -> Tensor:
    """Orthonormal columns Q that hold nearly all of a's range: A ≈ Q·QᵀA.

    Args:
        a: ``[..., rows, cols]``, any leading dimensions and strides; float32, float64, bfloat16 or float16.
        rank: how many dimensions count, 0 to min(rows, cols).
        q0: ``[..., rows, ≤ size]``, a basis of before: a warm start, worth one power step in its directions.
        oversample: more columns for accuracy; −1 is max(10, rank / 2), which the promise below needs.
        power_iters: steps of subspace iteration, two products with a each.
        seed: of the random signs it starts from; the same seed, the same bits.

    Returns:
        Q ``[..., rows, size]``, size = min(rank + oversample, rows, cols), orthonormal also where a has not so many
        dimensions; float32, or float64 of float64. In no order: ``rsvd`` sorts.

    With size − rank = p ≥ 2, already without power steps E‖A − QQᵀA‖_F ≤ √(1 + rank/(p − 1))·(Σ_{j>rank} σⱼ²)^½
    of a Gaussian start (theorem 10.5), which matrices of up to 64 columns get, or of less than two a column of Q;
    others start from sparse signs, which were measured to do as well. :func:`rsvd_error` says what the error is. A
    backward pass through Q raises.

    Raises:
        TypeError, ValueError: an argument of the wrong type, dtype, shape or value, before any work. NaN is passed on.

    Source: Halko, Martinsson and Tropp, "Finding structure with randomness", SIAM Review 2011, algorithm 4.4.
    """
    return _call_range_finder((a, rank, q0), {"oversample": oversample, "power_iters": power_iters, "seed": seed})


def rsvd(
    a: Tensor,
    rank: int,
    q0: Tensor | None = None,
    *,
    oversample: int = -1,
    power_iters: int = 1,
    seed: int = 0,
    check: str = "auto",
    broadening: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """The truncated singular value decomposition A ≈ U·diag(S)·Vᵀ, by a random range.

    Args:
        a, rank, q0, oversample, power_iters, seed: see :func:`range_finder`; the basis is cut down to ``rank``.
        check: what NaN or Inf in a does: ``"raise"`` a ValueError, ``"nan"`` gives NaN in the results of that matrix of
            the batch, ``"ignore"`` does not look. ``"auto"`` raises on the CPU and gives NaN on CUDA, without a sync;
            ``"raise"`` on CUDA runs the plain torch expression, which waits for the device.
        broadening: above 0, a gradient through U and V is allowed, with 1/(σᵢ² − σⱼ²) of the columns replaced by
            d/(d² + η²), η = broadening·σ₁². Functions of the projectors UUᵀ and VVᵀ keep their exact gradient.

    Returns:
        U ``[..., rows, rank]``, S ``[..., rank]`` descending, V ``[..., cols, rank]`` (as ``torch.svd_lowrank``);
        float32, or float64 of float64. U and V have orthonormal columns whatever a's rank is, and of every column of U
        the largest entry is positive.

    With the defaults ‖A − USVᵀ‖_F is at most 1.03 times the optimum, 1.02 where S falls to half or less at the rank.
    The gradient through S is exact and needs no broadening. No second derivatives; forward mode raises.

    Raises:
        TypeError, ValueError: an argument of the wrong type, dtype, shape or value, or NaN, before any work.

    Source: Halko, Martinsson and Tropp, "Finding structure with randomness", SIAM Review 2011, algorithm 5.1.
    """
    scalars = {"oversample": oversample, "power_iters": power_iters, "seed": seed}
    try:
        return _call_rsvd((a, rank, q0), {**scalars, "check": check, "broadening": broadening})
    except RuntimeError as error:
        raise _of_values(error) from None


def low_rank_approx(a: Tensor, rank: int, *, seed: int = 0) -> Tensor:
    """A_k, nearly the best approximation of a by a matrix of rank ``rank``, with the gradient of the best.

    ``[..., rows, cols]`` in a's dtype: U·diag(S)·Vᵀ of :func:`rsvd` with its defaults. The backward pass decomposes
    A − A_k in full (torch.linalg.svd), because the gradient depends on every singular value that was dropped; where the
    gap between σ_k and σ_k+1 is closed, no gradient goes across it, so it is finite always. Both are exact where rank +
    oversampling reaches min(rows, cols) or a's rank; else the value is as near to the best as ``rsvd`` promises, and
    the gradient takes what it left for the rest of the decomposition. NaN or Inf in a raises on the CPU. No second
    derivatives; forward mode raises.

    Source of the gradient: Feppon and Lermusiaux, "A geometric approach to dynamical model order reduction", 2018.
    """
    try:
        return _call_low_rank_approx((a, rank), {"seed": seed})
    except RuntimeError as error:
        raise _of_values(error) from None


def _of_values(error: RuntimeError) -> Exception:
    """A refusal of NaN as the ValueError that it is."""
    return ValueError(str(error)) if "a holds NaN or Inf" in str(error) else error


def _fake_range_finder(a, rank, q0=None, *, oversample=-1, power_iters=1, seed=0):
    check_range_finder("range_finder", a, rank, q0, oversample, power_iters, seed)
    dtype = torch.promote_types(a.dtype, torch.float32)
    return a.new_empty(*a.shape[:-1], basis_size(a, rank, oversample), dtype=dtype)


def _fake_rsvd(a, rank, q0=None, *, oversample=-1, power_iters=1, seed=0, check="auto", broadening=0.0):
    check_rsvd("rsvd", a, rank, q0, oversample, power_iters, seed, check, broadening)
    dtype = torch.promote_types(a.dtype, torch.float32)
    shapes = (*a.shape[:-1], rank), (*a.shape[:-2], rank), (*a.shape[:-2], a.shape[-1], rank)
    return tuple(a.new_empty(shape, dtype=dtype) for shape in shapes)


def _fake_low_rank_approx(a, rank, *, seed=0):
    check_low_rank_approx("low_rank_approx", a, rank, seed)
    return a.new_empty(a.shape)


def _as_a_kernel(function, *args, **scalars):
    """A twin that refuses values raises as kernels do; :func:`_of_values` turns that into the ValueError again."""
    try:
        return function(*args, **scalars)
    except ValueError as error:
        raise RuntimeError(str(error).replace("rsvd:", f"{function.__name__}:", 1)) from None


def _plain_rsvd(*args, broadening=0.0, **scalars):
    return _as_a_kernel(reference.rsvd, *args, **scalars)


def _plain_low_rank_approx(*args, **scalars):
    return _as_a_kernel(reference.low_rank_approx, *args, **scalars)


# --- Registration ---

for _name, _fake, _plain, _check, _apply, _outputs in (
    ("range_finder", _fake_range_finder, reference.range_finder, check_range_finder, _apply_range_finder, 1),
    ("rsvd", _fake_rsvd, _plain_rsvd, check_rsvd, _apply_rsvd, 3),
    ("low_rank_approx", _fake_low_rank_approx, _plain_low_rank_approx, check_low_rank_approx,
     _apply_low_rank_approx, 1),
):  # fmt: skip
    registration.register_fake(_name, _fake)
    registration.register_fallback(_name, _plain, partial(_check, _name))
    registration.register_autograd(_name, _apply)
    registration.register_no_autocast(_name)
    registration.register_vmap(_name, fold(_outputs))

_call_range_finder = registration.twin("range_finder", _apply_range_finder, check_range_finder)
_call_rsvd = registration.twin("rsvd", _apply_rsvd, check_rsvd)
_call_low_rank_approx = registration.twin("low_rank_approx", _apply_low_rank_approx, check_low_rank_approx)
