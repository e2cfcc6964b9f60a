"""Dion: an orthonormal step of a given rank by one warm power step, with what it leaves out fed back."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

import lrkernels.ops as ops
from lrkernels.optim import options
from lrkernels.optim.matrix_optimizer import MatrixOptimizer
from lrkernels.optim.stacks import Factors


class Dion(MatrixOptimizer):
    """B = M + G, P = orthonormalize(B·Q), R = Bᵀ·P, M ← B − (1 − μ)·P·Rᵀ, Q ← R with unit columns,
    W ← (1 − ηλ)W − η·√(rows/cols)·P·Qᵀ.

    Args:
        params: matrices, or :func:`lrkernels.optim.param_groups` of a model; its AdamW groups are AdamW's.
        lr: η, a number or a tensor.
        rank_fraction: the rank of P and Q as a share of min(rows, cols), above 0 and at most 1, rounded up.
        momentum: μ.
        weight_decay: λ, decoupled.
        seed: of the first Q, random signs.
        betas, eps: of the AdamW groups.
        maximize: go up.

    All but ``params`` are options of a group. State: ``momentum_buffer`` (M) ``[rows, cols]`` and ``right`` (Q)
    ``[cols, rank]``. A column of R that is 0 but for rounding takes no step, and Q keeps the column it had: gradients
    of a lower rank than Q's make steps of theirs.

    At full rank and with a momentum that stays as it is, P·Qᵀ converges to the polar factor, by the power iteration
    that the steps make; one step alone does not give it.

    Raises:
        ValueError, TypeError: an option out of range, or a parameter that is no matrix or is named like an embedding.

    Ahn, Xu, Abreu and Langford, "Dion: distributed orthonormalized updates", 2025.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float | Tensor = 1e-2,
        *,
        rank_fraction: float = 0.25,
        momentum: float = 0.95,
        weight_decay: float = 0.01,
        seed: int = 0,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, options.given(locals()))

    def check_options(self, group: dict[str, Any]) -> None:
        options.check_share("Dion", "momentum", group["momentum"])
        options.check_number("Dion", "rank_fraction", group["rank_fraction"])
        if not 0 < group["rank_fraction"] <= 1:
            raise ValueError(f"Dion: rank_fraction is {group['rank_fraction']}, expected a number in (0, 1]")
        options.check_count("Dion", "seed", group["seed"], least=0)

    def initial_state(self, matrix: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        rows, cols = matrix.shape
        rank = max(1, math.ceil(group["rank_fraction"] * min(rows, cols) - 1e-9))  # 0.1 · 30 is above 3
        signs = ops.sketch(torch.eye(cols, dtype=matrix.dtype, device=matrix.device), rank, seed=group["seed"])
        return {"momentum_buffer": torch.zeros_like(matrix), "right": signs / torch.linalg.vector_norm(signs, dim=0)}

    def direction(
        self,
        gradients: list[Tensor],
        state: dict[str, list[Tensor]],
        group: dict[str, Any],
        step: int,
        positions: list[int],
    ) -> Factors:
        accumulated = torch.stack(state["momentum_buffer"]).add_(torch.stack(gradients))
        before = torch.stack(state["right"])
        left, triangle = ops.orthonormalize(accumulated @ before)
        right = accumulated.mT @ left
        state["momentum_buffer"] = list(accumulated.baddbmm(left, right.mT, alpha=group["momentum"] - 1).unbind())
        largest = right.abs().amax((-2, -1), keepdim=True)
        unit = right / largest.where(largest > 0, 1)  # first, for squares of small gradients vanish
        length = torch.linalg.vector_norm(unit, dim=-2, keepdim=True)
        live = (length > 0) & ~_rounding(triangle, length, max(accumulated.shape[-2:]))
        unit = (unit / length).where(live, 0)
        state["right"] = list(unit.where(live, before).unbind())
        return Factors(left, unit.mT)

    def scale(self, rows: int, cols: int, group: dict[str, Any]) -> float:
        return (rows / cols) ** 0.5


def _rounding(triangle: Tensor, length: Tensor, size: int) -> Tensor:
    """``[count, 1, rank]``: columns of R that are what rounding leaves of 0.

    Where a column of B·Q depends on those before it, its P is any direction beside theirs, and BᵀP is 0 but for ε times
    the condition of the columns before. Both are asked, for a small column of R may well be one of B's own directions.
    """
    epsilon = torch.finfo(triangle.dtype).eps
    diagonal = triangle.diagonal(dim1=-2, dim2=-1).abs().unsqueeze(-2)
    dependent = diagonal <= 8 * size**0.5 * epsilon * triangle.abs().amax((-2, -1), keepdim=True)
    return dependent & (length <= epsilon**0.5 * length.amax(-1, keepdim=True))
