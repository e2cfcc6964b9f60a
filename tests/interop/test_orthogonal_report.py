"""What accelerate says of OFT, BOFT and HRA layers, and that it is so; hooks, shards, adapters it leaves to PEFT."""

import copy

import pytest
import torch
from peft_models import TwoLayers, lora_config, peft, stock_and_fused
from peft_orthogonal import OPTIONS, allow_butterfly_factors, config, forwards_of_peft, orthogonal_layers
from torch import nn

import lrkernels

METHODS = list(OPTIONS)
HOW = {
    "oft": ("oft.Linear", "the ops rotate x, Linear computes its own output"),
    "boft": ("boft.Linear", "the ops rotate x, Linear computes its own output, which is scaled"),
    "hra": ("hra.HRALinear", "the op reflects x, Linear's weight takes the product"),
}


@pytest.fixture(autouse=True)
def butterfly(monkeypatch):
    allow_butterfly_factors(monkeypatch)


class Pictures(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 1)
        self.first = nn.Linear(24, 8)

    def forward(self, x):
        return self.conv(self.first(x).mT.unsqueeze(-1))


@pytest.mark.parametrize("method", METHODS)
def test_linear_layers_are_fused_and_convolutions_are_not(method):
    torch.manual_seed(0)
    model = peft.get_peft_model(Pictures(), config(method, target_modules=["first", "conv"]))
    classes = {name: type(module) for name, module in model.named_modules()}
    report = lrkernels.accelerate(model)
    assert [(layer.fused, layer.kind, layer.reason) for layer in report.layers if layer.fused] == [(True, *HOW[method])]
    (name, reason), *others = report.declined.items()
    assert name == "base_model.model.conv" and not others
    assert f"Conv2d is no {method.upper()} of a linear layer that lrkernels knows" in reason
    assert [name for name, module in model.named_modules() if type(module) is not classes[name]] == list(report.fused)
    with forwards_of_peft() as ran:
        model(torch.randn(2, 5, 24))
    assert not ran
    assert lrkernels.restore(model) == 1
    assert [type(module) for module in model.modules()] == list(classes.values())


def test_an_embedding_of_oft_is_declined():
    model = nn.Sequential(nn.Embedding(10, 24), nn.Linear(24, 8))
    report = lrkernels.accelerate(peft.get_peft_model(model, config("oft", target_modules=["0", "1"])))
    assert "oft.layer.Embedding is no OFT of a linear layer" in report.declined["base_model.model.0"]
    assert list(report.fused) == ["base_model.model.1"]


@pytest.mark.parametrize("method", METHODS)
def test_hooks_that_come_and_go(method):
    """A hook fires wherever PEFT's forward would have it fire, registered before or after accelerate."""
    model = orthogonal_layers(method=method, target_modules=["first"])
    lrkernels.accelerate(model, strict=True)
    layer, x = model.base_model.model.first, torch.randn(3, 24, requires_grad=True)
    hooked = {"layer": layer, "base_layer": layer.base_layer}
    if method == "oft":
        hooked["oft_R"] = layer.oft_R["default"]
    for name, module in hooked.items():
        for register in (module.register_forward_hook, module.register_full_backward_hook):
            fired = []
            handle = register(lambda *args, fired=fired: fired.append(1))
            with forwards_of_peft() as ran:
                layer(x).sum().backward()
            assert bool(fired) == (name != "base_layer" or method != "hra"), name  # which PEFT's HRA never calls
            assert bool(ran) == (name != "base_layer"), name
            declined = lrkernels.accelerate(copy.deepcopy(model)).declined.values()
            assert [("has hooks" in reason) for reason in declined] == ([] if name == "base_layer" else [True])
            handle.remove()
    with forwards_of_peft() as ran:
        layer(x)
    assert not ran


@pytest.mark.parametrize("method", METHODS)
def test_a_forward_of_the_base_layer_s_own(method):
    """As offloading puts it there: OFT and BOFT call it, HRA reads the weight, stock and fused."""
    stock = orthogonal_layers(method=method, target_modules=["first"]).base_model.model.first
    base = stock.base_layer
    base.forward = lambda x: nn.functional.linear(x, base.weight, base.bias) + 1
    fused = copy.deepcopy(stock)
    lrkernels.accelerate(nn.Sequential(fused), strict=True)
    x = torch.randn(3, 24)
    torch.testing.assert_close(fused(x), stock(x))
    del base.__dict__["forward"]
    assert torch.allclose(stock(x), fused(x), rtol=1e-5, atol=1e-5) == (method == "hra")


