"""Fused layers against stock PEFT: outputs and gradients of every configuration that is fused."""

import copy

import pytest
import torch
from peft_models import (
    assert_equal_to_stock,
    kernels_of,
    lora_config,
    outputs,
    peft,
    peft_layers,
    stock_and_fused,
    transformers,
)
from torch import nn

import lrkernels

CONFIGURATIONS = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "lora_bias": {"lora_bias": True, "target_modules": ["first"]},
    "lora_bias over no bias": {"lora_bias": True, "target_modules": ["second"]},
    "patterns": {"rank_pattern": {"first": 7}, "alpha_pattern": {"second": 3}},
    "trained bias": {"bias": "all"},
    "pissa": {"init_lora_weights": "pissa"},
    "dropout": {"lora_dropout": 0.25},
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
@pytest.mark.parametrize("shape", [(6, 24), (2, 3, 24), (24,), (0, 24)])
def test_equal_to_peft(name, shape):
    stock, fused = stock_and_fused(peft_layers(**CONFIGURATIONS[name]))
    x = torch.randn(shape)
    assert_equal_to_stock(stock.eval(), fused.eval(), x)
    if name != "dropout":
        assert_equal_to_stock(stock.train(), fused.train(), x)


def test_on_every_backend(device):
    """The CUDA kernels, emulated or on a GPU, in the place of PEFT's layers."""
    model = peft_layers().to(device.device)
    model.add_adapter("other", lora_config(r=3, target_modules=["first"], task_type=None, lora_dropout=0.5))
    model.base_model.set_adapter(["default", "other"])
    stock, fused = stock_and_fused(model)
    assert_equal_to_stock(stock.eval(), fused.eval(), torch.randn(6, 24, device=device.device))


def relative_error(actual, exact):
    return (actual.double() - exact).norm() / exact.norm()


@pytest.mark.parametrize("adapter_dtype", [torch.bfloat16, torch.float32, torch.float16])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_as_accurate_as_peft(dtype, adapter_dtype):
    """Against the same numbers in float64: at most twice PEFT's error (both round the same output to half)."""
    stock = peft_layers(dtype)
    for name, parameter in stock.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.to(adapter_dtype)
    stock, fused = stock_and_fused(stock)
    x = torch.randn(64, 24).to(dtype)
    exact = outputs(copy.deepcopy(stock).double(), x.double())
    expected, (actual, kernels) = outputs(stock, x), kernels_of(lambda: outputs(fused, x))
    assert kernels and actual.keys() == expected.keys()
    for name, value in exact.items():
        assert actual[name].dtype == expected[name].dtype
        assert relative_error(actual[name], value) <= 2 * relative_error(expected[name], value) + 1e-5, name


@pytest.mark.parametrize("adapter_dtype", [torch.bfloat16, torch.float64])
def test_float32_with_adapters_of_another_dtype(adapter_dtype):
    stock = peft_layers()
    for name, parameter in stock.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.to(adapter_dtype)
    stock, fused = stock_and_fused(stock)
    x = torch.randn(64, 24)
    exact = outputs(copy.deepcopy(stock).double(), x.double())
    expected, (actual, kernels) = outputs(stock, x), kernels_of(lambda: outputs(fused, x))
    assert bool(kernels) == (adapter_dtype == torch.bfloat16)  # float64 would lose digits, so PEFT computes it
    for name, value in exact.items():
        assert actual[name].dtype == expected[name].dtype
        assert relative_error(actual[name], value) <= 2 * relative_error(expected[name], value) + 1e-6, name


def test_input_casting_disabled():
    stock = peft_layers()
    for name, parameter in stock.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.bfloat16()
    stock, fused = stock_and_fused(stock)
    for model in (stock, fused):
        with peft.helpers.disable_input_dtype_casting(model), pytest.raises(RuntimeError, match="dtype"):
            model(torch.randn(3, 24))
    with peft.helpers.disable_input_dtype_casting(fused), torch.autocast("cpu", torch.bfloat16):
        fused(torch.randn(3, 24))


@pytest.mark.parametrize("x_dtype", [torch.float32, torch.bfloat16])
def test_autocast(x_dtype):
    stock, fused = stock_and_fused(peft_layers())
    x = torch.randn(64, 24).to(x_dtype)
    exact = outputs(copy.deepcopy(stock).double(), x.double())
    with torch.autocast("cpu", torch.bfloat16):
        expected, (actual, kernels) = outputs(stock, x), kernels_of(lambda: outputs(fused, x))
    assert kernels
    for name, value in exact.items():
        assert actual[name].dtype == expected[name].dtype
        assert relative_error(actual[name], value) <= 2 * relative_error(expected[name], value) + 1e-5, name


