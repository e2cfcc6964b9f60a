"""Accelerated layers whose tensors or class others have taken hold of: replicas, derived classes, the meta device."""

import copy

import pytest
import torch
from peft_models import kernels_of, peft, peft_llama, stock_and_fused
from torch import nn

import lrkernels


def replica(module: nn.Module) -> nn.Module:
    """What nn.DataParallel makes: the weights are plain attributes, and ``_parameters`` holds none."""
    copied = module._replicate_for_data_parallel()
    for name, child in module._modules.items():
        if child is not None:
            setattr(copied, name, replica(child))
    for name, parameter in module._parameters.items():
        if parameter is None:
            copied._parameters[name] = None
        else:
            setattr(copied, name, parameter.view_as(parameter))
    return copied


def lora_layers(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, peft.tuners.lora.LoraLayer)]


def ids():
    return torch.randint(0, 64, (2, 9), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("options", ({}, {"use_dora": True}), ids=str)
def test_replicas_compute_what_stock_replicas_compute(options):
    stock, fused = stock_and_fused(peft_llama(**options))
    expected = replica(stock)(ids()).logits
    logits, kernels = kernels_of(lambda: replica(fused)(ids()).logits)
    assert torch.equal(logits, expected) and not kernels
    report = str(lrkernels.accelerate(replica(fused)))
    assert "nn.DataParallel" in report or "DoRA" in report


def test_a_class_derived_from_a_fused_one_stays():
    stock, fused = stock_and_fused(peft_llama())
    layer = lora_layers(fused)[0]
    kept = layer.__class__ = type("Sharded", (type(layer),), {})
    report = str(lrkernels.accelerate(fused))
    assert type(layer) is kept and "its class was derived from the fused one" in report
    torch.testing.assert_close(fused(ids()).logits, stock(ids()).logits)
    with pytest.raises(RuntimeError, match="restore: the classes of .* were derived"):
        lrkernels.restore(fused)
    layer.__class__ = kept.__bases__[0]
    assert lrkernels.restore(fused) == len(lora_layers(fused))


def test_the_meta_device():
    _, fused = stock_and_fused(peft_llama())
    for layer in lora_layers(fused):
        layer.base_layer = type("Derived", (nn.Linear,), {})(layer.in_features, layer.out_features)
    meta = copy.deepcopy(fused).to("meta")
    assert meta(ids().to("meta")).logits.shape == fused(ids()).logits.shape


def test_a_tensor_scaling_is_not_rounded_to_half():
    """As compiled hot-swapping leaves it; PEFT multiplies by the float32 scalar."""
    stock, fused = stock_and_fused(peft_llama().bfloat16())
    ratios = []
    for a, b in zip(lora_layers(stock), lora_layers(fused), strict=True):
        x = torch.randn(4, 512, a.in_features).bfloat16()
        exact = copy.deepcopy(a).double()
        for layer in (a, b, exact):
            layer.scaling["default"] = torch.tensor(3.0105)
            layer.base_layer.weight.data.zero_()
        want = exact(x.double()).detach()
        with torch.no_grad():
            ratios.append([float((f(x).double() * want).sum() / want.square().sum()) - 1 for f in (a, b)])
    theirs, ours = torch.tensor(ratios).mean(0).abs()
    assert ours < 2 * theirs + 2e-4, (ours, theirs)
