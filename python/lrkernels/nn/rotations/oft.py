"""OFT: block-diagonal orthogonal transforms by the Cayley map."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from lrkernels.nn.arguments import check_finite, check_size
from lrkernels.nn.rotations.rotated_linear import RotatedLinear
from lrkernels.nn.rotations.rotation import Rotation, beside, gram_error, wide
from lrkernels.ops import block_diagonal_apply, cayley
from lrkernels.reference import skew_matrices

# Above this, R is no longer nearly orthogonal: it shrinks some directions by a sixth.
LARGEST_NEUMANN_ERROR = 0.3


def check_blocks(name: str, features: int, block_size: int) -> None:
    check_size(name, "block_size", block_size)
    if block_size < 2:
        raise ValueError(f"{name}: block_size is {block_size}, expected at least 2: a 1 x 1 rotation is the number 1")
    if features % block_size:
        raise ValueError(f"{name}: block_size is {block_size}, expected a divisor of in_features = {features}")


def check_method(name: str, method: str, terms: int) -> None:
    if method not in ("exact", "neumann"):
        raise ValueError(f"{name}: method is {method!r}, expected 'exact' or 'neumann'")
    check_size(name, "terms", terms)


def neumann_error(theta: Tensor, terms: int) -> Tensor:
    """The largest |σ² − 1| over eigenvalues ±iθ', θ' ≤ theta, of Q for the singular values σ of the series' R.

    The series of t ≥ 4 terms is R = (I + Q)(I + Q + … + Qⁿ⁻¹) with n = t − 1, that is the exact map times I − Qⁿ, so
    σ = |1 − (iθ)ⁿ|. Fewer terms are PEFT's: 3 is the same as 4, 2 is I + 2Q, 1 the identity.
    """
    if terms == 1:
        return torch.zeros_like(theta)
    if terms == 2:  # R = I + 2Q
        return 4.0 * theta.square()
    n = max(terms, 4) - 1
    power = theta**n
    if n % 2:
        return power.square()
    if n % 4 == 2:
        return 2.0 * power + power.square()
    # |(1 − p)² − 1| = |p² − 2p| rises to 1 at p = 1 and passes 1 again at p = 1 + √2.
    return torch.where(power <= 1.0, 2.0 * power - power.square(), (power.square() - 2.0 * power).clamp(min=1.0))


def within_coft_bound(skew: Tensor, eps: float) -> Tensor:
    """The rows of skew, those with ‖Q_i‖_F = √2·‖row‖ above eps / √rows scaled back to that."""
    norm = math.sqrt(2.0) * torch.linalg.vector_norm(skew, dim=1, keepdim=True, dtype=wide(skew).dtype)
    bound = eps / math.sqrt(skew.shape[0])
    # Some roundings above the bound count as on it, so that a projected skew is not scaled again.
    inside = norm <= bound * (1.0 + 8.0 * torch.finfo(skew.dtype).eps)
    return torch.where(inside, skew, (skew * (bound / norm)).to(skew.dtype))


class BlockRotation(Rotation):
    """R = diag(R₁, R₂, …), block_size x block_size matrices R_i = (I + Q_i)(I − Q_i)⁻¹ with Q_i skew-symmetric.

    ``skew [features // block_size, block_size·(block_size − 1) / 2]`` holds the row-major upper triangles of Q and
    starts at 0; with ``block_share`` there is one row, and every block is the same. ``lrkernels.cayley`` and
    ``lrkernels.block_diagonal_apply`` have the conventions and ``method`` and ``terms``.

    ``coft_eps`` (constrained OFT) holds every block within ‖Q_i‖_F ≤ coft_eps / √rows of skew: where it is larger, R is
    that of Q_i scaled down to the bound, and the gradient is the one there, straight through the scaling.
    ``project_()`` writes the scaled Q into skew, which projected gradient descent does after every step: see
    ``project_after_steps``.
    """

    def __init__(
        self,
        features: int,
        block_size: int = 32,
        *,
        method: str = "exact",
        terms: int = 5,
        block_share: bool = False,
        coft_eps: float | None = None,
        **placement: Any,
    ) -> None:
        super().__init__(features, **placement)
        check_blocks("OFT", features, block_size)
        check_method("OFT", method, terms)
        if coft_eps is not None:
            check_finite("OFT", "coft_eps", coft_eps)
            if coft_eps <= 0.0:
                raise ValueError(f"OFT: coft_eps is {coft_eps}, expected a positive number")
        self.block_size, self.method, self.terms = block_size, method, terms
        self.block_share, self.coft_eps = block_share, coft_eps
        rows = 1 if block_share else features // block_size
        self.skew = self.parameter(rows, block_size * (block_size - 1) // 2)
        self.reset_parameters()

    @property
    def work(self) -> float:
        return float(self.block_size)

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.skew)

    @torch.no_grad()
    def project_(self) -> None:
        """Scale every Q_i that is outside the bound of ``coft_eps`` back to it, in place."""
        if self.coft_eps is not None:
            self.skew.copy_(within_coft_bound(self.skew, self.coft_eps))

    def constrained_skew(self) -> Tensor:
        """skew within the bound of ``coft_eps``, with the gradient of skew itself."""
        if self.coft_eps is None:
            return self.skew
        return self.skew + (within_coft_bound(self.skew, self.coft_eps) - self.skew).detach()

    def blocks(self) -> Tensor:
        """The matrices R_i, ``[blocks or 1, block_size, block_size]``, in float32 or wider."""
        return cayley(wide(self.constrained_skew()), self.block_size, method=self.method, terms=self.terms)

    def forward(self, x: Tensor) -> Tensor:
        return block_diagonal_apply(x, beside(x, self.blocks()))

    def transposed(self, x: Tensor) -> Tensor:
        return block_diagonal_apply(x, beside(x, self.blocks()), transpose=True)

    def inverse(self, x: Tensor) -> Tensor:
        if self.method == "exact":
            return self.transposed(x)
        return block_diagonal_apply(x, beside(x, torch.linalg.inv(self.blocks())))

    @torch.no_grad()
    def neumann_error_bound(self) -> Tensor:
        """What ‖RᵀR − I‖₂ is at most in exact arithmetic: 0 for the exact map, and for the series, with θ = ‖Q‖₂,
        2θ⁴ − θ⁸ at five terms: 0.016 at θ = 0.3, 0.12 at 0.5, 0.88 at 0.9. A float64 scalar; no bound for NaN."""
        if self.method == "exact":
            return torch.zeros((), dtype=torch.float64, device=self.skew.device)
        skew = self.skew if self.coft_eps is None else within_coft_bound(self.skew, self.coft_eps)
        theta = torch.linalg.matrix_norm(skew_matrices(skew.double(), self.block_size), 2).max()
        return neumann_error(theta, self.terms)

    @torch.no_grad()
    def orthogonality_error(self) -> Tensor:
        """‖RᵀR − I‖₂, a float64 scalar: the largest of the blocks. Warns as ``warn_if_far_from_orthogonal``."""
        self.warn_if_far_from_orthogonal()
        return gram_error(self.blocks())

    def warn_if_far_from_orthogonal(self) -> None:
        """Warn when ``neumann_error_bound()`` is above 0.3. Reads it on the host, so forward does not ask."""
        if self.method == "neumann" and not self.skew.is_meta:
            bound = self.neumann_error_bound().item()
            if bound > LARGEST_NEUMANN_ERROR:
                warnings.warn(
                    f"OFT: the Neumann series of {self.terms} terms is far from orthogonal, ||R'R - I|| up to "
                    f"{bound:.2g}; use method='exact', smaller steps, or coft_eps",
                    stacklevel=3,
                )

    def extra_repr(self) -> str:
        options = f"block_size={self.block_size}, method={self.method!r}, block_share={self.block_share}"
        return f"{super().extra_repr()}, {options}, coft_eps={self.coft_eps}"


class OFTLinear(RotatedLinear):
    """A frozen linear layer under a block-diagonal orthogonal transform of its input features (OFT).

        y = base_layer(x·R),    R = diag(R₁, R₂, …),    R_i = (I + Q_i)(I − Q_i)⁻¹;    merged weight W·Rᵀ

    ``rotation.skew [in_features // block_size, block_size·(block_size − 1) / 2]`` holds the row-major upper triangles
    of the skew-symmetric Q_i and starts at 0, PEFT's layout of ``oft_R``; ``block_share`` makes it one row for all
    blocks. ``method="exact"`` computes R_i by an inverse and is orthogonal to rounding at any Q. ``"neumann"`` is
    PEFT's default, a series of ``terms`` terms, orthogonal for small Q only: ``rotation.neumann_error_bound()`` bounds
    ‖RᵀR − I‖₂, and merging or ``orthogonality_error()`` warns above 0.3. ``coft_eps`` bounds ‖Q_i‖_F (COFT): outside
    the bound skew gets the gradient at the scaled Q_i, straight through the scaling, which is not the derivative; call
    ``project_after_steps(optimizer, model)`` once, and there is no outside. Else as ``RotatedLinear``.

        layer = OFTLinear(nn.Linear(4096, 4096), block_size=32)

    Raises ValueError for a block_size that does not divide in_features. Eigenvalues of −1 are out of the Cayley map's
    reach: for turns of half a circle use ``GivensLinear``.

    Qiu et al., "Controlling text-to-image diffusion by orthogonal finetuning", NeurIPS 2023, and "Orthogonal finetuning
    made scalable", 2025.
    """

    def __init__(
        self,
        base_layer: nn.Linear,
        block_size: int = 32,
        *,
        method: str = "exact",
        terms: int = 5,
        block_share: bool = False,
        coft_eps: float | None = None,
        **placement: Any,
    ) -> None:
        options = {"method": method, "terms": terms, "block_share": block_share, "coft_eps": coft_eps}
        super().__init__(base_layer, BlockRotation, block_size, **options, **placement)

    def _merged(self) -> Tensor:
        self.rotation.warn_if_far_from_orthogonal()
        return super()._merged()


def project_after_steps(optimizer: torch.optim.Optimizer, model: nn.Module) -> torch.utils.hooks.RemovableHandle:
    """Project every COFT rotation of a model onto its bound after each step of the optimizer (until ``remove()``).

    Raises ValueError when the model has none.
    """
    rotations = [m for m in model.modules() if isinstance(m, BlockRotation) and m.coft_eps is not None]
    if not rotations:
        raise ValueError("project_after_steps: the model has no OFT rotation with coft_eps")

    def project(*_: Any) -> None:
        for rotation in rotations:
            rotation.project_()

    return optimizer.register_step_post_hook(project)
