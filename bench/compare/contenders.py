"""Who is measured: lrkernels, the plain expression, torch.compile of it, PEFT's layer."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

import lrkernels
from compare.cases import Case

SCALE = 2.0


@dataclass
class Inputs:
    x: Tensor
    weight: Tensor | None
    bias: Tensor | None
    down: Tensor
    up: Tensor
    grad: Tensor

    @property
    def trained(self) -> tuple[Tensor, ...]:
        return (self.x, self.down, self.up)


Forward = Callable[[Inputs], Tensor]


def make_inputs(case: Case, device: str, copies: int = 1) -> list[Inputs]:
    """``copies`` sets that share x and the factors and differ in the weight, to keep it out of a cache."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(shape, generator=generator) * scale).to(device, case.torch_dtype)

    x = normal(case.m, case.k).requires_grad_(case.backward)
    down = normal(case.rank, case.k, scale=case.k**-0.5).requires_grad_(case.backward)
    up = normal(case.n, case.rank, scale=case.rank**-0.5).requires_grad_(case.backward)
    grad = normal(case.m, case.n)
    bias = None if case.pure else normal(case.n)
    weights = [None if case.pure else normal(case.n, case.k, scale=case.k**-0.5) for _ in range(copies)]
    return [Inputs(x, weight, bias, down, up, grad) for weight in weights]


def eager(x, weight, bias, down, up, dropout=0.0):
    """The expression PEFT evaluates."""
    dropped = F.dropout(x, dropout) if dropout else x
    low_rank = SCALE * F.linear(F.linear(dropped, down), up)
    return low_rank if weight is None else F.linear(x, weight, bias) + low_rank


def draw_seed(device: torch.device) -> Tensor:
    return torch.randint(0, 2**62, (), device=device)


def contenders(case: Case, inputs: Inputs, with_compile: bool = True) -> tuple[dict[str, Forward], dict[str, str]]:
    """Forward functions by name, ours first, and why others are absent."""
    absent: dict[str, str] = {}
    plain = functools.partial(eager, dropout=case.dropout)

    def call_plain(function: Callable) -> Forward:
        return lambda i: function(i.x, i.weight, i.bias, i.down, i.up)

    def ours(i: Inputs) -> Tensor:
        if not case.dropout:
            return torch.ops.lrk.lowrank_linear(i.x, i.down, i.up, i.weight, i.bias, scale=SCALE)
        seed = draw_seed(i.x.device)
        return torch.ops.lrk.lowrank_linear(
            i.x, i.down, i.up, i.weight, i.bias, seed=seed, scale=SCALE, dropout=case.dropout
        )

    found: dict[str, Forward] = {"lrkernels": ours, "eager": call_plain(plain)}
    if case.group == "overhead":
        found["python twin"] = lambda i: lrkernels.lowrank_linear(i.x, i.down, i.up, i.weight, i.bias, scale=SCALE)
        found["F.linear"] = lambda i: F.linear(i.x, i.weight, i.bias)
    if with_compile:
        torch.compiler.reset()
        found["compile"] = call_plain(torch.compile(plain, fullgraph=True, dynamic=False))
    else:
        absent["compile"] = "left out by --no-compile"
    try:
        found["peft"] = peft_layer(case, inputs)
    except ImportError:
        absent["peft"] = "PEFT is not installed"
    except NotImplementedError as error:
        absent["peft"] = str(error)
    return found, absent


def peft_layer(case: Case, inputs: Inputs) -> Forward:
    """PEFT's own LoRA layer around a frozen nn.Linear, with this case's numbers in it."""
    if case.pure:
        raise NotImplementedError("PEFT has no layer without a weight")
    from peft import LoraConfig, inject_adapter_in_model

    model = torch.nn.Sequential(torch.nn.Linear(case.k, case.n, device=inputs.x.device, dtype=case.torch_dtype))
    config = LoraConfig(
        r=case.rank,
        lora_alpha=SCALE * case.rank,
        lora_dropout=case.dropout,
        target_modules=["0"],
        init_lora_weights=False,
    )
    model = inject_adapter_in_model(config, model).to(inputs.x.device, case.torch_dtype).train()
    layer = model[0]
    # The very tensors of the case, so that gradients are asked for the same ones.
    layer.lora_A["default"].weight = torch.nn.Parameter(inputs.down.detach(), requires_grad=case.backward)
    layer.lora_B["default"].weight = torch.nn.Parameter(inputs.up.detach(), requires_grad=case.backward)
    layer.base_layer.weight.requires_grad_(False)
    layer.base_layer.bias = torch.nn.Parameter(inputs.bias, requires_grad=False)
    factors = (layer.lora_A["default"].weight, layer.lora_B["default"].weight)

    def forward(i: Inputs) -> Tensor:
        layer.base_layer.weight.data = i.weight
        return layer(i.x)

    forward.trained = factors
    return forward


def step(case: Case, forward: Forward, inputs: Inputs) -> Callable[[], object]:
    """One call as it is timed: the forward pass, or it and the gradients of x and both factors."""
    if not case.backward:
        return lambda: forward(inputs)
    wanted = (inputs.x, *getattr(forward, "trained", (inputs.down, inputs.up)))
    return lambda: torch.autograd.grad(forward(inputs), wanted, inputs.grad)
