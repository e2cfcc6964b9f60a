"""Statistics of inputs, and the starting points EVA, LoRA-GA and LoRA-SB by their identities."""

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_equations import leading_triplets
from torch import nn

from lrkernels.adapters import (
    AdaLoRA,
    DoRA,
    DyLoRA,
    LoRA,
    LoRAFA,
    LoRAXS,
    OffsetLoRA,
    PiSSA,
    adapted_layers,
    eva_,
    lora_ga_,
    lora_sb_,
)
from lrkernels.nn import input_statistics, replace_linear

IN, HIDDEN, OUT = 12, 14, 10


def network(dtype=torch.float64):
    return nn.Sequential(nn.Linear(IN, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, OUT)).to(dtype)


def adapted(adapter_class, dtype=torch.float64, **options):
    model = network(dtype)
    replace_linear(model, partial(adapter_class.wrap, **options), target_modules="all-linear")
    return model


def data(count=3, rows=40):
    return [torch.randn(rows, IN).double() * torch.linspace(0.2, 2, IN).double() + 0.5 for _ in range(count)]


def squared(model):
    return lambda batch: model(batch).square().mean()


# --- statistics ---


def test_input_statistics_are_those_of_all_batches_together():
    model, batches = network(torch.float32), [x.float() for x in data()]
    batches[1] = batches[1].reshape(2, 20, IN)
    model.train()
    statistics = input_statistics(model, batches, {"first": model[0], "last": model[2]})
    x = torch.cat([b.reshape(-1, IN) for b in batches]).double()
    assert statistics["first"].count == len(x) == 120 and model.training
    torch.testing.assert_close(statistics["first"].moment, x.T @ x / 120, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(statistics["first"].mean, x.mean(0), rtol=1e-6, atol=1e-6)
    covariance = torch.from_numpy(np.cov(x.numpy().T, bias=True))
    torch.testing.assert_close(statistics["first"].covariance, covariance, rtol=1e-5, atol=1e-5)
    h = torch.tanh(F.linear(x, model[0].weight.double(), model[0].bias.double())).detach()
    torch.testing.assert_close(statistics["last"].moment, h.T @ h / 120, rtol=1e-5, atol=1e-5)
    assert not model[0]._forward_pre_hooks
    by_keyword = input_statistics(model, [{"input": batches[0]}], {"first": model[0]})
    assert by_keyword["first"].count == 40
    with pytest.raises(ValueError, match="'last' saw no input; was there a batch"):
        input_statistics(model, [], {"last": model[2]})
    with pytest.raises(ValueError, match="an input of 'first' holds NaN or Inf"):
        input_statistics(model, [torch.full((2, IN), float("inf"))], {"first": model[0]})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_large_mean_leaves_the_covariance_its_digits(dtype):
    """Mean 1e4, spread 1: E[x·xᵀ] − E[x]·E[x]ᵀ of float32 products has none."""
    model = nn.Identity()
    batches = [(torch.randn(rows, 6).double() + 1e4 + shift).to(dtype) for rows, shift in ((300, 0), (7, 3), (0, 0))]
    batches += [torch.full((1, 6), 1e4, dtype=dtype), (1e4 + torch.randn(2, 50, 6)).to(dtype)]
    found = input_statistics(model, batches, {"": model})[""]
    x = torch.cat([batch.reshape(-1, 6) for batch in batches]).double().numpy()
    assert found.count == len(x) == 408
    np.testing.assert_allclose(found.mean, x.mean(0), rtol=1e-14)
    rounding = 1e-6 if dtype == torch.float32 else 1e-12
    np.testing.assert_allclose(found.covariance, np.cov(x.T, bias=True), rtol=0, atol=rounding)
    np.testing.assert_allclose(found.moment, x.T @ x / len(x), rtol=1e-12)


# --- EVA ---


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("adapter_class", [LoRA, LoRAFA])
def test_eva_holds_the_most_energy_that_r_directions_can(adapter_class, center):
    model, batches = adapted(adapter_class, r=3), data()
    x = torch.cat(batches)
    before = model(x)
    assert eva_(model, batches, center=center) == {"0": 3, "2": 3}
    torch.testing.assert_close(model(x), before)
    h = torch.tanh(model[0].base_layer(x)).detach()
    for layer, inputs in ((model[0], x), (model[2], h)):
        centered = inputs - inputs.mean(0) if center else inputs
        down = layer.adapter.down
        torch.testing.assert_close(down @ down.T, torch.eye(3).double())
        singular_values = np.linalg.svd(centered.numpy(), compute_uv=False)
        energy = (centered @ down.T).square().sum()
        np.testing.assert_allclose(energy.item(), (singular_values[:3] ** 2).sum(), rtol=1e-9)
        random = torch.linalg.qr(torch.randn(inputs.shape[1], 3).double())[0]
        assert (centered @ random).square().sum() < energy


@pytest.mark.parametrize("rslora", [False, True])
def test_eva_hands_ranks_to_the_directions_that_explain_most(rslora):
    model, batches = adapted(LoRA, r=3, alpha=6.0, rslora=rslora), data()
    scale = model[0].adapter.scale
    with torch.no_grad():  # hidden features that all follow one number
        model[0].base_layer.weight.copy_(torch.randn(HIDDEN, 1) @ torch.randn(1, IN))
        model[0].base_layer.bias.zero_()
    ranks = eva_(model, batches, rho=2.0)
    x = torch.cat(batches)
    shares = {}
    for name, inputs in (("0", x), ("2", torch.tanh(model[0].base_layer(x)).detach())):
        energies = np.linalg.svd(inputs.numpy(), compute_uv=False) ** 2
        shares[name] = (energies / energies.sum())[:6]
    rest = sorted(((share, name) for name in shares for share in shares[name][1:]), reverse=True)[:4]
    assert ranks == {name: 1 + sum(n == name for _, n in rest) for name in shares}
    assert sum(ranks.values()) == 6 and ranks["0"] > ranks["2"]
    for name, layer in zip("02", adapted_layers(model), strict=True):
        adapter = layer.adapter
        assert adapter.r == ranks[name] == len(adapter.down) and adapter.scale == pytest.approx(scale)
        assert adapter.down.requires_grad and adapter.up.requires_grad
    model(x).sum().backward()
    assert all(layer.adapter.up.grad.any() for layer in adapted_layers(model))


@pytest.mark.parametrize("rho", [1.0, 2.0])
@pytest.mark.parametrize("adapter_class", [LoRA, LoRAFA, DoRA, DyLoRA])
def test_a_layer_under_eva_begins_as_its_base_and_can_train(adapter_class, rho):
    model, batches = adapted(adapter_class, r=3, alpha=6.0).eval(), data()
    with torch.no_grad():
        model[0].base_layer.weight.copy_(torch.randn(HIDDEN, 1) @ torch.randn(1, IN))  # so that ranks move
        model[0].base_layer.bias.zero_()
        for layer in adapted_layers(model):  # whatever was trained before
            for parameter in layer.adapter.parameters():
                parameter.normal_()
    x = torch.cat(batches)
    h = torch.tanh(model[0].base_layer(x))
    ranks = eva_(model, batches, rho=rho)
    assert (ranks["0"] > 3) == (rho == 2.0), "the inputs are those that the base's layers see"
    torch.testing.assert_close(model(x), model[2].base_layer(h))
    model(x).square().sum().backward()
    for layer in adapted_layers(model):
        adapter = layer.adapter
        assert adapter.up.grad.norm(dim=0).gt(0).all() and adapter.up.shape[1] == adapter.r == len(adapter.down)
        with torch.no_grad():
            adapter.up.normal_()
    with torch.no_grad():  # and every row of down, and the scale of before, are in what it adds
        delta = model[0].adapter.factors()
    torch.testing.assert_close(delta.scale * delta.up @ delta.down, 2.0 * model[0].adapter.up @ model[0].adapter.down)


@pytest.mark.parametrize("adapter_class", [OffsetLoRA, PiSSA, AdaLoRA])
def test_eva_refuses_adapters_that_start_as_they_must(adapter_class):
    model, batches = adapted(adapter_class, r=3), data()
    state, before = {k: v.clone() for k, v in model.state_dict().items()}, model(batches[0])
    with pytest.raises(ValueError, match=f"eva_: the adapter of '0' is a {adapter_class.__name__}, which cannot start"):
        eva_(model, batches, rho=2.0)
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert torch.equal(model(batches[0]), before)


def test_eva_refuses():
    with pytest.raises(ValueError, match="eva_: the model has no adapted layer whose adapter is a LoRA"):
        eva_(network(), data())
    with pytest.raises(ValueError, match=r"eva_: rho is 0.5, expected at least 1"):
        eva_(adapted(LoRA, r=2), data(), rho=0.5)
    merged = adapted(LoRA, r=2)
    merged[2].merge()
    with pytest.raises(ValueError, match="eva_: '2' is merged, expected an active one"):
        eva_(merged, data())


# --- LoRA-GA, LoRA-SB ---


def full_gradients(model, batches):
    """Of the mean loss, by the dense weights, in plain torch."""
    weights = [layer.base_layer.weight.detach().clone().requires_grad_() for layer in adapted_layers(model)]
    biases = [layer.base_layer.bias.detach() for layer in adapted_layers(model)]
    losses = [F.linear(torch.tanh(F.linear(x, weights[0], biases[0])), weights[1], biases[1]) for x in batches]
    return torch.autograd.grad(torch.stack([y.square().mean() for y in losses]).mean(), weights)


def test_the_first_step_of_lora_ga_is_the_best_of_rank_2r():
    model, batches = adapted(OffsetLoRA, r=2, alpha=3.0), data()
    x, scale, gamma = torch.cat(batches), 1.5, 4.0
    before, flags = model(x), [p.requires_grad for p in model.parameters()]
    lora_ga_(model, squared(model), batches, gamma=gamma)
    torch.testing.assert_close(model(x), before)
    assert flags == [p.requires_grad for p in model.parameters()] and all(p.grad is None for p in model.parameters())
    for layer, gradient in zip(adapted_layers(model), full_gradients(model, batches), strict=True):
        adapter = layer.adapter
        u, s, vh = leading_triplets(gradient, 4)
        nearest = torch.from_numpy(u * s @ vh)
        factor = layer.out_features**0.5 / gamma
        step = adapter.up @ adapter.up.T @ gradient + gradient @ adapter.down.T @ adapter.down
        torch.testing.assert_close(step, factor * nearest, check_stride=False)
        assert not torch.allclose(adapter.up, torch.zeros_like(adapter.up))
    # And so moves the weight that acts: a small gradient step, to first order.
    lr = 1e-6
    start = [layer.weight.detach().clone() for layer in adapted_layers(model)]
    sum(squared(model)(batch) for batch in batches).div(len(batches)).backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=lr).step()
    for layer, weight, gradient in zip(adapted_layers(model), start, full_gradients(model, batches), strict=True):
        u, s, vh = leading_triplets(gradient, 4)
        expected = -lr * scale**2 * layer.out_features**0.5 / gamma * torch.from_numpy(u * s @ vh)
        torch.testing.assert_close(layer.weight - weight, expected, rtol=1e-3, atol=1e-11, check_stride=False)


