"""orthonormalize, polar and spectral_norm_bound: fakes, gradients, vmap of the ops, and their Python twins."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from lrkernels import reference
from lrkernels.ops import _registration as registration
from lrkernels.ops.sketch._checks import check_matrices, check_polar, check_spectral_norm_bound
from lrkernels.ops.sketch._gradients import first_order, fold, of_reference

_lrk = torch.ops.lrk


class _Orthonormalize(registration.ReverseModeFunction):
    op_name = "orthonormalize"

    @staticmethod
    def forward(a):
        return _lrk.orthonormalize(a)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(inputs[0], *output)

    @staticmethod
    def backward(ctx, grad_q, grad_r):
        if grad_q is None and grad_r is None:
            return None
        return reference.orthonormalize_backward(grad_q, grad_r, *ctx.saved_tensors)


class _Polar(registration.ReverseModeFunction):
    op_name = "polar"

    @staticmethod
    def forward(a, method, steps, coefficients):
        return _lrk.polar(a, method=method, steps=steps, coefficients=coefficients)

    @staticmethod
    def setup_context(ctx, inputs, output):
        a, *ctx.scalars = inputs
        ctx.save_for_backward(a)

    @staticmethod
    def backward(ctx, grad):
        (a,) = ctx.saved_tensors
        method, steps, coefficients = ctx.scalars
        if method == "exact":
            return first_order("polar", reference.polar_exact_backward, grad, a), None, None, None
        iteration = partial(reference.polar, method=method, steps=steps, coefficients=coefficients)
        return of_reference("polar", iteration, grad, a), None, None, None


class _SpectralNormBound(registration.ReverseModeFunction):
    op_name = "spectral_norm_bound"

    @staticmethod
    def forward(weight, iters):
        return _lrk.spectral_norm_bound(weight, iters=iters)

    @staticmethod
    def setup_context(ctx, inputs, output):
        weight, ctx.iters = inputs
        ctx.save_for_backward(weight)

    @staticmethod
    def backward(ctx, grad):
        (weight,) = ctx.saved_tensors
        bound = partial(reference.spectral_norm_bound, iters=ctx.iters)
        return of_reference("spectral_norm_bound", bound, grad, weight), None


def _apply_orthonormalize(a):
    return registration.apply_function(_Orthonormalize, a)


def _apply_polar(a, *, method="newton_schulz", steps=5, coefficients=None):
    return registration.apply_function(_Polar, a, method, steps, coefficients)


def _apply_spectral_norm_bound(weight, *, iters=6):
    return registration.apply_function(_SpectralNormBound, weight, iters)


def orthonormalize(a: Tensor) -> tuple[Tensor, Tensor]:
    """The QR decomposition A = Q·R whose R has no negative entry on its diagonal.

    Args:
        a: ``[..., rows, cols]``, any leading dimensions and strides; float32, float64, bfloat16 or float16.

    Returns:
        Q ``[..., rows, size]`` and R ``[..., size, cols]``, size = min(rows, cols); float32, or float64 of float64.
        Q has orthonormal columns whatever the rank of a is: in float32 |QᵀQ − I| is below 1e-5.

    CholeskyQR from a Gram matrix in float64; where that is not positive, the matrix is first preconditioned by the
    triangle of a sketch of it, and columns that depend on others are replaced; at last Householder's reflections. On
    CUDA what a Gram matrix does not resolve is left to the next of up to six passes, which end without a sync.

    Differentiable any number of times where a has full rank; of a column that depends on those before it the gradient
    is zero. Forward mode raises. NaN and Inf are passed on.

    Raises:
        TypeError, ValueError: an argument of the wrong type, dtype or shape, before any work.

    Sources: Yamamoto et al., "Roundoff error analysis of the CholeskyQR2 algorithm", ETNA 2015; Balabanov, "Randomized
    Cholesky QR factorizations", 2022.
    """
    return _call_orthonormalize((a,), {})


def polar(
    a: Tensor, *, method: str = "newton_schulz", steps: int = 5, coefficients: Sequence[float] | None = None
) -> Tensor:
    """The orthogonal factor Q of A = Q·H, H symmetric and not negative, or an iteration's approximation of it.

    Args:
        a: ``[..., rows, cols]``, any leading dimensions and strides; float32, float64, bfloat16 or float16.
        method: ``"newton_schulz"``, X ← c₀X + (c₁M + c₂M²)X with M = XXᵀ from X = A/‖A‖_F; ``"cubic"``, the same with
            (1.5, −0.5, 0), which converges; ``"exact"``, U·Vᵀ of the singular value decomposition.
        steps: of the iterations.
        coefficients: c₀, c₁, c₂ of Newton–Schulz, or three for every step (Polar Express). Muon's by default,
            which make singular values of about 1 fast and never exact ones.

    Returns:
        a's shape and dtype, contiguous. Half matrices are iterated in float32 and rounded once. Zero gives zero (the
        exact method: some orthogonal matrix).

    Differentiable any number of times, by differentiating the iteration; of the exact method once. Forward mode raises.

    Raises:
        TypeError, ValueError: an argument of the wrong type, dtype, shape or value, before any work.

    Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024.
    """
    if coefficients is not None and isinstance(coefficients, Sequence) and not isinstance(coefficients, str):
        coefficients = list(coefficients)
    return _call_polar((a,), {"method": method, "steps": steps, "coefficients": coefficients})


def spectral_norm_bound(weight: Tensor, *, iters: int = 6) -> Tensor:
    """A number that is never below ‖W‖₂, rounding included, and but for that at most n^(2^−iters−2) times it, n the
    shorter side.

    Args:
        weight: ``[..., rows, cols]``, any leading dimensions and strides; float32, float64, bfloat16 or float16.
        iters: squarings of the Gram matrix.

    Returns:
        ``[...]`` in float32, or float64 of float64. Inf where the bound is out of range, NaN where
        weight holds NaN or Inf.

    Differentiable any number of times; forward mode raises.

    Raises:
        TypeError, ValueError: an argument of the wrong type, dtype, shape or value, before any work.

    Source: Delattre, Barthélemy, Araujo and Allauzen, "Efficient bound of Lipschitz constant for convolutional layers
    by Gram iteration", ICML 2023. The bound of its rounding is derived in lrkernels.reference.spectral_norm_bound.
    """
    return _call_spectral_norm_bound((weight,), {"iters": iters})


def _fake_orthonormalize(a):
    check_matrices("orthonormalize", a)
    size, dtype = torch.sym_min(a.shape[-2], a.shape[-1]), torch.promote_types(a.dtype, torch.float32)
    return (
        a.new_empty(*a.shape[:-1], size, dtype=dtype),
        a.new_empty(*a.shape[:-2], size, a.shape[-1], dtype=dtype),
    )


def _fake_polar(a, *, method="newton_schulz", steps=5, coefficients=None):
    check_polar("polar", a, method, steps, coefficients)
    return a.new_empty(a.shape)


def _fake_spectral_norm_bound(weight, *, iters=6):
    check_spectral_norm_bound("spectral_norm_bound", weight, iters)
    return weight.new_empty(weight.shape[:-2], dtype=torch.promote_types(weight.dtype, torch.float32))


# --- Registration ---

for _name, _fake, _plain, _check, _apply, _outputs in (
    ("orthonormalize", _fake_orthonormalize, reference.orthonormalize, check_matrices, _apply_orthonormalize, 2),
    ("polar", _fake_polar, reference.polar, check_polar, _apply_polar, 1),
    ("spectral_norm_bound", _fake_spectral_norm_bound, reference.spectral_norm_bound, check_spectral_norm_bound,
     _apply_spectral_norm_bound, 1),
):  # fmt: skip
    registration.register_fake(_name, _fake)
    registration.register_fallback(_name, _plain, partial(_check, _name))
    registration.register_autograd(_name, _apply)
    registration.register_no_autocast(_name)
    registration.register_vmap(_name, fold(_outputs))

_call_orthonormalize = registration.twin("orthonormalize", _apply_orthonormalize, check_matrices)
_call_polar = registration.twin("polar", _apply_polar, check_polar)
_call_spectral_norm_bound = registration.twin(
    "spectral_norm_bound", _apply_spectral_norm_bound, check_spectral_norm_bound
)
