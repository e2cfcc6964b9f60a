"""cayley_rectangular: fake, gradient and vmap of the op, and its Python twin."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from lrkernels import reference
from lrkernels.ops import _lowrank_checks as checks
from lrkernels.ops import _registration as registration
from lrkernels.ops.orthogonal._checks import check_cayley_rectangular

_lrk = torch.ops.lrk


class _CayleyRectangular(registration.ReverseModeFunction):
    """Saves weight and the inverse that the map is made of."""

    op_name = "cayley_rectangular"

    @staticmethod
    def forward(weight):
        return _lrk._cayley_rectangular_saving(weight)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(inputs[0], output[1])

    @staticmethod
    def backward(ctx, grad, _):
        return _cayley_rectangular_backward(grad, *ctx.saved_tensors)


def _apply(weight):
    return registration.apply_function(_CayleyRectangular, weight)[0]


def cayley_rectangular(weight: Tensor) -> Tensor:
    """Orthonormal columns (of a wide weight: rows) from any matrix, by a Cayley transform.

    With weight = [U; V], U square,

        A = U − Uᵀ + VᵀV,    Q = [(I + A)⁻¹(I − A); −2V(I + A)⁻¹],    QᵀQ = I

    and a wide weight's Q is the transpose of its transpose's. I + A is never singular. A square weight reaches every
    rotation without the eigenvalue −1.

    Args:
        weight: ``[..., rows, cols]``, any leading dimensions and strides; float32, float64, bfloat16 or float16. Half
            weights are mapped in float32 and rounded once. Autocast does not change the dtype.

    Returns:
        ``[..., rows, cols]``, contiguous, weight's dtype. In float32 ‖QᵀQ − I‖₂ is below 5e-6 for ‖A‖₂ up to 1000:
        where the inverse is less exact, it gets a Newton step and Q a Newton–Schulz step. The CPU looks whether they
        are needed (up to two of each, which ``lrkernels.explain`` cannot foresee); on CUDA every float32 map gets one
        of each, four products more (six where Q is not square). Float32 entries from about 1e19 on, where VᵀV
        overflows, and NaN and Inf give a result that is not finite.

    Differentiable any number of times (of the map itself, not of its polish); forward-mode differentiation raises.
    weight and (I + A)⁻¹, ``[..., n, n]`` with the smaller side n, are kept for the backward pass, which solves nothing.

    Raises:
        TypeError, ValueError: an argument of the wrong type, dtype or shape, before any work.

    Source: Wang and Manchester, "Direct Parameterization of Lipschitz-Bounded Deep Networks", ICML 2023; Trockman and
    Kolter, "Orthogonalizing Convolutional Layers with the Cayley Transform", ICLR 2021.
    """
    return _call((weight,), {})


def _fake_cayley_rectangular_saving(weight):
    check_cayley_rectangular("cayley_rectangular", weight)
    size = min(weight.shape[-2:])
    dtype = torch.promote_types(weight.dtype, torch.float32)
    return weight.new_empty(weight.shape), weight.new_empty(*weight.shape[:-2], size, size, dtype=dtype)


def _fake_cayley_rectangular(weight):
    return _fake_cayley_rectangular_saving(weight)[0]


def _fake_cayley_rectangular_backward(grad, weight, inverse):
    return weight.new_empty(weight.shape)


def _fold(batch, in_dims, args, scalars):
    """Under vmap, the batch is one more leading dimension of all."""
    pairs = zip(args, in_dims, strict=True)
    return [a.movedim(d, 0) if d is not None else a.expand(batch, *a.shape) for a, d in pairs], 0


def _fold_saving(batch, in_dims, args, scalars):
    return _fold(batch, in_dims, args, scalars)[0], (0, 0)


# --- Registration ---

for _name, _fake, _plain in (
    ("cayley_rectangular", _fake_cayley_rectangular, reference.cayley_rectangular),
    ("_cayley_rectangular_saving", _fake_cayley_rectangular_saving, reference.cayley_rectangular_saving),
):
    registration.register_fake(_name, _fake)
    registration.register_fallback(_name, _plain, partial(check_cayley_rectangular, "cayley_rectangular"))
registration.register_fake("_cayley_rectangular_backward", _fake_cayley_rectangular_backward)
registration.register_fallback(
    "_cayley_rectangular_backward",
    reference.cayley_rectangular_backward,
    partial(checks.check_backward, "cayley_rectangular_backward"),
)

registration.register_autograd("cayley_rectangular", _apply)
_cayley_rectangular_backward = registration.register_second_derivative(
    "_cayley_rectangular_backward", reference.cayley_rectangular_backward
)

for _name in ("cayley_rectangular", "_cayley_rectangular_saving", "_cayley_rectangular_backward"):
    registration.register_no_autocast(_name)

_call = registration.twin("cayley_rectangular", _apply, check_cayley_rectangular)

registration.register_vmap("cayley_rectangular", _fold)
registration.register_vmap("_cayley_rectangular_saving", _fold_saving)
registration.register_vmap("_cayley_rectangular_backward", _fold)
