"""What a module that updates another layer has to know of that layer."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lrkernels.nn.arguments import is_ordinary
from lrkernels.ops import lowrank_linear
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


_LINEAR_FORWARD = nn.Linear.forward


def linear_is_torchs() -> bool:
    """Whether ``nn.Linear.forward`` is the one found at import: who replaces it for every layer relies on its calls."""
    return nn.Linear.forward is _LINEAR_FORWARD


def is_plain_linear(module: nn.Module) -> bool:
    """Whether calling it does no more than F.linear(x, weight, bias), so that the op may do it instead."""
    weight = module._parameters.get("weight") if type(module) is nn.Linear else None
    return weight is not None and is_ordinary(weight) and call_is_forward(module) and linear_is_torchs()


def factors_beside(dtype: torch.dtype, *factors: Tensor) -> tuple[Tensor, ...]:
    """The factors in dtypes that the op takes beside activations or a weight of ``dtype``."""
    wide = torch.float32 if dtype in HALF_DTYPES else dtype
    return tuple(
        factor if factor.dtype in (dtype, wide) or not wide.is_floating_point else factor.to(wide) for factor in factors
    )


def factor_dtype(weight: Tensor) -> torch.dtype:
    """The dtype of new factors beside a weight: float32 where small updates would round away in it."""
    return weight.dtype if weight.dtype in (torch.float32, torch.float64) else torch.float32


def dropout_seed(x: Tensor, dropout: float) -> Tensor | None:
    """What a module hands to the op's ``seed``: a draw from torch's generator, repeated by ``manual_seed``."""
    return torch.randint(0, 2**62, (), device=x.device) if dropout > 0.0 else None


class BaseCall:
    """A base layer called with x, for a module that changes what it computes.

    A plain linear layer is not run but handed to the op, which computes x·weightᵀ + bias and the update together. Any
    other layer (a subclass, a parametrized or hooked one, one with further arguments) runs once: when ``x`` or
    ``output`` is first asked for, or with an input of the update's own in ``at``. ``input`` is what the caller gave,
    ``x`` is cast to the output's dtype where the layer runs.
    """

    def __init__(self, layer: nn.Linear, x: Tensor, args: tuple = (), kwargs: dict[str, Any] | None = None) -> None:
        self.layer = layer
        self.input = x
        self.is_plain = not (args or kwargs) and is_plain_linear(layer)
        self._arguments = args, kwargs or {}
        self._output = None

    def at(self, x: Tensor) -> Tensor:
        """The base layer's output for another input in the place of the caller's."""
        if self.is_plain:
            return F.linear(x, self.layer.weight, self.layer.bias)
        args, kwargs = self._arguments
        return self.layer(x, *args, **kwargs)

    @property
    def output(self) -> Tensor:
        """What the base layer computes; of a plain linear layer it is computed at each access."""
        if self.is_plain:
            return self.at(self.input)
        if self._output is None:
            self._output = self.at(self.input)
        return self._output

    @property
    def x(self) -> Tensor:
        return self.input if self.is_plain else self.input.to(self.output.dtype)

    @property
    def weight(self) -> Tensor:
        return self.layer.weight

    @property
    def bias(self) -> Tensor | None:
        return self.layer.bias

    def plus(
        self,
        x: Tensor,
        down: Tensor,
        up: Tensor,
        core: Tensor | None = None,
        gate: Tensor | None = None,
        *,
        scale: float = 1.0,
        dropout: float = 0.0,
        with_bias: bool = True,
    ) -> Tensor:
        """base(x) + scale·(gate ⊙ (drop(x)·downᵀ))·coreᵀ·upᵀ, in one op where the base is a plain linear layer.

        Factors of any dtype serve; those that the op does not take beside x are cast. Without its bias, the base is
        x·weightᵀ alone.
        """
        bias = self.layer.bias
        if self.is_plain:
            operands = {"weight": self.layer.weight, "bias": bias if with_bias else None}
        else:
            operands = {"base": self.output if with_bias or bias is None else self.output - bias}
        down, up = factors_beside(x.dtype, down, up)
        if core is not None:
            (core,) = factors_beside(x.dtype, core)
        if gate is not None:
            (gate,) = factors_beside(x.dtype, gate)
        return lowrank_linear(
            x, down, up, core=core, gate=gate, seed=dropout_seed(x, dropout), scale=scale, dropout=dropout, **operands
        )
