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


# What a process has in a stack of gradients: a step needs a few times as much, and large matrices fill a device alone.
STACK_BYTES = 16 * 2**20


def _bytes(parameter: Tensor) -> int:
    return parameter.numel() * wide(parameter.dtype).itemsize


class Factors(NamedTuple):
    """Directions left·right: stacks ``[count, rows, rank]`` and ``[count, rank, cols]``, or lists of their matrices."""

    left: Tensor | list[Tensor]
    right: Tensor | list[Tensor]

    def transposed(self) -> Factors:
        if isinstance(self.left, Tensor):
            return Factors(self.right.mT, self.left.mT)
        return Factors([matrix.mT for matrix in self.right], [matrix.mT for matrix in self.left])

    def product(self) -> Tensor:
        if isinstance(self.left, Tensor):
            return self.left @ self.right
        return torch.stack([left @ right for left, right in zip(self.left, self.right, strict=True)])


@dataclass
class Stack:
    """Parameters that take a step together."""

    step: int  # how many they have taken
    layout: Layout | None  # of matrices
    parameters: list[Tensor] = field(default_factory=list)
    states: list[dict[str, Tensor]] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)  # theirs in the group
    size: int = 0  # of gradients, in bytes

    def has_room_for(self, parameter: Tensor) -> bool:
        """Alike for all processes that share the stack out."""
        processes = 1 if self.layout is None else self.layout.processes
        return self.size + _bytes(parameter) <= STACK_BYTES * processes

    def add(self, parameter: Tensor, state: dict[str, Tensor], position: int) -> None:
        self.parameters.append(parameter)
        self.states.append(state)
        self.positions.append(position)
        self.size += _bytes(parameter)

    def gradients(self, maximize: bool) -> list[Tensor]:
        """What this process holds of them, in float32 or wider."""
        found = [local(p.grad).to(wide(p.dtype)) for p in self.parameters]
        return list(torch._foreach_neg(found)) if maximize else found

    def local_state(self, name: str) -> list[Tensor]:
        return [local(state[name]) for state in self.states]

    def count(self) -> None:
        torch._foreach_add_([state["step"] for state in self.states], 1)

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
        left, right = map(list, direction)
        keep = 1.0
        if isinstance(lr, Tensor):
            lr = lr.reshape(())
            left = torch._foreach_mul(left, lr)
            if weight_decay:
                torch._foreach_mul_(self.parameters, 1 - lr * weight_decay)
            factor = scale
        else:
            keep, factor = 1 - lr * weight_decay, lr * scale
        for parameter, *factors in zip(self.parameters, left, right, strict=True):
            parameter.addmm_(*factors, beta=keep, alpha=-factor)
