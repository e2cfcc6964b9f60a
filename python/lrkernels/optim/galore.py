"""GaLore: the gradient's leading left singular vectors."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

import lrkernels.ops as ops
from lrkernels.optim.basis import MatrixBasis, State, identity


@dataclass(frozen=True)
class GaLore(MatrixBasis):
    """P = U_r of G ≈ U·S·Vᵀ, by ``rsvd``; with ``warm`` all but the first by one power step, P ← orth(G·(GᵀP)), which
    costs two thin products and moves with the gradient's directions instead of jumping to this one's.

    Zhao et al., "GaLore: memory-efficient LLM training by gradient low-rank projection", ICML 2024; power steps instead
    of an SVD: Liao et al., "GaLore⁺", 2024.
    """

    rank: int = 128
    warm: bool = False

    def initial(self, matrix: Tensor) -> State:
        return {"projection": identity(matrix, self.size(matrix.shape[0]))}

    def refresh(self, state: State, g: Tensor, step: int) -> State:
        if self.warm and step > 0:
            return {"projection": ops.orthonormalize(g @ (g.mT @ state["projection"]))[0]}
        return {"projection": ops.rsvd(g, self.size(g.shape[-2]), seed=step, check="ignore")[0]}

    def matrix(self, state: State, rows: int) -> Tensor:
        return state["projection"]
