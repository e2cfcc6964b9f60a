"""What optimizers that step along a momentum's polar factor share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import lrkernels.ops as ops
from lrkernels.optim import options
from lrkernels.optim.coefficients import check_coefficients, flat
from lrkernels.optim.matrix_optimizer import MatrixOptimizer
from lrkernels.optim.stacks import Stack

SCALINGS = ("match_rms_adamw", "original", "none")


def step_scale(scaling: str, rows: int, cols: int) -> float:
    """What an orthogonal direction is multiplied by."""
    if scaling == "match_rms_adamw":
        return 0.2 * max(rows, cols) ** 0.5
    return max(1.0, rows / cols) ** 0.5 if scaling == "original" else 1.0


class NewtonSchulzOptimizer(MatrixOptimizer):
    """M ← μM + (1 − μ)G, and Newton–Schulz of M, or of (1 − μ)G + μM, of all matrices of a stack at once."""

    elementwise_state = ("momentum_buffer",)

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

    def scale(self, rows: int, cols: int, group: dict[str, Any]) -> float:
        return step_scale(group["scaling"], rows, cols)

    def orthogonal(self, momentum: list[Tensor], group: dict[str, Any]) -> Tensor:
        return ops.polar(torch.stack(momentum), steps=group["steps"], coefficients=flat(group["coefficients"]))
