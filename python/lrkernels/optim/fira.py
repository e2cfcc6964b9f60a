"""Fira: GaLore, and what it leaves out by plain steps of matching size."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lrkernels.optim import options
from lrkernels.optim.basis import State
from lrkernels.optim.galore import GaLore


@dataclass(frozen=True)
class Fira(GaLore):
    """P·N(R) + (G − P·R)·‖N(R)‖/‖R‖, norms by column, N the inner optimizer.

    ``limit``: the second term's norm grows by at most this factor from a step to the next; above it, it is scaled down.
    That takes a number a matrix, which stays on its device. Raises ValueError for a ``limit`` below 1.

    Chen et al., "Fira: can we achieve full-rank training of LLMs under low-rank constraint?", 2024.
    """

    limit: float = 1.01

    def __post_init__(self) -> None:
        options.check_at_least("Fira", "limit", self.limit, 1)  # less would shrink the term away

    def initial(self, matrix: Tensor) -> State:
        return {**super().initial(matrix), "residual_norm": matrix.new_full((1,), math.inf)}  # the first has no limit

    def refresh(self, state: State, g: Tensor, step: int) -> State:
        return {**super().refresh(state, g, step), "residual_norm": state["residual_norm"]}

    def update(self, state: State, g: Tensor, r: Tensor, direction: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(r, dim=-2, keepdim=True)
        scale = torch.linalg.vector_norm(direction, dim=-2, keepdim=True) / length.where(length > 0, 1)
        residual = (g - self.lift(state, r, g.shape[-2])).mul_(scale)
        norm, before = torch.linalg.matrix_norm(residual).unsqueeze(-1), state["residual_norm"]
        # Where there was no residual before, nothing limits this one.
        growth = torch.where(before > 0, norm / before.where(before > 0, 1), 0).clamp(min=self.limit) / self.limit
        state["residual_norm"] = norm / growth
        return self.lift(state, direction, g.shape[-2]).add_(residual.div_(growth.unsqueeze(-1)))
