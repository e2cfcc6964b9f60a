"""Truncation in training, penalties, repairs, stored residuals and shared weights, each by its identity."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from compressed_models import falling, network, tail, values
from torch import nn

from lrkernels.adapters import LoRA, adapted_layers
from lrkernels.compress import (
    add_nuclear_subgradient_,
    apply_residuals,
    compensate,
    compress,
    frobenius_decay,
    linear_layers,
    nuclear_penalty,
    share_weight,
    truncate_,
    weight_residuals,
)
from lrkernels.nn import LowRankLinear, replace_linear

# --- TRP ---


def test_truncation_keeps_the_energy_and_leaves_the_tail():
    model = network()
    layers, before = linear_layers(model), copy.deepcopy(network().state_dict())
    ranks = truncate_(layers, energy=0.95)
    for name, layer in layers.items():
        weight, rank = before[f"{name}.weight"], ranks[name]
        energies = np.cumsum(values(weight) ** 2) / (values(weight) ** 2).sum()
        assert rank == np.searchsorted(energies, 0.95) + 1
        np.testing.assert_allclose(
            np.linalg.norm(weight - layer.weight.detach()), tail(weight, rank), rtol=1e-9, atol=1e-12
        )
    x = torch.randn(5, 24).double()
    expected = model(x)
    compress(model, {name: rank for name, rank in ranks.items() if name != "4"})
    torch.testing.assert_close(model(x), expected)
    full = {"0": nn.Linear(6, 4).double()}
    weight = full["0"].weight.detach().clone()
    assert truncate_(full, energy=1.0) == {"0": 4}
    torch.testing.assert_close(full["0"].weight, weight)
    with pytest.raises(ValueError, match="energy is 0"):
        truncate_(full, energy=0)


def test_the_subgradient_is_the_nuclear_norms():
    layer = nn.Linear(12, 9).double()
    torch.linalg.matrix_norm(layer.weight, "nuc").backward()
    expected = layer.weight.grad
    layer.weight.grad = None
    add_nuclear_subgradient_({"": layer}, 0.5)
    torch.testing.assert_close(layer.weight.grad, 0.5 * expected)
    np.testing.assert_allclose(values(layer.weight.grad), 0.5)
    add_nuclear_subgradient_({"": layer}, 0.25)
    torch.testing.assert_close(layer.weight.grad, 0.75 * expected)
    step = layer.weight.detach() - 0.1 * expected  # as singular value thresholding does, where all exceed 0.1
    np.testing.assert_allclose(values(step), np.abs(values(layer.weight) - 0.1), rtol=1e-9)
    layer.weight.data = falling(9, 12, 0.5, 0)
    layer.weight.data[:, 3:] = 0  # rank three
    layer.weight.grad = None
    add_nuclear_subgradient_({"": layer}, 1.0)
    np.testing.assert_allclose(values(layer.weight.grad), [1.0] * 3 + [0.0] * 6, atol=1e-9)


# --- factorised training ---


def test_penalties_are_those_of_the_product():
    model = nn.Sequential(LowRankLinear(12, 9, 4), nn.Tanh(), LowRankLinear(9, 12, 3)).double()
    products = [layer.up @ layer.down for layer in model[::2]]
    expected = 0.5 * sum(p.square().sum() for p in products)
    torch.testing.assert_close(frobenius_decay(model), expected)
    inputs = list(model.parameters())
    gradients = torch.autograd.grad(frobenius_decay(model), inputs, allow_unused=True)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, inputs, allow_unused=True))
    nuclear = sum(np.linalg.norm(p.detach(), "nuc") for p in products)
    assert nuclear_penalty(model) > nuclear * (1 + 1e-6), "fresh factors are not balanced"
    spectral = nn.Sequential(LowRankLinear.from_linear(nn.Linear(12, 9).double(), 4))
    product = (spectral[0].up @ spectral[0].down).detach()
    np.testing.assert_allclose(nuclear_penalty(spectral).detach(), np.linalg.norm(product, "nuc"), rtol=1e-9)
    with pytest.raises(ValueError, match="frobenius_decay: the model has no LowRankLinear"):
        frobenius_decay(nn.Linear(3, 3))


# --- EoRA, LoRC ---


def quantised(weight):
    step = weight.abs().amax() / 7
    return (weight / step).round() * step


def test_a_repair_is_the_best_of_its_rank_by_weights_or_by_outputs():
    original = torch.randn(20, 16).double()
    x = torch.randn(300, 16).double() @ torch.randn(16, 16).double()
    moment = x.T @ x / 300
    errors = {}
    for rank in (1, 4, 8, 16):
        compressed = nn.Linear(16, 20, dtype=torch.float64)
        compressed.weight.data = quantised(original)
        lost = original - compressed.weight.detach()
        plain = compensate(compressed, original, rank)
        np.testing.assert_allclose(np.linalg.norm(original - plain.weight.detach()), tail(lost, rank), atol=1e-12)
        weighted = compensate(compressed, original, rank, moment)
        errors[rank] = [np.linalg.norm((original - m.weight.detach()) @ x.T) / 300**0.5 for m in (plain, weighted)]
        np.testing.assert_allclose(errors[rank][1], tail(lost @ x.T, rank) / 300**0.5, rtol=1e-6, atol=1e-10)
        assert weighted.base_layer is compressed and weighted.lora_A.requires_grad
    assert all(errors[rank][1] < errors[rank][0] for rank in (1, 4, 8))
    assert errors[1][1] > errors[4][1] > errors[8][1] > errors[16][1] and errors[16][1] < 1e-9
    with pytest.raises(ValueError, match=r"compensate: original has shape \(16, 20\), expected \(20, 16\)"):
        compensate(nn.Linear(16, 20), original.T, 4)
    with pytest.raises(ValueError, match="compensate: rank is 17"):
        compensate(nn.Linear(16, 20), original, 17)


# --- ERE ---


def test_a_merged_adapter_is_stored_without_loss():
    base = network()
    tuned = copy.deepcopy(base)
    replace_linear(tuned, partial(LoRA.wrap, r=2), target_modules=["0", "2"])
    for layer in adapted_layers(tuned):
        nn.init.normal_(layer.adapter.up)
    for name in ("0", "2"):
        tuned.set_submodule(name, tuned.get_submodule(name).to_linear())
    tuned[4].bias.data.add_(1.0)
    residuals = weight_residuals(tuned.state_dict(), base.state_dict(), rank=2)
    assert set(residuals) == {"0.weight", "2.weight", "4.bias"}
    stored = sum(sum(t.numel() for t in r) if isinstance(r, tuple) else r.numel() for r in residuals.values())
    assert stored == 2 * (24 + 20) + 2 * (20 + 24) + 6
    restored = apply_residuals(base.state_dict(), residuals)
    torch.testing.assert_close(restored, dict(tuned.state_dict()))
    less = weight_residuals(tuned.state_dict(), base.state_dict(), rank=1)
    for name in ("0.weight", "2.weight"):
        difference = tuned.state_dict()[name] - base.state_dict()[name]
        lost = apply_residuals(base.state_dict(), less)[name] - tuned.state_dict()[name]
        np.testing.assert_allclose(lost.norm(), tail(difference, 1))
    with pytest.raises(ValueError, match="only one of tuned and base has extra"):
        weight_residuals({"extra": torch.ones(1)}, {}, 1)
    with pytest.raises(ValueError, match=r"w has shapes \(2,\) and \(3,\)"):
        weight_residuals({"w": torch.ones(2)}, {"w": torch.ones(3)}, 1)
    for rank, error in ((0, ValueError), (-2, ValueError), (1.0, TypeError)):
        with pytest.raises(error, match=f"weight_residuals: rank is {rank}, expected"):
            weight_residuals({"w": torch.ones(4, 4)}, {"w": torch.zeros(4, 4)}, rank)


def test_residuals_keep_dtypes_and_what_is_no_matrix():
    base = {"w": torch.randn(40, 30).bfloat16(), "steps": torch.tensor([[3]]), "same": torch.ones(2)}
    update = torch.randn(40, 1) @ torch.randn(1, 30)
    tuned = {"w": (base["w"].float() + update).bfloat16(), "steps": torch.tensor([[4]]), "same": torch.ones(2)}
    residuals = weight_residuals(tuned, base, rank=1)
    assert set(residuals) == {"w", "steps"} and residuals["w"][0].dtype == torch.float32
    restored = apply_residuals(base, residuals)
    assert restored["steps"].item() == 4 and restored["w"].dtype == torch.bfloat16
    torch.testing.assert_close(restored["w"].float(), base["w"].float() + update, rtol=2e-2, atol=2e-2)


# --- Relaxed recursive transformers ---


def test_shared_layers_come_closer_with_the_rank_and_are_exact_at_full_rank():
    layers = [nn.Linear(12, 10).double() for _ in range(3)]
    x, mean = torch.randn(5, 12).double(), sum(layer.weight.detach() for layer in layers) / 3
    errors = []
    for rank in (1, 3, 6, 10):
        made = share_weight(layers, rank)
        assert all(layer.base_layer.weight is made[0].base_layer.weight for layer in made)
        torch.testing.assert_close(made[0].base_layer.weight.detach(), mean)
        for layer, original in zip(made, layers, strict=True):
            error = np.linalg.norm(layer.weight.detach() - original.weight.detach())
            np.testing.assert_allclose(error, tail(original.weight - mean, rank), atol=1e-12)
            assert torch.equal(layer.bias, original.bias)
        errors.append(sum((m(x) - o(x)).norm().item() for m, o in zip(made, layers, strict=True)))
    assert errors[0] > errors[1] > errors[2] > errors[3] and errors[3] < 1e-10
    model = nn.ModuleList(share_weight(layers, 2))
    numbers = sum(p.numel() for p in model.parameters())
    assert numbers == 12 * 10 + 3 * (2 * 22 + 10)
    for bad, message in ((layers[:1], "1 layers were given"), ([*layers, nn.Linear(3, 3)], "expected one")):
        with pytest.raises(ValueError, match=f"share_weight: .*{message}"):
            share_weight(bad, 2)
