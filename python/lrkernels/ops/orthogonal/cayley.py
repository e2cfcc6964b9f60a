"""cayley: fake, gradient, autocast and vmap of the op, and its Python twin."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from lrkernels import reference
from lrkernels.ops import _lowrank_checks as checks
from lrkernels.ops import _registration as registration
from lrkernels.ops._lowrank_checks import HALF_DTYPES
from lrkernels.ops.orthogonal._checks import check_cayley

_lrk = torch.ops.lrk


class _Cayley(registration.ReverseModeFunction):
    """Saves the rotation, of which the exact map's gradient is two products; of the series, skew."""

    op_name = "cayley"

    @staticmethod
    def forward(skew, block, method, terms):
        return _lrk.cayley(skew, block, method=method, terms=terms)

    @staticmethod
    def setup_context(ctx, inputs, output):
        skew, ctx.block, ctx.method, ctx.terms = inputs
        ctx.save_for_backward(output if ctx.method == "exact" else skew)

    @staticmethod
    def backward(ctx, grad):
        (saved,) = ctx.saved_tensors
        dskew = _cayley_backward(grad, saved, block=ctx.block, method=ctx.method, terms=ctx.terms)
        return dskew, None, None, None


def _apply(skew, block, *, method="exact", terms=5):
    if method == "exact" and skew.dtype in HALF_DTYPES:
        # The gradient needs R + I, of which little is left in a half R where Q is large.
        return _apply(skew.float(), block, method=method).to(skew.dtype)
    return registration.apply_function(_Cayley, skew, block, method, terms)


def cayley(skew: Tensor, block: int, *, method: str = "exact", terms: int = 5) -> Tensor:
    """Rotations from skew-symmetric matrices: R = (I + Q)(I − Q)⁻¹ = 2(I − Q)⁻¹ − I, one a block.

    R is orthogonal with determinant 1, R = I for Q = 0, and has no eigenvalue −1: an angle of π is out of reach.

    Args:
        skew: ``[blocks, block * (block − 1) / 2]``; a row is the row-major upper triangle of Q, Q[i, j] = +v and
            Q[j, i] = −v for i < j (PEFT's ``oft_R`` weights). float32, float64, bfloat16 or float16.
        block: the size of a block, at least 1.
        method: ``"exact"``; or ``"neumann"``, the first ``terms`` terms I + 2Q + … + 2Qᵗ⁻² + Qᵗ⁻¹ of the series, which
            PEFT trains with (of three terms PEFT takes four, of two I + 2Q, and so does this). It is no rotation: with
            ±iθ the eigenvalues of Q its singular values are |1 − (iθ)ᵗ⁻¹| for t ≥ 4. Of five terms these are |1 − θ⁴|,
            so ‖RᵀR − I‖₂ is |2θ⁴ − θ⁸| at the largest θ: 0.12 at 0.5, 0.88 at 0.9, and without bound above 1.
        terms: of the series, at least 1; the exact map takes no notice of it.

    Returns:
        ``[blocks, block, block]``, skew's dtype. The inverse is computed in float64 and R rounded to float32 on its
        way there, so R is right to float32's last bits, and ‖RᵀR − I‖₂ below 5e-6, while the norm of Q is below 1e4
        (at worst, of a Q with small and large eigenvalues, the error grows with its square, to about 1e-3 at 1e6;
        random blocks are far from that). NaN or Inf in a block makes its R not finite, as float32 entries near 3e38
        may, and the others do not notice.

    Differentiable any number of times; forward-mode differentiation raises. The exact map's gradient is
    dQ = ½(R + I)ᵀ G (R + I)ᵀ, so R is kept, of half skew in float32, and must then not be changed in place; the series
    keeps skew.
    Autocast does not touch this op: keep skew in float32, and R is float32 next to a half x
    (:func:`lrkernels.block_diagonal_apply`).

    Raises:
        TypeError, ValueError: an argument of the wrong type, dtype, shape or value, before any work.

    Sources: Cayley, "Sur quelques propriétés des déterminants gauches", 1846; Qiu et al., "Controlling Text-to-Image
    Diffusion by Orthogonal Finetuning", NeurIPS 2023; the series: Qiu et al., "Orthogonal Finetuning Made Scalable",
    2025.
    """
    return _call((skew, block), {"method": method, "terms": terms})


def _fake_cayley(skew, block, *, method="exact", terms=5):
    check_cayley("cayley", skew, block, method, terms)
    return skew.new_empty(skew.shape[0], block, block)


def _fake_cayley_backward(grad, saved, *, block, method, terms):
    return grad.new_empty(grad.shape[0], block * (block - 1) // 2)


# --- Registration ---

registration.register_fake("cayley", _fake_cayley)
registration.register_fallback("cayley", reference.cayley, partial(check_cayley, "cayley"))
registration.register_fake("_cayley_backward", _fake_cayley_backward)
registration.register_fallback(
    "_cayley_backward", reference.cayley_backward, partial(checks.check_backward, "cayley_backward")
)

registration.register_autograd("cayley", _apply)
_cayley_backward = registration.register_second_derivative("_cayley_backward", reference.cayley_backward)

registration.register_no_autocast("cayley")
registration.register_no_autocast("_cayley_backward")

_call = registration.twin("cayley", _apply, check_cayley)

registration.register_vmap("cayley")
registration.register_vmap("_cayley_backward")
