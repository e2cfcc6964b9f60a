"""Muon: the momentum's polar factor as the step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from lrkernels.optim import options
from lrkernels.optim.coefficients import QUINTIC
from lrkernels.optim.newton_schulz import NewtonSchulzOptimizer


class Muon(NewtonSchulzOptimizer):
    """M ← μM + (1 − μ)G, W ← (1 − ηλ)W − ηs·NS((1 − μ)G + μM): Newton–Schulz of all matrices of a shape at once.

    Args:
        params: matrices, or :func:`lrkernels.optim.param_groups` of a model; its AdamW groups are AdamW's.
        lr: η, a number or a tensor.
        momentum: μ.
        nesterov: without it the step is that of M.
        weight_decay: λ, decoupled, of the unscaled η.
        coefficients: of Newton–Schulz: three numbers, or a triple for every step (``polar_express(steps)``).
        steps: of Newton–Schulz.
        scaling: s of a matrix [rows, cols]. ``"match_rms_adamw"``: 0.2·√max(rows, cols), an update as large as AdamW's,
            so that one η serves both; ``"original"``: √max(1, rows/cols); ``"none"``: 1.
        betas, eps: of the AdamW groups.
        maximize: go up.

    All but ``params`` are options of a group. State: ``momentum_buffer``, float32 or wider. The iteration runs in
    float32, torch.optim.Muon's in bfloat16, and also of gradients smaller than 1e-7. A matrix of zeros takes no step.

    Raises:
        ValueError, TypeError: an option out of range, or a parameter that is no matrix or is named like an embedding.

    Sources: Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024; Liu et al., "Muon is
    scalable for LLM training", 2025 (``match_rms_adamw``).
    """

    def __init__(
        self,
        params: Iterable,
        lr: float | Tensor = 1e-3,
        *,
        momentum: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.1,
        coefficients: Sequence = QUINTIC,
        steps: int = 5,
        scaling: str = "match_rms_adamw",
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, options.given(locals()))

    def direction(
        self,
        gradients: list[Tensor],
        state: dict[str, list[Tensor]],
        group: dict[str, Any],
        step: int,
        positions: list[int],
    ) -> Tensor:
        return self.orthogonal(gradients, group)
