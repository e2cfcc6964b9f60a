"""NorMuon: Muon whose rows (neurons) are normalised by their own second moment."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from lrkernels.optim import options
from lrkernels.optim.coefficients import QUINTIC
from lrkernels.optim.newton_schulz import NewtonSchulzOptimizer


class NorMuon(NewtonSchulzOptimizer):
    """O = NS(momentum), v ← β₂v + (1 − β₂)·mean over columns of O², Ô = O / (√v + ε), W ← (1 − ηλ)W − ηs·Ô/‖Ô‖_F.

    Muon's options, and

    Args:
        beta2: β₂ of v, ``[rows]``; 0 makes the RMS of every row equal.
        norm_eps: ε. v starts at 0 and is not corrected: the factor that it lacks cancels in Ô/‖Ô‖_F but for ε.
        scaling: ``"match_rms_adamw"``, the paper's: s = 0.2·√(rows·cols), an update whose RMS is 0.2 exactly.
            ``"original"`` and ``"none"``: Muon's, of a direction with the norm that O had.

    State: ``momentum_buffer`` and ``row_square`` (v). The paper's momentum is not Nesterov's; this default is, as its
    authors' code.

    Li, Wang, Liang, Yang and Zhao, "NorMuon: making Muon more efficient and scalable", 2025.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float | Tensor = 1e-3,
        *,
        momentum: float = 0.95,
        beta2: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.1,
        coefficients: Sequence = QUINTIC,
        steps: int = 5,
        scaling: str = "match_rms_adamw",
        norm_eps: float = 1e-8,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, options.given(locals()))

    def check_options(self, group: dict[str, Any]) -> None:
        super().check_options(group)
        options.check_share("NorMuon", "beta2", group["beta2"])
        options.check_at_least("NorMuon", "norm_eps", group["norm_eps"], 0)

    def initial_state(self, matrix: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        return {**super().initial_state(matrix, group), "row_square": matrix.new_zeros(matrix.shape[0])}

    def direction(
        self,
        gradients: list[Tensor],
        state: dict[str, list[Tensor]],
        group: dict[str, Any],
        step: int,
        positions: list[int],
    ) -> Tensor:
        rows, cols = gradients[0].shape
        orthogonal = self.orthogonal(gradients, group)
        squares = orthogonal.square().mean(-1)
        torch._foreach_lerp_(state["row_square"], list(squares.unbind()), 1 - group["beta2"])
        if group["scaling"] == "match_rms_adamw":
            norm = (rows * cols) ** 0.5
        else:
            norm = (squares.sum(-1) * cols).sqrt()
        divisor = torch.stack(state["row_square"]).sqrt() + group["norm_eps"]
        # A row that never had a gradient is 0, and what a matrix of zeros is divided by is nothing.
        orthogonal.div_(divisor.where(divisor > 0, 1).unsqueeze(-1))
        length = torch.linalg.matrix_norm(orthogonal)
        return orthogonal.mul_((norm / length.where(length > 0, 1))[:, None, None])

    def scale(self, rows: int, cols: int, group: dict[str, Any]) -> float:
        return 0.2 if group["scaling"] == "match_rms_adamw" else super().scale(rows, cols, group)
