"""The cosine transform's columns in which the gradient has the most energy."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

import lrkernels.ops as ops
from lrkernels.optim.basis import MatrixBasis, State


@dataclass(frozen=True)
class DCT(MatrixBasis):
    """P = columns D_j of the orthonormal DCT-II with the largest ‖D_jᵀG‖, of which only the indices are stored. The
    error ‖G − PPᵀG‖² is the energy of the columns not taken, so that no other choice of as many has a smaller one.

    Modoranu et al., "SVD-free low-rank adaptive gradient optimization for large language models", 2025.
    """

    rank: int = 128

    def initial(self, matrix: Tensor) -> State:
        return {"columns": torch.arange(self.size(matrix.shape[0]), device=matrix.device)}

    def refresh(self, state: State, g: Tensor, step: int) -> State:
        rows = g.shape[-2]
        energy = ops.sketch(g, rows, kind="dct", dim=-2).square().sum(-1)
        return {"columns": energy.topk(self.size(rows)).indices.sort().values}

    def matrix(self, state: State, rows: int) -> Tensor:
        return self.matrix_as(state, rows, torch.float64)

    def matrix_as(self, state: State, rows: int, dtype: torch.dtype) -> Tensor:
        """D[i, j] = c_j·cos(π(2i + 1)j / 2·rows), looked up: it has as many values as its argument has in a period."""
        columns = state["columns"]
        period = 4 * rows
        angle = torch.arange(period, dtype=torch.float64, device=columns.device) * (math.pi / (2 * rows))
        table = (angle.cos() * (2 / rows) ** 0.5).to(dtype)
        index = torch.int32 if 2 * rows * rows < 2**31 else torch.int64
        columns = columns.to(index)
        odd = torch.arange(1, 2 * rows, 2, dtype=index, device=columns.device)
        at = (odd[:, None] * columns.unsqueeze(-2)).remainder_(period)
        found = table.index_select(0, at.flatten()).view(at.shape)
        constant = (columns == 0).to(dtype).unsqueeze(-2)
        return found.mul_(1 - (1 - 0.5**0.5) * constant)