def test_lora_sb_starts_one_step_further_and_sees_the_gradient_through_its_factors():
    batches = data()
    for sign in (False, True):
        model = adapted(LoRAXS, r=3, alpha=6.0)
        gradients = full_gradients(model, batches)
        lora_sb_(model, squared(model), batches, lr=0.1, sign=sign)
        for layer, gradient in zip(adapted_layers(model), gradients, strict=True):
            adapter, update = layer.adapter, -0.1 * (gradient.sign() if sign else gradient)
            u, s, vh = leading_triplets(update, 3)
            torch.testing.assert_close(adapter.delta(), torch.from_numpy(u * s @ vh), check_stride=False)
            projected = adapter.up @ (adapter.up.T @ update @ adapter.down.T) @ adapter.down
            torch.testing.assert_close(projected, torch.from_numpy(u * s @ vh), check_stride=False)


def test_gradients_in_half_precision_are_averaged_in_single():
    model, batches = adapted(OffsetLoRA, torch.bfloat16, r=2), [x.bfloat16() for x in data()]
    lora_ga_(model, squared(model), batches)
    assert model[0].adapter.down.dtype == torch.float32
    assert torch.linalg.matrix_rank(model[0].adapter.down) == 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: lora_ga_(network(), None, data()), "no adapted layer whose adapter is a OffsetLoRA"),
        (lambda: lora_ga_(adapted(OffsetLoRA, r=6), None, data()), r"2·r is 12, expected at most 10"),
        (lambda: lora_ga_(adapted(OffsetLoRA, r=2), None, []), "there was no batch"),
        (lambda: lora_ga_(adapted(OffsetLoRA, r=2), None, data(), gamma=0.0), "gamma is 0.0, expected a positive"),
        (lambda: lora_sb_(adapted(LoRAXS, r=2, alpha=0.0), None, data(), lr=1.0), "alpha 0, expected another"),
    ],
)
def test_first_gradients_refuse(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_gradients_that_are_not_finite_are_refused():
    model = adapted(OffsetLoRA, r=2)
    with pytest.raises(ValueError, match="lora_ga_: the gradient of '0' holds NaN or Inf"):
        lora_ga_(model, lambda batch: model(batch).sum() * float("nan"), data())
    assert not model[0].base_layer.weight.requires_grad
