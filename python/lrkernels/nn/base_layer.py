"""What a module that adds a low-rank update to another layer has to know of that layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lrkernels.ops._lowrank_checks import HALF_DTYPES


def call_is_forward(module: nn.Module) -> bool:
    """Whether calling ``module`` does no more than its class's forward: no hooks, no forward of the instance's own.

    Asked of several modules in every forward of an accelerated layer, so it takes a tenth of a microsecond.
    """
    state = module.__dict__
    return not (
        state["_forward_hooks"]
        or state["_forward_pre_hooks"]
        or state["_backward_hooks"]
        or state["_backward_pre_hooks"]
        or "forward" in state
    )


def is_plain_linear(module: nn.Module) -> bool:
    """Whether calling it does no more than F.linear(x, weight, bias), so that the op may do it instead."""
    return type(module) is nn.Linear and "weight" in module._parameters and call_is_forward(module)


def factors_beside(dtype: torch.dtype, *factors: Tensor) -> tuple[Tensor, ...]:
    """The factors in dtypes that the op takes beside activations or a weight of ``dtype``."""
    wide = torch.float32 if dtype in HALF_DTYPES else dtype
    return tuple(
        factor if factor.dtype in (dtype, wide) or not wide.is_floating_point else factor.to(wide) for factor in factors
    )
