"""What the gradients of the family share: formulas of first order, and vmap by leading dimensions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lrkernels.ops import _registration as registration


class _Formula:
    """A function of tensors as one leaf that autograd.Function passes through untouched."""

    def __init__(self, name: str, function: Callable):
        self.name, self.function = name, function


class _FirstOrder(registration.ReverseModeFunction):
    """The value of a formula that must not be differentiated: singular vectors of the dropped part have no gradient."""

    op_name = "a gradient of the sketch family"

    @staticmethod
    def forward(formula, *tensors):
        return formula.function(*tensors)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.name = inputs[0].name

    @staticmethod
    def backward(ctx, *grads):
        raise RuntimeError(
            f"{ctx.name}: it has no second derivative; differentiate torch.linalg.svd where one is needed"
        )


def first_order(name: str, function: Callable, *tensors: Tensor | None) -> Tensor:
    return registration.apply_function(_FirstOrder, _Formula(name, function), *tensors)


def of_reference(name: str, function: Callable, grad: Tensor, a: Tensor) -> Tensor:
    """The vector-Jacobian product of a plain-torch twin at a, differentiable again."""
    _, vjp = torch.func.vjp(function, a)
    return vjp(grad)[0]


def fold(outputs: int) -> Callable:
    """Under vmap, the batch is one more leading dimension of every matrix."""

    def rule(batch, in_dims, args, scalars):
        folded = []
        for argument, dim in zip(args, in_dims, strict=True):
            if isinstance(argument, Tensor):
                argument = argument.expand(batch, *argument.shape) if dim is None else argument.movedim(dim, 0)
            folded.append(argument)
        return folded, 0 if outputs == 1 else (0,) * outputs

    return rule
