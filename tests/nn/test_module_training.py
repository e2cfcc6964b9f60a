"""The modules in the machinery of training: checkpointing, compile, autocast, an optimizer."""

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from lrkernels.nn import LoRALinear, LowRankLinear, replace_linear


def adapted_model(dropout=0.0):
    model = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
    replace_linear(model, partial(LoRALinear, r=4, alpha=8, dropout=dropout), target_modules="all-linear")
    for layer in (model[0], model[2]):
        nn.init.normal_(layer.lora_B)
    return model


def plain(layer, x):
    """What a LoRALinear over an nn.Linear computes without dropout, in plain torch and the factors' dtype."""
    dtype = layer.lora_A.dtype
    weight = layer.base_layer.weight.to(dtype) + layer.scale * layer.lora_B @ layer.lora_A
    return x.to(dtype) @ weight.T + layer.base_layer.bias.to(dtype)


def gradients(model, x, run):
    model.zero_grad()
    x = x.clone().requires_grad_()
    torch.manual_seed(3)
    run(model, x).square().sum().backward()
    return {"x": x.grad, **{name: p.grad for name, p in model.named_parameters() if p.grad is not None}}


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_repeats_the_dropout(reentrant):
    model, x = adapted_model(dropout=0.5), torch.randn(6, 16)
    plain = gradients(model, x, lambda model, x: model(x))
    again = gradients(model, x, lambda model, x: checkpoint(model, x, use_reentrant=reentrant))
    assert plain.keys() == again.keys() == {"x", "0.lora_A", "0.lora_B", "2.lora_A", "2.lora_B"}
    assert all(torch.equal(plain[name], again[name]) for name in plain)
    other = gradients(model.eval(), x, lambda model, x: model(x))
    assert not torch.equal(plain["0.lora_A"], other["0.lora_A"]), "the dropout did act"


def test_compiles_whole():
    model, x = adapted_model(dropout=0.5), torch.randn(6, 16)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    model.eval()
    eager, graph = (gradients(model, x, lambda _, x, run=run: run(x)) for run in (model, compiled))
    for name, gradient in eager.items():
        torch.testing.assert_close(graph[name], gradient)
    model.train()
    first, second = compiled(x), compiled(x)
    assert not torch.equal(first, second), "a compiled forward draws a seed each time"
    model.eval()[0].merge()
    torch.testing.assert_close(compiled(x), model(x))


@pytest.mark.parametrize("kind", ["lora", "lowrank"])
def test_autocast_keeps_factors_and_returns_half(kind):
    layer, x = LoRALinear(nn.Linear(16, 32), 4) if kind == "lora" else LowRankLinear(16, 32, 4), torch.randn(6, 16)
    if kind == "lora":
        nn.init.normal_(layer.lora_B)
        exact = plain(layer, x)
    else:
        exact = x @ layer.down.T @ layer.up.T + layer.bias
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    y.float().sum().backward()
    assert y.dtype == torch.bfloat16
    assert all(p.grad.dtype == torch.float32 for p in layer.parameters() if p.requires_grad)
    assert (y.float() - exact).abs().max() <= 0.02 * exact.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_through_stacked_layers(dtype):
    """The second layer sees half-precision activations, and a half-precision base may see float32 ones."""
    model = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16)).to(dtype)
    x = torch.randn(6, 16)
    replace_linear(model, partial(LoRALinear, r=4), target_modules="all-linear")
    for layer in (model[0], model[2]):
        nn.init.normal_(layer.lora_B)
    exact = plain(model[2], F.gelu(plain(model[0], x)))
    with torch.autocast("cpu", torch.bfloat16):
        y = model(x)
    assert y.dtype == torch.bfloat16
    assert (y - exact).abs().max() <= 0.03 * exact.abs().max()


@pytest.mark.parametrize("kind", ["subclass", "plain"])
def test_autocast_of_a_base_with_its_own_forward(kind):
    class Shifted(nn.Linear):
        def forward(self, x):
            return super().forward(x) + 1

    layer = LoRALinear((Shifted if kind == "subclass" else nn.Linear)(16, 32), 4)
    nn.init.normal_(layer.lora_B)
    x = torch.randn(6, 16)
    exact = plain(layer, x) + (kind == "subclass")
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    assert (y - exact).abs().max() <= 0.02 * exact.abs().max()


def test_bfloat16_model_with_float32_factors_learns():
    model = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 4)).to(torch.bfloat16)
    frozen = copy.deepcopy(model.state_dict())
    replace_linear(model, partial(LoRALinear, r=4), target_modules="all-linear")
    x, target = torch.randn(64, 16, dtype=torch.bfloat16), torch.randn(64, 4)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.02)
    losses = []
    for _ in range(40):
        loss = F.mse_loss(model(x).float(), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    assert torch.equal(model[0].base_layer.weight, frozen["0.weight"])
    assert model[0].lora_A.dtype == torch.float32


def test_parameter_groups_move_together():
    model = adapted_model().to(torch.float64)
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    x = torch.randn(3, 16, dtype=torch.float64)
    torch.testing.assert_close(model(x), plain(model[2], F.gelu(plain(model[0], x))))
