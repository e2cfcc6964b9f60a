"""PEFT's ``adapter_names``: batches whose samples use different adapters, against stock PEFT."""

import copy

import pytest
import torch
from peft_models import (
    Int8Linear,
    kernels_of,
    lora_config,
    outputs,
    peft,
    peft_layers,
    peft_llama,
    stock_and_fused,
    transformers,
)
from torch import nn

NAMES = ["other", "__base__", "default", "bare", "other", "default"]


def three_adapters(dtype=torch.float32, other=None, **options):
    """Ranks 4, 3 and 7; "other" adapts only the first layer, "bare" only the second."""
    model = peft_layers(dtype, **options)
    options = dict(task_type=None, r=3, lora_alpha=5, target_modules=["first"], use_rslora=True)
    model.add_adapter("other", lora_config(**{**options, **(other or {})}), autocast_adapter_dtype=False)
    second = lora_config(r=7, target_modules=["second"], task_type=None)
    model.add_adapter("bare", second, autocast_adapter_dtype=False)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)
    return model.eval()


class WithNames(nn.Module):
    """A PEFT model whose every call has these adapter_names; parameters keep their names below ``model``."""

    def __init__(self, model, names):
        super().__init__()
        self.model, self.names = model, names

    def forward(self, x):
        return self.model(x, adapter_names=self.names)


def both(stock, fused, x, names=NAMES):
    """Outputs and gradients of either, and the names of the kernels that the second ran."""
    return outputs(WithNames(stock, names), x), *kernels_of(lambda: outputs(WithNames(fused, names), x))


def assert_equal(stock, fused, x, names=NAMES):
    expected, actual, kernels = both(stock, fused, x, names)
    assert any("indexed" in kernel for kernel in kernels), kernels
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, msg=lambda text, name=name: f"{name}: {text}")


def assert_left_to_peft(stock, fused, x, names=NAMES):
    expected, actual, kernels = both(stock, fused, x, names)
    assert not any("indexed" in kernel for kernel in kernels), kernels
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(6, 24), (6, 5, 24), (6, 2, 3, 24), (6, 0, 24)])
def test_equal_to_peft(shape):
    stock, fused = stock_and_fused(three_adapters())
    x = torch.randn(shape)
    expected, actual, kernels = both(stock, fused, x)
    assert kernels and actual.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, msg=lambda text, name=name: f"{name}: {text}")
    if x.numel():
        assert {n for n, value in expected.items() if "lora_" in n and value.any()} == {
            f"model.base_model.model.{layer}.lora_{factor}.{adapter}.weight"
            for layer, adapters in (("first", ("default", "other")), ("second", ("default", "bare")))
            for adapter in adapters
            for factor in "AB"
        }


@pytest.mark.parametrize("names", [["default"] * 6, ["default", "__base__"] * 3, ["other", "default"] * 3])
def test_one_adapter_and_some(names):
    assert_equal(*stock_and_fused(three_adapters()), torch.randn(6, 24), names)


def test_a_layer_that_has_none_of_the_adapters_is_its_base_layer():
    stock, fused = stock_and_fused(three_adapters())
    x = torch.randn(6, 24)
    first, second = fused.base_model.model.first, fused.base_model.model.second
    y, kernels = kernels_of(lambda: fused(x, adapter_names=["other", "__base__"] * 3))
    torch.testing.assert_close(y, stock(x, adapter_names=["other", "__base__"] * 3))
    assert torch.equal(first(x, adapter_names=["bare"] * 6), first.base_layer(x))
    h = torch.randn(6, 40)
    assert not kernels_of(lambda: second(h, adapter_names=["other"] * 6))[1]
    y, kernels = kernels_of(lambda: fused(x, adapter_names=["__base__"] * 6))
    assert torch.equal(y, stock(x, adapter_names=["__base__"] * 6)) and not kernels


