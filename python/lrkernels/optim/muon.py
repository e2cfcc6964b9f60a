"""Muon: the momentum's polar factor as the step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

import lrkernels.ops as ops
from lrkernels.optim import options
from lrkernels.optim.coefficients import QUINTIC, check_coefficients, flat
from lrkernels.optim.matrix_optimizer import MatrixOptimizer
from lrkernels.optim.stacks import Stack

SCALINGS = ("match_rms_adamw", "original", "none")


def step_scale(scaling: str, rows: int, cols: int) -> float:
    """What an orthogonal direction is multiplied by."""
    if scaling == "match_rms_adamw":
        return 0.2 * max(rows, cols) ** 0.5
    return max(1.0, rows / cols) ** 0.5 if scaling == "original" else 1.0


class Muon(MatrixOptimizer):
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

    elementwise_state = ("momentum_buffer",)

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
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "nesterov": nesterov,
                "weight_decay": weight_decay,
                "coefficients": coefficients,
                "steps": steps,
                "scaling": scaling,
                "betas": betas,
                "eps": eps,
                "maximize": maximize,
            },
        )

    def check_options(self, group: dict[str, Any]) -> None:
        name = type(self).__name__
        options.check_share(name, "momentum", group["momentum"])
        options.check_count(name, "steps", group["steps"])
        check_coefficients(name, group["coefficients"], group["steps"])
        options.check_choice(name, "scaling", group["scaling"], SCALINGS)

    def initial_state(self, matrix: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        return {"momentum_buffer": torch.zeros_like(matrix)}

    def accumulate(self, gradients: list[Tensor], stack: Stack, group: dict[str, Any]) -> list[Tensor]:
        buffers, momentum = stack.local_state("momentum_buffer"), group["momentum"]
        torch._foreach_lerp_(buffers, gradients, 1 - momentum)
        return torch._foreach_lerp(gradients, buffers, momentum) if group["nesterov"] else buffers

    def direction(
        self,
        gradients: list[Tensor],
        state: dict[str, list[Tensor]],
        group: dict[str, Any],
        step: int,
        positions: list[int],
    ) -> Tensor:
        return self.orthogonal(gradients, group)

    def scale(self, rows: int, cols: int, group: dict[str, Any]) -> float:
        return step_scale(group["scaling"], rows, cols)

    def orthogonal(self, momentum: list[Tensor], group: dict[str, Any]) -> Tensor:
        return ops.polar(torch.stack(momentum), steps=group["steps"], coefficients=flat(group["coefficients"]))
