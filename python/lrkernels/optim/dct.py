"""The cosine transform's columns in which the gradient has the most energy."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import one_hot

import lrkernels.ops as ops
from lrkernels.optim.basis import MatrixBasis, State, identity


@dataclass(frozen=True)
class DCT(MatrixBasis):
    """P = columns D_j of the orthonormal DCT-II with the largest ‖D_jᵀG‖, of which only the indices are stored. The
    error ‖G − PPᵀG‖² is the energy of the columns not taken, so that no other choice of as many has a smaller one.

    Modoranu et al., "SVD-free low-rank adaptive gradient optimization for large language models", 2025.
    """

    rank: int = 128

    def initial(self, matrix: Tensor) -> State:
        return {"columns": identity(matrix, self.size(matrix.shape[0])).argmax(0)}

    def refresh(self, state: State, g: Tensor, step: int) -> State:
        rows = g.shape[-2]
        energy = ops.sketch(g, rows, kind="dct", dim=-2).square().sum(-1)
        return {"columns": energy.topk(self.size(rows)).indices.sort().values}

    def matrix(self, state: State, rows: int) -> Tensor:
        return ops.unsketch(one_hot(state["columns"], rows).mT.float(), rows, kind="dct", dim=-2)
