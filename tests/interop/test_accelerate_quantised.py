"""Quantised base layers compute their own output, which enters the op as ``base``."""

import copy
import pickle

import pytest
import torch
from peft_models import (
    Int8Linear,
    assert_equal_to_stock,
    kernels_of,
    lora_config,
    outputs,
    peft,
    peft_layers,
    stock_and_fused,
)
from torch import nn

import lrkernels
from lrkernels.adapters import LoRA


def quantised_model(output_dtype=torch.float32, **options):
    model = peft_layers(**options)
    for layer in (model.base_model.model.first, model.base_model.model.second):
        layer.base_layer = Int8Linear(layer.base_layer, output_dtype)
    return model


@pytest.mark.parametrize("options", [{}, {"lora_bias": True, "target_modules": ["first", "second"]}])
@pytest.mark.filterwarnings("ignore:.*lora_bias.*")
def test_stand_in(options):
    stock, fused = stock_and_fused(quantised_model(**options))
    how = "Int8Linear computes its own output, the op adds the update"
    assert set(lrkernels.accelerate(fused).fused.values()) == {how}
    assert_equal_to_stock(stock, fused, torch.randn(6, 24))


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("output_dtype", [torch.float32, torch.bfloat16])
def test_the_base_layer_chooses_the_dtype(output_dtype, autocast):
    stock, fused = stock_and_fused(quantised_model(output_dtype))
    x = torch.randn(64, 24)
    exact = outputs(copy.deepcopy(quantised_model()), x)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        expected, (actual, kernels) = outputs(stock, x), kernels_of(lambda: outputs(fused, x))
    assert kernels and actual["y"].dtype == output_dtype
    for name, value in exact.items():
        assert actual[name].dtype == expected[name].dtype
        error, stock_error = ((v[name].double() - value.double()).norm() / value.norm() for v in (actual, expected))
        assert error <= 2 * stock_error + 1e-5, name


@pytest.mark.parametrize("stock_class", [peft.tuners.lora.GPTQLoraLinear, peft.tuners.lora.awq.AwqLoraLinear])
def test_peft_s_layers_for_gptq_and_awq(stock_class):
    """Their bases need a GPU; what PEFT puts around them does not."""
    torch.manual_seed(0)
    base = Int8Linear(nn.Linear(24, 40))
    base.qweight = base.weight  # where PEFT looks for the device
    layer = stock_class(base, "default", lora_config(), r=4, lora_alpha=8)
    model = nn.Sequential(layer.float())
    stock, fused = stock_and_fused(model)
    assert type(fused[0]) is not stock_class and isinstance(fused[0], stock_class)
    assert_equal_to_stock(stock, fused, torch.randn(6, 24))
    assert type(pickle.loads(pickle.dumps(fused))[0]) is type(fused[0])
    lrkernels.restore(fused)
    assert type(fused[0]) is stock_class


def bitsandbytes_linear(bits):
    bitsandbytes = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed (requirements-dev.txt)")
    if bits == 4:
        return bitsandbytes.nn.Linear4bit(64, 128, compute_dtype=torch.float32, quant_type="nf4")
    return bitsandbytes.nn.Linear8bitLt(64, 128, has_fp16_weights=False, threshold=6.0)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.filterwarnings("ignore:.*inputs will be cast.*")
def test_bitsandbytes(bits):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 128))
    quantised = bitsandbytes_linear(bits)
    quantised.load_state_dict(model[0].state_dict())
    model[0] = quantised.to("cpu")
    setattr(model, f"is_loaded_in_{bits}bit", True)
    config = lora_config(target_modules=["0"], task_type=None)
    model = peft.get_peft_model(model, config)
    model.add_adapter("other", lora_config(r=3, target_modules=["0"], task_type=None))
    stock, fused = stock_and_fused(model)
    stock_class = peft.tuners.lora.Linear4bit if bits == 4 else peft.tuners.lora.Linear8bitLt
    assert isinstance(fused.base_model.model[0], stock_class)
    x = torch.randn(6, 64)
    assert_equal_to_stock(stock, fused, x)
    names = ["other", "__base__", "default"] * 2
    y, kernels = kernels_of(lambda: fused.eval()(x, adapter_names=names))
    torch.testing.assert_close(y, stock.eval()(x, adapter_names=names))
    assert any("indexed" in kernel for kernel in kernels)


def test_torchao_int8():
    quantization = pytest.importorskip("torchao.quantization", reason="torchao is not installed (requirements-dev.txt)")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 128))
    quantization.quantize_(model, quantization.Int8WeightOnlyConfig())
    config = lora_config(target_modules=["0"], task_type=None)
    with pytest.warns(UserWarning, match="get_apply_tensor_subclass"):
        stock = peft.get_peft_model(model, config)
    stock, fused = stock_and_fused(stock)
    assert type(stock.base_model.model[0]).__name__ == "TorchaoLoraLinear"
    assert_equal_to_stock(stock, fused, torch.randn(6, 64))


@pytest.mark.parametrize("make", [lambda base: lrkernels.nn.LoRALinear(base, r=4), lambda base: LoRA.wrap(base, 4)])
def test_our_own_layers_over_torchao(make):
    """The quantised weight poses as float32: the layer is called, and refuses what needs the matrix."""
    quantization = pytest.importorskip("torchao.quantization", reason="torchao is not installed (requirements-dev.txt)")
    model = nn.Sequential(nn.Linear(64, 128))
    quantization.quantize_(model, quantization.Int8WeightOnlyConfig())
    layer, x = make(model[0]), torch.randn(6, 64)
    expected = model[0](x)
    torch.testing.assert_close(layer(x), expected)
    with torch.no_grad():
        for parameter in layer.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter))
    layer(x).sum().backward()
    assert not torch.allclose(layer(x), expected, atol=1e-2)
    with pytest.raises(TypeError, match="merge: base_layer .* has no plain floating-point"):
        layer.merge()
