"""Results against double precision, before anybody's time is shown."""

from __future__ import annotations

import torch
from torch import Tensor

from compare.cases import Case
from compare.contenders import SCALE, Forward, Inputs, draw_seed, eager
from lrkernels import reference

# Allowed error relative to the norm: a few roundings of the dtype, in a product and in the sum of two.
TOLERANCE = {"fp64": 1e-13, "fp32": 1e-5, "fp16": 4e-3, "bf16": 3e-2}


def _double(inputs: Inputs) -> Inputs:
    def wide(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.detach().double().requires_grad_(tensor.requires_grad)

    return Inputs(*(wide(getattr(inputs, name)) for name in ("x", "weight", "bias", "down", "up", "grad")))


def relative_error(got: Tensor, want: Tensor) -> float:
    difference = torch.linalg.vector_norm(got.detach().double() - want.detach())
    return float(difference / torch.linalg.vector_norm(want.detach()).clamp_min(1e-30))


def failure(case: Case, name: str, forward: Forward, inputs: Inputs) -> str | None:
    """What is wrong with a contender's result (and gradients), or None.

    With dropout only lrkernels can be checked: its mask is a function of the seed; torch's is not known outside.
    """
    tolerance = TOLERANCE[case.dtype]
    wide = _double(inputs)
    if case.dropout:
        if name != "lrkernels":
            return None
        torch.manual_seed(17)
        got = forward(inputs)
        torch.manual_seed(17)
        seed = draw_seed(inputs.x.device)
        want = reference.lowrank_linear(
            wide.x, wide.down, wide.up, wide.weight, wide.bias, seed=seed, scale=SCALE, dropout=case.dropout
        )
    else:
        got = forward(inputs)
        if name == "F.linear":
            want = torch.nn.functional.linear(wide.x, wide.weight, wide.bias)
        else:
            want = eager(wide.x, wide.weight, wide.bias, wide.down, wide.up)
    if not (error := relative_error(got, want)) <= tolerance:
        return f"y is off by {error:.2g} of its norm, {tolerance:g} is allowed"
    if not case.backward:
        return None
    wanted = (inputs.x, *getattr(forward, "trained", (inputs.down, inputs.up)))
    grads = torch.autograd.grad(got, wanted, inputs.grad)
    for label, grad, wide_grad in zip(
        ("x", "down", "up"), grads, torch.autograd.grad(want, wide.trained, wide.grad), strict=True
    ):
        if not (error := relative_error(grad, wide_grad)) <= tolerance:
            return f"the gradient of {label} is off by {error:.2g} of its norm, {tolerance:g} is allowed"
    return None
