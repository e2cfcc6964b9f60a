"""What a projected optimizer projects gradients on: the protocol, and the bases that are matrices."""

from __future__ import annotations

import torch
from torch import Tensor

from lrkernels.optim.stacks import Factors

State = dict[str, Tensor]


class Basis:
    """``rank`` directions among the rows of a stack of gradients ``g [count, rows, cols]`` with rows ≤ cols.

    The object holds options only (write a frozen dataclass: its ``repr`` stands in checkpoints). What belongs to the
    parameters is a ``state``: of one matrix a dict of tensors with at least one dimension, as ``initial`` makes it; in
    all other calls those of the stack, with a leading ``count``. Beside them ``state["refreshed"]``, int64 ``[count]``
    on the CPU, has the steps in which the bases were chosen, for bases that a seed makes.
    """

    rank: int
    reads_gradient = True  # if so, a basis is kept where the gradient to choose the next by is not finite

    def size(self, rows: int) -> int:
        return min(self.rank, rows)

    def initial(self, matrix: Tensor) -> State:
        """Any valid basis of one matrix ``[rows, cols]``, of which shape, device and dtype count."""
        return {}

    def refresh(self, state: State, g: Tensor, step: int) -> State:
        """A new basis for these gradients. At step 0 the old one is the initial one."""
        return {}

    def project(self, state: State, g: Tensor) -> Tensor:
        """``[count, size, cols]``."""
        raise NotImplementedError

    def lift(self, state: State, r: Tensor, rows: int) -> Tensor:
        """``[count, rows, cols]`` of ``r [count, size, cols]``."""
        raise NotImplementedError

    def rotate_state(self, old: State, new: State, moment: Tensor, power: int, rows: int) -> Tensor:
        """A moving average ``[count, size, cols]`` of r (``power`` 1) or r² (2) in the new basis."""
        raise NotImplementedError

    def update(self, state: State, g: Tensor, r: Tensor, direction: Tensor) -> Tensor | Factors:
        """The step of the whole matrices, from the inner optimizer's direction. May put new tensors into ``state``."""
        return self.lift(state, direction, g.shape[-2])


class MatrixBasis(Basis):
    """Of which ``matrix(state, rows)`` makes P ``[count, rows, size]`` with orthonormal columns: R = PᵀG.

    With A = P_newᵀ·P_old the first moment becomes A·M, which is exact: what the new basis sees of what the old one had.
    Of the second moments V only the diagonal of E[r·rᵀ] is known. With coordinates uncorrelated, E[(A·r)²] = A²·V, the
    square taken of every entry; where a new direction lies outside the old basis, by 1 − Σⱼ A²ᵢⱼ, nothing was seen, and
    it is given the mean of V over the old directions. Zero instead would make the first steps in new directions
    (1 − β₁)/√(1 − β₂) times, 3 with the usual betas, as long as Adam's.
    """

    def matrix(self, state: State, rows: int) -> Tensor:
        raise NotImplementedError

    def matrix_as(self, state: State, rows: int, dtype: torch.dtype) -> Tensor:
        """In the dtype that is asked for: for a basis that can make it in that one from the start."""
        return self.matrix(state, rows).to(dtype)

    def project(self, state: State, g: Tensor) -> Tensor:
        return self.matrix_as(state, g.shape[-2], g.dtype).mT @ g

    def lift(self, state: State, r: Tensor, rows: int) -> Tensor:
        return self.matrix_as(state, rows, r.dtype) @ r

    def update(self, state: State, g: Tensor, r: Tensor, direction: Tensor) -> Tensor | Factors:
        return Factors(self.matrix_as(state, g.shape[-2], direction.dtype), direction)

    def rotate_state(self, old: State, new: State, moment: Tensor, power: int, rows: int) -> Tensor:
        rotation = self.matrix_as(new, rows, moment.dtype).mT @ self.matrix_as(old, rows, moment.dtype)
        if power == 1:
            return rotation @ moment
        shares = rotation.square()
        unseen = (1 - shares.sum(-1, keepdim=True)).clamp(min=0)
        return shares @ moment + unseen * moment.mean(-2, keepdim=True)


def identity(matrix: Tensor, size: int) -> Tensor:
    """The first ``size`` unit vectors as columns: a basis before any gradient was seen."""
    return torch.eye(matrix.shape[0], size, dtype=matrix.dtype, device=matrix.device)
