"""GOFT: a tree of features − 1 Givens rotations; qGOFT: the same tree of free 2 x 2 matrices."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lrkernels.nn import givens_schedule
from lrkernels.nn.rotations.rotated_linear import RotatedLinear
from lrkernels.nn.rotations.rotation import Rotation, beside, wide
from lrkernels.ops import givens_apply


class TreeRotation(Rotation):
    """Rᵀ = P₁·P₂···, P_t the rotations of stride 2ᵗ⁻¹ of ``givens_schedule.tree``: x·Rᵀ goes through them in order.

    ``angles [features − 1]``, in radians, start at 0. One choice of them takes a given vector x to (‖x‖, 0, …).
    """

    def __init__(self, features: int, **placement: Any) -> None:
        super().__init__(features, **placement)
        self.strides = givens_schedule.butterfly(features)
        self.angles = self.parameter(features - 1)
        self.reset_parameters()

    @property
    def work(self) -> float:
        return 2.0 * len(self.strides)

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.angles)

    def _rotated(self, x: Tensor, inverse: bool) -> Tensor:
        angles = givens_schedule.tree(beside(x, self.angles), self.features)
        return givens_apply(x, angles, self.strides, inverse=inverse)

    def forward(self, x: Tensor) -> Tensor:
        return self._rotated(x, inverse=True)

    def transposed(self, x: Tensor) -> Tensor:
        return self._rotated(x, inverse=False)


def _interleaved(first: Tensor, second: Tensor) -> Tensor:
    """first[0], second[0], first[1], …; ``first`` may have one more."""
    paired = first[..., : second.shape[-1]]
    joined = torch.stack([paired, second], dim=-1).flatten(-2)
    return torch.cat([joined, first[..., second.shape[-1] :]], dim=-1)


class QuasiTreeRotation(Rotation):
    """The tree of ``TreeRotation`` with a free 2 x 2 matrix in the place of every rotation.

    ``matrices [features − 1, 2, 2]`` start as identities; matrix j − 1 takes (x_i, x_j) to matrix·(x_i, x_j), where
    i = j − 2ᵗ with 2ᵗ the lowest bit of j. ``penalty()`` is what the paper adds to the loss.
    Round t works on every 2ᵗ-th feature alone, so x·R takes about 4 multiply-adds a feature and is made of plain torch.
    """

    def __init__(self, features: int, **placement: Any) -> None:
        super().__init__(features, **placement)
        self.matrices = self.parameter(features - 1, 2, 2)
        self.reset_parameters()

    @property
    def work(self) -> float:
        return 4.0

    @torch.no_grad()
    def reset_parameters(self) -> None:
        self.matrices.copy_(
            torch.eye(2, dtype=self.matrices.dtype, device=self.matrices.device).expand_as(self.matrices)
        )

    def penalty(self) -> Tensor:
        """Σ ⟨α, β⟩² over the two columns α, β of every matrix: 0 where all are orthogonal, whatever their lengths."""
        columns = wide(self.matrices).unbind(dim=-1)
        return (columns[0] * columns[1]).sum(-1).square().sum()

    def _leaves_to_root(self, x: Tensor, matrices: Tensor) -> Tensor:
        """x·Rᵀ for these matrices: round by round, the second of each pair is done and the first goes on."""
        remaining, done = x, []
        for stride in givens_schedule.butterfly(self.features):
            first, second = remaining[..., 0::2], remaining[..., 1::2]
            paired = first[..., : second.shape[-1]]
            (a, b), (c, d) = (row.unbind(-1) for row in matrices[stride - 1 :: 2 * stride].unbind(-2))
            done.append(c * paired + d * second)
            remaining = torch.cat([a * paired + b * second, first[..., second.shape[-1] :]], dim=-1)
        for second in reversed(done):
            remaining = _interleaved(remaining, second)
        return remaining

    def _root_to_leaves(self, x: Tensor, matrices: Tensor) -> Tensor:
        """x·R for the transposes of these matrices, x·R⁻¹ᵀ for their inverses: the same rounds in the other order."""
        remaining, untouched = x, []
        strides = givens_schedule.butterfly(self.features)
        for _ in strides:
            untouched.append(remaining[..., 1::2])
            remaining = remaining[..., 0::2]
        for stride in reversed(strides):
            second = untouched.pop()
            paired = remaining[..., : second.shape[-1]]
            (a, b), (c, d) = (row.unbind(-1) for row in matrices[stride - 1 :: 2 * stride].unbind(-2))
            first = torch.cat([a * paired + b * second, remaining[..., second.shape[-1] :]], dim=-1)
            remaining = _interleaved(first, c * paired + d * second)
        return remaining

    def _beside(self, x: Tensor) -> tuple[Tensor, Tensor]:
        dtype = torch.promote_types(wide(x).dtype, wide(self.matrices).dtype)
        return x.to(dtype), self.matrices.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        y, matrices = self._beside(x)
        return self._root_to_leaves(y, matrices.mT).to(x.dtype)

    def transposed(self, x: Tensor) -> Tensor:
        y, matrices = self._beside(x)
        return self._leaves_to_root(y, matrices).to(x.dtype)

    def inverse(self, x: Tensor) -> Tensor:
        """x·R⁻¹; Inf or NaN where a matrix is singular."""
        y, matrices = self._beside(x)
        (a, b), (c, d) = (row.unbind(-1) for row in matrices.mT.unbind(-2))
        determinant = a * d - b * c
        adjugate = torch.stack([torch.stack([d, -b], dim=-1), torch.stack([-c, a], dim=-1)], dim=-2)
        return self._leaves_to_root(y, adjugate / determinant[:, None, None]).to(x.dtype)


class GOFTLinear(RotatedLinear):
    """A frozen linear layer under a tree of in_features − 1 Givens rotations of its input features (GOFT).

        merged weight W·Rᵀ,    every row of W going through rounds of strides 1, 2, 4, …;    y = base_layer(x·R)

    Round t rotates the planes (2ᵗ⁺¹m, 2ᵗ⁺¹m + 2ᵗ): in_features − 1 angles, enough to turn one vector in any direction.
    ``rotation.angles [in_features − 1]``, in radians, start at 0. With ``quasi=True`` (qGOFT) each rotation is a free
    2 x 2 matrix that starts as the identity, ``rotation.matrices [in_features − 1, 2, 2]``: lengths may change, and the
    loss gets λ·``layer.rotation.penalty()`` to keep its columns orthogonal. Else as ``RotatedLinear``.

        layer = GOFTLinear(nn.Linear(4096, 4096), quasi=True)

    Ma et al., "Parameter efficient quasi-orthogonal fine-tuning via Givens rotation", ICML 2024, equations 3 to 6.
    """

    def __init__(self, base_layer: nn.Linear, quasi: bool = False, **placement: Any) -> None:
        super().__init__(base_layer, QuasiTreeRotation if quasi else TreeRotation, **placement)