@pytest.mark.parametrize("adapter_dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_dtypes_are_as_accurate_as_peft(dtype, adapter_dtype):
    """Against the same numbers in float64: at most twice PEFT's error."""
    stock = three_adapters(dtype)
    for name, parameter in stock.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.to(adapter_dtype)
    stock, fused = stock_and_fused(stock)
    x = torch.randn(6, 33, 24).to(dtype)
    exact = outputs(WithNames(copy.deepcopy(stock).double(), NAMES), x.double())
    expected, actual, kernels = both(stock, fused, x)
    assert kernels and actual.keys() == expected.keys()
    for name, value in exact.items():
        assert actual[name].dtype == expected[name].dtype, name
        if value.any():
            error, stock_error = ((v[name].double() - value).norm() / value.norm() for v in (actual, expected))
            assert error <= 2 * stock_error + 1e-5, name


@pytest.mark.parametrize("x_dtype", [torch.float32, torch.bfloat16])
def test_autocast(x_dtype):
    stock, fused = stock_and_fused(three_adapters())
    x = torch.randn(6, 33, 24).to(x_dtype)
    exact = outputs(WithNames(copy.deepcopy(stock).double(), NAMES), x.double())
    with torch.autocast("cpu", torch.bfloat16):
        expected, actual, kernels = both(stock, fused, x)
    assert kernels
    for name, value in exact.items():
        assert actual[name].dtype == expected[name].dtype, name
        if value.any():
            error, stock_error = ((v[name].double() - value).norm() / value.norm() for v in (actual, expected))
            assert error <= 2 * stock_error + 1e-5, name


def test_a_base_layer_that_computes_its_own_output():
    stock = three_adapters()
    for layer in (stock.base_model.model.first, stock.base_model.model.second):
        layer.base_layer = Int8Linear(layer.base_layer)
    assert_equal(*stock_and_fused(stock), torch.randn(6, 5, 24))


def test_conv1d_of_transformers():
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=64, n_embd=32, n_layer=1, n_head=4, n_positions=32)
    options = dict(target_modules=["c_attn", "c_proj"], fan_in_fan_out=True)
    model = peft.get_peft_model(transformers.GPT2LMHeadModel(config), lora_config(**options))
    model.add_adapter("other", lora_config(r=6, **options))
    stock, fused = stock_and_fused(model.eval())
    ids, names = torch.randint(0, 64, (3, 9)), ["other", "__base__", "default"]
    logits, kernels = kernels_of(lambda: fused(ids, adapter_names=names).logits)
    assert kernels
    torch.testing.assert_close(logits, stock(ids, adapter_names=names).logits)


def llama_with_adapters():
    model = peft_llama()
    model.add_adapter("other", lora_config(r=6, lora_alpha=3, target_modules=["q_proj", "down_proj"]))
    for name, parameter in model.named_parameters():
        if "lora_" in name:  # strong enough to change what is generated
            parameter.data = torch.randn_like(parameter) / 2
    return model.eval()


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 2}])
def test_generate(options):
    stock, fused = stock_and_fused(llama_with_adapters())
    ids, names = torch.randint(0, 64, (1, 5)).repeat(3, 1), ["default", "__base__", "other"]
    options = dict(max_new_tokens=6, do_sample=False, pad_token_id=0, **options)
    tokens, kernels = kernels_of(lambda: fused.generate(input_ids=ids, adapter_names=names, **options))
    assert any("indexed" in kernel for kernel in kernels)
    assert torch.equal(tokens, stock.generate(input_ids=ids, adapter_names=names, **options))
    rows = tokens.view(3, -1)
    assert not (torch.equal(rows[0], rows[1]) or torch.equal(rows[0], rows[2]) or torch.equal(rows[1], rows[2]))


def test_beam_search_of_an_encoder_decoder():
    """The encoder sees the batch before it is expanded: PEFT hands its layers names twice, the shorter list last."""
    torch.manual_seed(0)
    sizes = dict(vocab_size=64, d_model=32, d_kv=8, d_ff=48, num_layers=1, num_heads=4, decoder_start_token_id=0)
    model = transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes))
    options = dict(target_modules=["q", "v"], task_type="SEQ_2_SEQ_LM")
    model = peft.get_peft_model(model, lora_config(**options))
    model.add_adapter("other", lora_config(r=6, **options))
    stock, fused = stock_and_fused(model.eval())
    ids, names = torch.randint(1, 64, (2, 5)), ["other", "default"]
    options = dict(max_new_tokens=6, do_sample=False, num_beams=3, adapter_names=names)
    tokens, kernels = kernels_of(lambda: fused.generate(input_ids=ids, **options))
    assert any("indexed" in kernel for kernel in kernels)
    assert torch.equal(tokens, stock.generate(input_ids=ids, **options))


def test_scalings_that_change_and_are_tensors():
    stock, fused = stock_and_fused(three_adapters())
    x = torch.randn(6, 24)
    for model in (stock, fused):
        model.base_model.model.first.set_scale("default", 3.0)
    assert_equal(stock, fused, x)
    for model in (stock, fused):
        scaling = model.base_model.model.first.scaling
        scaling["default"] = torch.tensor(scaling["default"])  # as peft.utils.hotswap makes it
    assert_equal(stock, fused, x)


def test_nothing_outlives_a_call():
    stock, fused = stock_and_fused(three_adapters())
    x = torch.randn(6, 24)
    assert_equal(stock, fused, x)
    for model in (stock, fused):
        for parameter in model.base_model.model.first.lora_B.parameters():
            parameter.data.mul_(-2)
        model.delete_adapter("bare")
        model.add_adapter("bare", lora_config(r=2, task_type=None, target_modules=["first"]))
    fused.load_state_dict(stock.state_dict())
    assert_equal(stock, fused, x)
    hooks = [len(module._forward_pre_hooks) for module in fused.modules()]
    assert not any(hooks)


def raised(model, *args, **kwargs):
    with pytest.raises((ValueError, TypeError)) as error:
        model(*args, **kwargs)
    return error.type, str(error.value)