def test_conv1d_of_transformers():
    """GPT-2's layers store [in, out] (fan_in_fan_out)."""
    config = transformers.GPT2Config(vocab_size=64, n_embd=32, n_layer=1, n_head=4, n_positions=32)
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(config).eval()
    options = lora_config(target_modules=["c_attn", "c_proj", "c_fc"], fan_in_fan_out=True)
    stock, fused = stock_and_fused(peft.get_peft_model(model, options))
    assert {type(layer.base_layer).__name__ for layer in stock.modules() if hasattr(layer, "lora_A")} == {"Conv1D"}
    ids = torch.randint(0, 64, (2, 9))
    stock(ids, labels=ids).loss.backward()
    (loss, logits), kernels = kernels_of(lambda: fused(ids, labels=ids).to_tuple()[:2])
    loss.backward()
    assert kernels
    torch.testing.assert_close(logits, stock(ids).logits)
    gradients = {n: p.grad for n, p in stock.named_parameters() if p.requires_grad}
    assert len(gradients) == 8
    for name, parameter in fused.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients.get(name))


def test_several_adapters():
    model = peft_layers()
    model.add_adapter("other", lora_config(r=3, lora_alpha=5, target_modules=["first"], task_type=None))
    model.add_adapter("bare", lora_config(r=2, target_modules=["second"], task_type=None))
    stock, fused = stock_and_fused(model)
    x = torch.randn(6, 24)
    for active in (["default"], ["other"], ["default", "other"], ["bare", "other", "default"]):
        for each in (stock, fused):
            each.base_model.set_adapter(active)
        assert_equal_to_stock(stock, fused, x)


def test_nine_float32_adapters_on_a_half_base_are_rounded_once():
    model = peft_layers()
    names = ["default"] + [f"adapter{i}" for i in range(8)]
    for i, name in enumerate(names[1:], 1):
        options = lora_config(r=1 + i % 3, lora_alpha=2 * i, target_modules=["first", "second"], task_type=None)
        model.add_adapter(name, options)
    model.base_model.set_adapter(names)
    for name, parameter in model.named_parameters():
        if "lora_" not in name:
            parameter.data = parameter.data.bfloat16()
    exact = copy.deepcopy(model).double()
    stock, fused = stock_and_fused(model)
    x = torch.randn(64, 24).bfloat16()
    y, kernels = kernels_of(lambda: fused(x))
    assert kernels
    expected = exact(x.double())
    assert y.dtype == torch.bfloat16
    assert relative_error(y, expected) <= 1.2 * relative_error(stock(x), expected)


def test_scaling_that_changes():
    stock, fused = stock_and_fused(peft_layers())
    x = torch.randn(6, 24)
    before = fused(x)
    for layer in (m for model in (stock, fused) for m in model.modules() if hasattr(m, "set_scale")):
        layer.set_scale("default", 3.0)
    assert_equal_to_stock(stock, fused, x)
    assert not torch.allclose(fused(x), before)
    with peft.helpers.rescale_adapter_scale(stock, 0.5), peft.helpers.rescale_adapter_scale(fused, 0.5):
        assert_equal_to_stock(stock, fused, x)
    assert_equal_to_stock(stock, fused, x)


def test_disabled_and_merged_adapters_are_the_base_layer():
    stock, fused = stock_and_fused(peft_layers())
    x = torch.randn(6, 24)
    with stock.disable_adapter(), fused.disable_adapter():
        y, kernels = kernels_of(lambda: fused(x))
        assert torch.equal(y, stock(x)) and not kernels
    unmerged = fused(x)
    for model in (stock, fused):
        model.merge_adapter()
    y, kernels = kernels_of(lambda: fused(x))
    assert torch.equal(y, stock(x)) and not kernels
    torch.testing.assert_close(y, unmerged)
    for model in (stock, fused):
        model.unmerge_adapter()
    assert_equal_to_stock(stock, fused, x)


def test_dropout_has_torch_s_distribution():
    """With B·A = 1 and W = 0 a layer shows its mask: kept elements 1 / (1 - p), a new one a forward and adapter."""
    width, p = 512, 0.25
    model = nn.Sequential(nn.Linear(width, width, bias=False))
    options = dict(r=width, lora_alpha=width, lora_dropout=p, target_modules=["0"], task_type=None)
    model = peft.get_peft_model(model, lora_config(**options))
    model.add_adapter("other", lora_config(**options))
    assert lrkernels.accelerate(model).declined == {}
    layer = model.base_model.model[0]
    nn.init.zeros_(layer.base_layer.weight)
    for name in ("default", "other"):
        nn.init.eye_(layer.lora_A[name].weight)
        nn.init.eye_(layer.lora_B[name].weight)
    x = torch.ones(256, width)
    first, second = model(x), model(x)
    assert set(first.unique().tolist()) == {0.0, torch.tensor(1 / (1 - p)).item()}
    deviation = (p * (1 - p) / first.numel()) ** 0.5
    assert abs((first == 0).double().mean() - p) < 5 * deviation
    both_zero = ((first == 0) & (second == 0)).double().mean()
    assert abs(both_zero - p * p) < 5 * deviation  # independent from forward to forward
    model.base_model.set_adapter(["default", "other"])
    sums = model(x)
    assert abs((sums == 0).double().mean() - p * p) < 5 * deviation  # and from adapter to adapter
    torch.manual_seed(1)
    repeated = model(x)
    torch.manual_seed(1)
    assert torch.equal(model(x), repeated)
    layer.lora_dropout.eval()  # dropout listens to its own train mode, as in PEFT
    assert torch.equal(model(x), 2 * x)
