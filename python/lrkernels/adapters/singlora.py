"""SingLoRA: one factor, multiplied by its own transpose."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from lrkernels.adapters.low_rank_adapter import Factors, LowRankAdapter
from lrkernels.nn.arguments import check_size


class SingLoRA(LowRankAdapter):
    """W + scale·u(t)·A_out·A_inᵀ, with A_out and A_in the first ``out`` and ``in`` rows of A ``[max(out, in), r]``.

    u(t) = min(t / ramp_steps, 1) ramps the update up, because A starts random (as ``nn.Linear`` starts its weight) and
    not at zero. t is the buffer ``step``; ``count_steps(optimizer, model)`` advances it, and without that the update
    stays at zero. u goes through the op's gate, so it neither recompiles nor waits for the device.

    Bensaïd, Rotstein, Velich, Bensaïd and Kimmel, "SingLoRA: low rank adaptation using a single matrix", 2025.
    """

    def __init__(self, base_layer: nn.Linear, r: int, *args: Any, ramp_steps: int = 100, **kwargs: Any) -> None:
        super().__init__(base_layer, r, *args, **kwargs)
        check_size("SingLoRA", "ramp_steps", ramp_steps)
        self.ramp_steps = ramp_steps
        self.factor = self.parameter(max(self.in_features, self.out_features), r)
        self.register_buffer("step", torch.zeros((), dtype=torch.int64, device=self.factor.device))

    def reset_parameters(self, base_layer: nn.Linear) -> None:
        nn.init.kaiming_uniform_(self.factor, a=math.sqrt(5))
        self.step.zero_()

    def factors(self) -> Factors:
        ramp = (self.step / self.ramp_steps).clamp(max=1.0).to(self.factor.dtype).reshape(1)
        return Factors(
            self.factor[: self.in_features].mT, self.factor[: self.out_features], gate=ramp, scale=self.scale
        )


def count_steps(optimizer: torch.optim.Optimizer, model: nn.Module) -> RemovableHandle:
    """Let every step of the optimizer advance t in the SingLoRA adapters of the model; ``remove()`` undoes it.

    Raises ValueError when the model has none.
    """
    adapters = [module for module in model.modules() if isinstance(module, SingLoRA)]
    if not adapters:
        raise ValueError("count_steps: the model has no SingLoRA adapter")

    def advance(*_: Any) -> None:
        for adapter in adapters:
            adapter.step.add_(1)

    return optimizer.register_step_post_hook(advance)