@pytest.mark.parametrize("method", METHODS)
def test_shards_and_foreign_tensors_are_left_to_peft(method):
    name = {"oft": "oft_R", "boft": "boft_R", "hra": "hra_u"}[method]
    for change, reason in (
        (lambda tensor: tensor.flatten()[: tensor.numel() // 2], f"{name} does not have the adapter's shape"),
        (lambda tensor: tensor.to(torch.float8_e4m3fn), f"{name} holds torch.float8_e4m3fn"),
    ):
        model = orthogonal_layers(method=method, target_modules=["first"])
        entry = getattr(model.base_model.model.first, name)["default"]
        parameter = entry.weight if method == "oft" else entry
        parameter.data = change(parameter.data)
        declined = lrkernels.accelerate(model).declined
        assert [text.startswith(f"adapter 'default': {reason}") for text in declined.values()] == [True]


def test_the_weight_under_hra_has_to_be_one():
    model = orthogonal_layers(method="hra")
    first, second = model.base_model.model.first.base_layer, model.base_model.model.second.base_layer
    first.weight.data = first.weight.data[:20]
    torch.nn.utils.parametrize.register_parametrization(second, "weight", nn.Identity())
    assert list(lrkernels.accelerate(model).declined.values()) == [
        "base_layer.weight does not have the adapter's shape: it is a shard, or gathered only when called",
        "base_layer.weight is no parameter",
    ]


def test_butterflies_of_different_sizes_are_left_to_peft():
    """PEFT keeps one permutation a layer: that of the adapter added last, which it uses for all."""
    model = orthogonal_layers(method="boft", boft_n_butterfly_factor=2, target_modules=["first"])
    model.add_adapter("other", config("boft", boft_block_size=2, boft_n_butterfly_factor=2, target_modules=["first"]))
    declined = lrkernels.accelerate(copy.deepcopy(model)).declined
    assert "boft_P is that of another adapter" in declined["base_model.model.first"]
    # With one factor there is no permutation, whatever the sizes.
    model = orthogonal_layers(method="boft", target_modules=["first"])
    model.add_adapter("other", config("boft", boft_block_size=2, target_modules=["first"]))
    assert lrkernels.accelerate(model).declined == {}
    # One of the adapters of a fused layer may be PEFT's to compute.
    model.add_adapter("deep", config("boft", boft_block_size=2, boft_n_butterfly_factor=2, target_modules=["first"]))
    (layer,) = lrkernels.accelerate(model).layers
    assert layer.fused and list(layer.adapters) == ["default", "other"]


def test_a_model_of_several_methods():
    """PeftMixedModel: an OFT layer may adapt a LoRA layer, which is one more layer of the report."""
    torch.manual_seed(0)
    model = peft.get_peft_model(TwoLayers(), lora_config(target_modules=["first"], task_type=None), mixed=True)
    model.add_adapter("turned", config("oft", target_modules=["first", "second"]))
    model.set_adapter(["default", "turned"])
    stock = copy.deepcopy(model)
    report = lrkernels.accelerate(model)
    assert (
        report.fused
        == {
            "base_model.model.first": "the ops rotate x, Linear computes its own output",
            "base_model.model.first.base_layer": "Linear and update in one op",
            "base_model.model.second": "the ops rotate x, Linear computes its own output",
        }
        or report.fused
    )
    x = torch.randn(6, 24)
    torch.testing.assert_close(model(x), stock(x))


def test_a_second_call_covers_new_layers():
    model = orthogonal_layers(target_modules=["first"])
    lrkernels.accelerate(model)
    model.add_adapter("more", config("oft", target_modules=["first", "second"]))
    model.base_model.set_adapter("more")
    with forwards_of_peft() as ran:
        model(torch.randn(3, 24))
    assert ran == [model.base_model.model.second]
    assert len(lrkernels.accelerate(model).fused) == 2


def test_a_class_derived_from_a_fused_one_stays():
    stock, fused = stock_and_fused(orthogonal_layers())
    layer = fused.base_model.model.first
    kept = layer.__class__ = type("Sharded", (type(layer),), {})
    assert "its class was derived from the fused one" in str(lrkernels.accelerate(fused)) and type(layer) is kept
    x = torch.randn(6, 24)
    torch.testing.assert_close(fused(x), stock(x))
    with pytest.raises(RuntimeError, match="restore: the classes of .* were derived"):
        lrkernels.restore(fused)


@pytest.mark.parametrize("method", METHODS)
def test_hooks_for_all_modules(method):
    model = orthogonal_layers(method=method)
    lrkernels.accelerate(model, strict=True)
    fired = []
    handle = nn.modules.module.register_module_forward_hook(lambda module, *args: fired.append(module))
    with forwards_of_peft() as ran:
        model(torch.randn(3, 24))
    handle.remove()
    assert len(ran) == 2 and fired
