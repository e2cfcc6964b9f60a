"""DoRA on the ops against stock PEFT: outputs and gradients, in training with PEFT's own dropout mask."""

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


def dora_layers(dtype=torch.float32, **options):
    """Magnitudes that are no longer the norms, as after training."""
    model = peft_layers(dtype, use_dora=True, **options)
    for layer in (model.base_model.model.first, model.base_model.model.second):
        if not hasattr(layer, "lora_magnitude_vector"):
            continue
        magnitude = layer.lora_magnitude_vector["default"].weight
        magnitude.data *= torch.linspace(0.5, 1.5, len(magnitude)).to(dtype)
    return model


CONFIGURATIONS = {
    "plain": {},
    "rslora": {"use_rslora": True, "rank_pattern": {"first": 7}},
    "trained bias": {"bias": "all"},
    "dropout": {"lora_dropout": 0.25},
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
@pytest.mark.parametrize("shape", [(6, 24), (2, 3, 24), (0, 24)])
def test_equal_to_peft(name, shape):
    stock, fused = stock_and_fused(dora_layers(**CONFIGURATIONS[name]))
    x = torch.randn(shape)
    for mode in (False, True):
        expected, actual = [], []
        for model, results in ((stock.train(mode), expected), (fused.train(mode), actual)):
            torch.manual_seed(3)  # the dropout is PEFT's
            result, kernels = kernels_of(lambda model=model: outputs(model, x))
            results += [result, bool(kernels)]
        assert not expected[1] and actual[1]
        assert actual[0].keys() == expected[0].keys() and any("magnitude" in key for key in actual[0])
        torch.testing.assert_close(actual[0], expected[0])


def test_the_norm_is_a_constant_to_the_gradient():
    """Against the equation in float64, with the norm detached; its gradient through the norm would be another."""
    model = dora_layers(torch.float64, target_modules=["first", "second"])
    assert lrkernels.accelerate(model).declined == {}
    layer = model.base_model.model.first
    x = torch.randn(6, 24, dtype=torch.float64)
    weight, bias = layer.base_layer.weight, layer.base_layer.bias
    parameters = [layer.lora_A["default"].weight, layer.lora_B["default"].weight]
    parameters.append(layer.lora_magnitude_vector["default"].weight)

    def equation(detached):
        down, up, magnitude = parameters
        whole = weight + layer.scaling["default"] * up @ down
        norm = whole.norm(dim=1, keepdim=True)
        return x @ (magnitude[:, None] * whole / (norm.detach() if detached else norm)).T + bias

    torch.testing.assert_close(layer(x), equation(True))
    gradients = [torch.autograd.grad(y.square().sum(), parameters) for y in (layer(x), equation(True), equation(False))]
    torch.testing.assert_close(gradients[0], gradients[1])
    assert not torch.allclose(gradients[0][0], gradients[2][0], rtol=1e-2)


@pytest.mark.parametrize("adapter_dtype", [torch.bfloat16, torch.float32])
def test_half_precision_is_as_accurate_as_peft(adapter_dtype):
    """Against the same numbers in float64: at most twice PEFT's error."""
    stock = dora_layers(torch.bfloat16)
    for name, parameter in stock.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.to(adapter_dtype)
    stock, fused = stock_and_fused(stock)
    x = torch.randn(64, 24).bfloat16()
    exact = outputs(copy.deepcopy(stock).double(), x.double())
    expected, (actual, kernels) = outputs(stock, x), kernels_of(lambda: outputs(fused, x))
    assert kernels and actual.keys() == expected.keys()
    for name, value in exact.items():
        assert actual[name].dtype == expected[name].dtype
        error, stock_error = ((v[name].double() - value).norm() / value.norm() for v in (actual, expected))
        assert error <= 2 * stock_error + 1e-5, name


@pytest.mark.parametrize("lora_dropout", [0.0, 0.25])
def test_autocast(lora_dropout):
    stock, fused = stock_and_fused(dora_layers(lora_dropout=lora_dropout))
    x = torch.randn(64, 24)
    results = []
    for model in (copy.deepcopy(stock).double(), stock, fused):
        torch.manual_seed(3)
        half = model is not stock and model is not fused
        with torch.autocast("cpu", torch.bfloat16, enabled=not half):
            results.append(outputs(model, x.double() if half else x))
    exact, expected, actual = results
    for name, value in exact.items():
        assert actual[name].dtype == expected[name].dtype
        error, stock_error = ((v[name].double() - value).norm() / value.norm() for v in (actual, expected))
        assert error <= 2 * stock_error + 1e-5, name


def test_conv1d_of_transformers():
    config = transformers.GPT2Config(vocab_size=64, n_embd=32, n_layer=1, n_head=4, n_positions=32)
    model = transformers.GPT2Model(config).eval()
    options = lora_config(target_modules=["c_attn"], fan_in_fan_out=True, use_dora=True, task_type=None)
    stock, fused = stock_and_fused(peft.get_peft_model(model, options))
    ids = torch.randint(0, 64, (2, 9))
    y, kernels = kernels_of(lambda: fused(ids).last_hidden_state)
    assert kernels
    torch.testing.assert_close(y, stock(ids).last_hidden_state)


def test_beside_plain_adapters():
    """Where it is not the first adapter, DoRA scales what the adapters before it made."""
    model = dora_layers(target_modules=["first", "second"], lora_dropout=0.25)
    model.add_adapter("plain", lora_config(target_modules=["first"], task_type=None))
    model.add_adapter("again", lora_config(use_dora=True, target_modules=["second"], task_type=None))
    fused = copy.deepcopy(model)
    report = lrkernels.accelerate(fused)
    assert [layer.reason for layer in report.layers] == [
        "Linear and update in one op; DoRA adapters: the op adds the update to Linear's scaled output",
        "DoRA, the op adds the update to Linear's scaled output",
    ]
    x = torch.randn(6, 24)
    for active in (["default", "plain"], ["plain", "default"], ["again", "default"], ["plain"]):
        for mode in (False, True):
            results = []
            for each in (model, fused):
                each.base_model.set_adapter(active)
                torch.manual_seed(3)
                results.append(outputs(each.train(mode), x))
            torch.testing.assert_close(results[1], results[0])


def test_merging_saving_and_scaling(tmp_path):
    stock, fused = stock_and_fused(dora_layers().eval())
    x = torch.randn(6, 24)
    for each in (stock, fused):
        for layer in (each.base_model.model.first, each.base_model.model.second):
            layer.set_scale("default", 0.25)
    assert_equal_to_stock(stock, fused, x)
    fused.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(peft_layers().unload(), tmp_path)
    for layer in (again.base_model.model.first, again.base_model.model.second):
        layer.set_scale("default", 0.25)
    torch.testing.assert_close(again(x), fused(x))
    before = fused(x)
    torch.testing.assert_close(fused.merge_and_unload()(x), before)


def test_the_cached_norm_of_peft():
    """peft.helpers.DoraCaching keeps norms in evaluation, under PEFT's own key, and drops them in training."""
    from peft.helpers import DoraCaching

    stock, fused = stock_and_fused(dora_layers().eval())
    layer, x = fused.base_model.model.first, torch.randn(6, 24)
    cache = layer.lora_magnitude_vector["default"]._dora_cache
    with DoraCaching():
        for _ in range(2):
            torch.testing.assert_close(fused(x), stock(x))
        weight = layer.base_layer.weight + layer.get_delta_weight("default")
        torch.testing.assert_close(cache["weight-norm-default"], weight.norm(dim=1))
        fused.train()
        assert not cache
    fused.eval()(x)
    assert not cache


def test_compile_fullgraph():
    """Which stock PEFT (0.21) does not."""
    torch.compiler.reset()
    stock, fused = stock_and_fused(dora_layers(lora_dropout=0.25, target_modules=["first"]))
    x = torch.randn(6, 24)
    compiled = torch.compile(fused, fullgraph=True, backend="aot_eager")
    for mode in (True, False):
        stock.train(mode), fused.train(mode)
        results = []
        for model in (stock, compiled):
            torch.manual_seed(3)
            results.append(outputs(model, x))
        actual = {name.removeprefix("_orig_mod."): value for name, value in results[1].items()}
        torch.testing.assert_close(actual, results[0])


def test_declined():
    """Over a layer whose weight is no plain matrix, and with a magnitude that has to be called."""

    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    model = dora_layers()
    inner = model.base_model.model
    inner.first.base_layer.__class__ = Doubled
    handle = inner.second.lora_magnitude_vector["default"].register_forward_hook(lambda module, args, y: y + 1)
    stock = copy.deepcopy(model)
    assert list(lrkernels.accelerate(model).declined.values()) == [
        "adapter 'default': DoRA, and base_layer has no plain weight to take the norm of",
        "adapter 'default': DoRA, and its magnitude is not exactly PEFT's or has hooks",
    ]
    x = torch.randn(6, 24)
    assert torch.equal(model(x), stock(x))
    handle.remove()
    inner.second.lora_magnitude_vector["default"].weight.data = torch.ones(5)
    assert "its magnitude does not have the layer's shape" in str(lrkernels.accelerate(model))
