"""Small models with PEFT adapters, for the tests of lrkernels.accelerate. Importing it skips where PEFT is missing."""

import copy

import pytest
import torch
from torch import nn

peft = pytest.importorskip("peft", reason="PEFT is not installed (requirements-dev.txt has it)")
transformers = pytest.importorskip("transformers", reason="transformers is not installed (requirements-dev.txt has it)")

import lrkernels  # noqa: E402

ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def tiny_llama(**config) -> nn.Module:
    torch.manual_seed(0)
    sizes = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4)
    config = {**sizes, "num_key_value_heads": 2, "attention_bias": True, **config}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**config))


def lora_config(**options):
    defaults = dict(r=4, lora_alpha=8, target_modules=ALL_LINEAR, init_lora_weights=False, task_type="CAUSAL_LM")
    return peft.LoraConfig(**{**defaults, **options})


def peft_llama(**options):
    return peft.get_peft_model(tiny_llama(), lora_config(**options))


class TwoLayers(nn.Module):
    """Sizes that no kernel's tile divides."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.first = nn.Linear(24, 40, dtype=dtype)
        self.second = nn.Linear(40, 17, bias=False, dtype=dtype)

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


class Int8Linear(nn.Linear):
    """A stand-in: an int8 weight with one scale a row, multiplied in float32 and returned in ``output_dtype``."""

    def __init__(self, linear, output_dtype=torch.float32):
        super().__init__(linear.in_features, linear.out_features, bias=False, device="meta")
        scale = linear.weight.detach().abs().amax(1, keepdim=True) / 127
        self.weight = nn.Parameter((linear.weight.detach() / scale).round().to(torch.int8), requires_grad=False)
        self.register_buffer("scale", scale)
        self.output_dtype = output_dtype

    def forward(self, x):
        weight = self.weight.float() * self.scale
        with torch.autocast("cpu", enabled=False):
            return nn.functional.linear(x.float(), weight).to(self.output_dtype)


def peft_layers(dtype=torch.float32, **options):
    torch.manual_seed(0)
    config = lora_config(**{"target_modules": ["first", "second"], "task_type": None, **options})
    # autocast_adapter_dtype=False: the adapters keep the base's dtype.
    return peft.get_peft_model(TwoLayers(dtype), config, autocast_adapter_dtype=False)


def stock_and_fused(model):
    """The model as it is, and an accelerated copy whose layers are all fused."""
    fused = copy.deepcopy(model)
    assert lrkernels.accelerate(fused).declined == {}
    return model, fused


def outputs(model, x):
    """The output and every gradient of one forward and backward: x's, then the trained parameters' by name."""
    model.zero_grad()
    x = x.detach().requires_grad_()
    y = model(x)
    y.backward(torch.linspace(-1, 1, y.numel()).reshape(y.shape).to(y.dtype))
    return {"y": y.detach(), "x": x.grad} | {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def kernels_of(function):
    """What ``function`` returns, and the names of the lrkernels kernels that it ran: none when PEFT computed it."""
    with lrkernels.trace() as kernels:
        result = function()
    return result, list(kernels)


def assert_equal_to_stock(stock, fused, x):
    expected = outputs(stock, x)
    actual, kernels = kernels_of(lambda: outputs(fused, x))
    assert kernels, "PEFT computed it"
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, msg=lambda text, name=name: f"{name}: {text}")
