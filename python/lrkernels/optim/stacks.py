"""Parameters that take a step together, and how they move."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from lrkernels.optim.sharding import Layout, local

# On the CPU whatever the device: the host reads them, without waiting for anything.
HOST_STATE = ("step", "refreshed")


def wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


class Factors(NamedTuple):
    """A direction left·right: ``[count, rows, rank]``, ``[count, rank, cols]``."""

    left: Tensor
    right: Tensor


@dataclass
class Stack:
    """Parameters that take a step together."""

    step: int  # how many they have taken
    layout: Layout | None  # of matrices
    parameters: list[Tensor] = field(default_factory=list)
    states: list[dict[str, Tensor]] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)  # theirs in the group

    def gradients(self, maximize: bool) -> list[Tensor]:
        """What this process holds of them, in float32 or wider."""
        found = [local(p.grad).to(wide(p.dtype)) for p in self.parameters]
        return list(torch._foreach_neg(found)) if maximize else found

    def local_state(self, name: str) -> list[Tensor]:
        return [local(state[name]) for state in self.states]

    def count(self) -> None:
        for state in self.states:
            state["step"] += 1

    def move(self, directions: list[Tensor], lr: float | Tensor, weight_decay: float, scale: float = 1.0) -> None:
        """W ← (1 − lr·weight_decay)·W − lr·scale·direction."""
        parameters = [local(p) for p in self.parameters]
        if isinstance(lr, Tensor):
            lr = lr.reshape(())
            torch._foreach_mul_(directions, lr)
            factor = scale
        else:
            factor = lr * scale
        if weight_decay:
            torch._foreach_mul_(parameters, 1 - lr * weight_decay)
        torch._foreach_sub_(parameters, directions, alpha=factor)

    def move_by_factors(self, direction: Factors, lr: float | Tensor, weight_decay: float, scale: float) -> None:
        """The same for left·right, which is added as it is multiplied out and never formed."""
        left, right = direction
        keep = 1.0
        if isinstance(lr, Tensor):
            lr = lr.reshape(())
            left = left * lr
            if weight_decay:
                torch._foreach_mul_(self.parameters, 1 - lr * weight_decay)
            factor = scale
        else:
            keep, factor = 1 - lr * weight_decay, lr * scale
        for parameter, *factors in zip(self.parameters, left.unbind(), right.unbind(), strict=True):
            parameter.addmm_(*factors, beta=keep, alpha=-factor)