def test_errors_are_peft_s():
    stock, fused = stock_and_fused(three_adapters())
    x, names = torch.randn(6, 24), NAMES

    def assert_both_raise(message, x, names):
        expected = raised(stock, x, adapter_names=names)
        assert raised(fused, x, adapter_names=names) == expected and message in expected[1]

    assert_both_raise("non-existing adapter(s): typo", x, [*names[:5], "typo"])
    assert_both_raise("got 5 and 6 respectively", x, names[:5])
    stock.train(), fused.train()
    assert_both_raise("training mode", x, names)
    stock.eval(), fused.eval()
    for model in (stock, fused):
        model.merge_adapter()
    assert_both_raise("merged adapters", x, names)
    for model in (stock, fused):
        model.unmerge_adapter()
    assert_equal(stock, fused, x)


def test_dora_in_a_batch_is_peft_s_error():
    stock, fused = stock_and_fused(three_adapters(other={"use_dora": True}))
    expected = raised(stock, torch.randn(6, 24), adapter_names=NAMES)
    assert raised(fused, torch.randn(6, 24), adapter_names=NAMES) == expected and "DoRA" in expected[1]
    names = ["default", "__base__", "bare"] * 2  # a batch without it
    assert_equal(stock, fused, torch.randn(6, 24), names)


@pytest.mark.filterwarnings("ignore:.*lora_bias.*")
def test_what_is_left_to_peft():
    x, names = torch.randn(6, 24), ["default", "other", "__base__"] * 2
    only_first = dict(target_modules=["first"])
    assert_left_to_peft(*stock_and_fused(three_adapters(other={"lora_bias": True}, **only_first)), x, names)
    model = three_adapters(**only_first)
    for parameter in model.base_model.model.first.lora_A["other"].parameters():
        parameter.data = parameter.data.bfloat16()
    for parameter in model.base_model.model.first.lora_B["other"].parameters():
        parameter.data = parameter.data.bfloat16()
    stock, fused = stock_and_fused(model)
    assert_left_to_peft(stock, fused, x, names)
    assert both(stock, fused, x, ["other", "__base__"] * 3)[2]  # bfloat16 alone is fine
    stock, fused = stock_and_fused(three_adapters(**only_first))
    with stock.disable_adapter(), fused.disable_adapter():
        assert_left_to_peft(stock, fused, x, names)
    for model in (stock, fused):
        model.base_model.model.first.register_forward_hook(lambda module, args, y: 2 * y)
    assert_left_to_peft(stock, fused, x, names)


def test_dropout_in_training_is_left_to_peft():
    stock, fused = stock_and_fused(three_adapters(lora_dropout=0.5, target_modules=["first"]))
    x, names = torch.randn(6, 24), ["default", "__base__"] * 3
    for model in (stock, fused):
        model.base_model.model.first.train()  # the model is not, or PEFT would refuse
    values = []
    for model in (stock, fused):
        torch.manual_seed(4)
        y, kernels = kernels_of(lambda model=model: model(x, adapter_names=names))
        values.append(y)
        assert not kernels
    assert torch.equal(*values)
    for model in (stock, fused):
        model.eval()
    assert_equal(stock, fused, x, names)


def test_a_quantised_layer_whose_forward_takes_x_alone():
    torch.manual_seed(0)
    base = Int8Linear(nn.Linear(24, 40))
    base.qweight = base.weight
    layer = peft.tuners.lora.GPTQLoraLinear(base, "default", lora_config(), r=4, lora_alpha=8)
    stock, fused = stock_and_fused(nn.Sequential(layer.float()))
    expected = raised(stock[0], torch.randn(2, 24), adapter_names=["default", "__base__"])
    assert raised(fused[0], torch.randn(2, 24), adapter_names=["default", "__base__"]) == expected


def test_the_device_is_not_asked_for_a_value():
    """Tensors on the meta device have none."""
    fused = stock_and_fused(three_adapters())[1].to("meta")
    y = fused(torch.empty(6, 5, 24, device="meta"), adapter_names=NAMES)
    assert y.shape == (6, 5, 17) and y.is_meta
    with pytest.raises((RuntimeError, NotImplementedError), match="[Mm]eta"):
        fused.base_model.model.first.lora_A["default"].weight.sum().item()


def test_a_layer_compiles_with_adapter_names():
    """In one graph, as in stock PEFT; the model's hooks break the graph, in stock PEFT too."""
    torch.compiler.reset()
    stock, fused = stock_and_fused(three_adapters())
    x, compiled = torch.randn(6, 24), []
    for model in (stock, fused):
        layer = torch.compile(model.base_model.model.first, fullgraph=True, backend="aot_eager")
        compiled.append(layer(x, adapter_names=NAMES))
    torch.testing.assert_close(*compiled)
    y = torch.compile(fused, backend="aot_eager")(x, adapter_names=NAMES)
    torch.testing.assert_close(y, stock(x, adapter_names=NAMES))
