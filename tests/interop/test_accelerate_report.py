"""What accelerate fuses, what it declines, and that the report tells the truth for every layer of a mixed model."""

import copy

import pytest
import torch
from peft_models import TwoLayers, kernels_of, lora_config, peft, peft_layers, peft_llama, tiny_llama
from torch import nn

import lrkernels
from lrkernels.interop.peft import LayerReport


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class Zoo(nn.Module):
    """Every kind of layer that PEFT adapts, each called once."""

    linears = ("plain", "doubled", "hooked", "hooked_base", "hooked_factor", "own_forward", "sharded", "dora", "alora")

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(10, 8)
        self.conv = nn.Conv1d(8, 8, 1)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        for name in self.linears:
            setattr(self, name, Doubled(8, 8) if name == "doubled" else nn.Linear(8, 8))
        self.experts = nn.Linear(8, 8)

    def forward(self, ids):
        x = self.conv(self.embedding(ids).mT).mT.contiguous()  # PEFT's aLoRA asks for it
        x = x + self.attention(x, x, x)[0]
        for name in self.linears:
            x = x + getattr(self, name)(x)
        return self.experts(x)


def zoo():
    torch.manual_seed(0)
    targets = ["embedding", "conv", "attention", *Zoo.linears[:-2]]
    config = lora_config(target_modules=targets, target_parameters=["experts.weight"], task_type=None)
    model = peft.get_peft_model(Zoo(), config)
    model.add_adapter("magnitude", lora_config(target_modules=["dora"], use_dora=True, task_type=None))
    model.add_adapter("activated", lora_config(target_modules=["alora"], alora_invocation_tokens=[1], task_type=None))
    model.base_model.set_adapter(["default", "magnitude", "activated"])
    inner = model.base_model.model
    inner.hooked.register_forward_hook(lambda module, args, y: y + 1)
    inner.hooked_base.base_layer.register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    inner.hooked_factor.lora_A["default"].register_forward_hook(lambda module, args, y: y + 1)
    own = inner.own_forward
    own.forward = lambda x, stock=own.forward: stock(x) + 1
    inner.sharded.lora_B["default"].weight.data = torch.randn(8, 4).flatten()[:16]
    return model


REASONS = {
    "plain": (True, "lora.Linear", "Linear and update in one op"),
    "doubled": (True, "lora.Linear", "Doubled computes its own output, the op adds the update"),
    "embedding": (False, "lora.Embedding", "lora.layer.Embedding is no LoRA of a linear layer"),
    "conv": (False, "lora.Conv1d", "lora.layer.Conv1d is no LoRA of a linear layer"),
    "attention": (False, "lora.MultiheadAttention", "lora.layer.MultiheadAttention is no LoRA of a linear layer"),
    "attention.base_layer.out_proj": (False, "lora.Linear", "nn.MultiheadAttention reads its weight"),
    "hooked": (False, "lora.Linear", "the layer has hooks or a forward of its own"),
    "hooked_base": (False, "lora.Linear", "base_layer has hooks"),
    "hooked_factor": (False, "lora.Linear", "adapter 'default': lora_A, lora_B or lora_dropout has hooks"),
    "own_forward": (False, "lora.Linear", "the layer has hooks or a forward of its own"),
    "sharded": (False, "lora.Linear", "lora_A or lora_B does not have the adapter's shape"),
    "dora": (True, "lora.Linear", "DoRA, the op adds the update to Linear's scaled output"),
    "alora": (False, "lora.Linear", "adapter 'activated': ALora is neither plain LoRA nor DoRA"),
    "experts": (False, "lora.ParamWrapper", "lora.layer.ParamWrapper is no LoRA of a linear layer"),
}


def test_every_layer_of_a_mixed_model():
    model = zoo()
    classes = {name: type(module) for name, module in model.named_modules()}
    report = lrkernels.accelerate(model)
    prefix = "base_model.model."
    assert {layer.name.removeprefix(prefix) for layer in report.layers} == set(REASONS)
    lines = str(report).splitlines()
    assert len(lines) == 1 + len(report) and lines[0] == f"fused 3 of {len(report)} PEFT layers"
    for layer, line in zip(report.layers, lines[1:], strict=True):
        fused, kind, reason = REASONS[layer.name.removeprefix(prefix)]
        assert (layer.fused, layer.kind) == (fused, kind) and reason in layer.reason
        assert line.startswith(f"{'fused' if fused else 'declined'}  {layer.name}  {kind}: ") and layer.reason in line
    assert report.declined.keys() | report.fused.keys() == {layer.name for layer in report.layers}
    changed = {name for name, module in model.named_modules() if type(module) is not classes[name]}
    assert changed == report.fused.keys() == {prefix + name for name in ("plain", "doubled", "dora")}


def test_a_mixed_model_computes_what_peft_computes():
    stock = zoo()
    stock.base_model.model.sharded.lora_B["default"].weight.data = torch.randn(8, 4)
    stock.base_model.model.own_forward.__dict__.pop("forward")
    fused = copy.deepcopy(stock)
    lrkernels.accelerate(fused)
    ids = torch.randint(0, 10, (2, 5))
    y, kernels = kernels_of(lambda: fused(ids))
    torch.testing.assert_close(y, stock(ids))
    assert kernels


def test_strict_raises_before_anything_is_changed():
    model = zoo()
    classes = [type(module) for module in model.modules()]
    with pytest.raises(ValueError, match="strict, and 11 of 14 layers declined") as error:
        lrkernels.accelerate(model, strict=True)
    for name, (fused, _, reason) in REASONS.items():
        assert (reason in str(error.value)) != fused, name
    assert [type(module) for module in model.modules()] == classes
    assert len(lrkernels.accelerate(peft_llama(), strict=True).fused) == 7


def test_a_replaced_forward_of_nn_linear_is_called(monkeypatch):
    model = peft_layers()
    lrkernels.accelerate(model)
    called, forward = [], nn.Linear.forward
    monkeypatch.setattr(nn.Linear, "forward", lambda self, x: (called.append(self), forward(self, x))[1])
    _, kernels = kernels_of(lambda: model(torch.randn(3, 24)))
    assert len(called) == 6 and not kernels  # two layers, each a base layer, lora_A and lora_B
    assert "nn.Linear.forward" in str(lrkernels.accelerate(model))


def test_hooks_that_come_and_go():
    """The rules are applied in every forward: a hook registered later fires, and the op returns when it is gone."""
    model = peft_layers()
    lrkernels.accelerate(model)
    layer, x = model.base_model.model.first, torch.randn(3, 24)
    _, fused = kernels_of(lambda: layer(x))
    assert fused
    for module in (layer, layer.base_layer, layer.lora_A["default"], layer.lora_B["default"]):
        for register in (
            module.register_forward_hook,
            module.register_forward_pre_hook,
            module.register_full_backward_hook,
        ):
            fired = []
            handle = register(lambda *args, fired=fired: fired.append(1))
            _, kernels = kernels_of(lambda: layer(x.requires_grad_()).sum().backward())
            assert fired and not kernels, (module, register)
            handle.remove()
    fired = []
    handle = nn.modules.module.register_module_forward_hook(lambda module, *args: fired.append(module))
    assert not kernels_of(lambda: layer(x))[1] and layer.lora_A["default"] in fired
    handle.remove()
    assert kernels_of(lambda: layer(x))[1] == fused


def test_a_second_call_covers_new_layers_and_takes_back_what_must_be_declined():
    model = peft_layers(target_modules=["first"])
    x = torch.randn(3, 24)
    assert list(lrkernels.accelerate(model).fused) == ["base_model.model.first"]
    model.add_adapter("more", lora_config(target_modules=["first", "second"], task_type=None))
    model.base_model.set_adapter("more")
    inner = model.base_model.model
    assert kernels_of(lambda: inner.first(x))[1]  # an adapter added to a fused layer is fused
    assert not kernels_of(lambda: inner.second(torch.randn(3, 40)))[1]
    assert list(lrkernels.accelerate(model).fused) == ["base_model.model.first", "base_model.model.second"]
    assert kernels_of(lambda: inner.second(torch.randn(3, 40)))[1]
    handle = inner.first.base_layer.register_forward_hook(lambda *args: None)
    report = lrkernels.accelerate(model)
    assert list(report.declined) == ["base_model.model.first"]
    assert type(inner.first) is peft.tuners.lora.layer.Linear
    handle.remove()
    assert lrkernels.accelerate(model).declined == {}


def test_restore():
    stock = peft_llama()
    model = copy.deepcopy(stock)
    lrkernels.accelerate(model)
    assert lrkernels.restore(model) == 7 and lrkernels.restore(model) == 0
    assert [type(m) for m in model.modules()] == [type(m) for m in stock.modules()]
    ids = torch.randint(0, 64, (2, 5))
    logits, kernels = kernels_of(lambda: model(ids).logits)
    assert torch.equal(logits, stock(ids).logits) and not kernels


def test_other_methods_of_peft_are_listed():
    config = peft.IA3Config(target_modules=["first"], feedforward_modules=[])
    report = lrkernels.accelerate(peft.get_peft_model(TwoLayers(), config))
    assert report.layers == [LayerReport("base_model.model.first", "ia3.Linear", False, "not LoRA, OFT, BOFT or HRA")]


def test_a_subclass_of_peft_s_layer_is_not_taken_for_it():
    model = peft_layers()
    layer = model.base_model.model.first
    layer.__class__ = type("Custom", (type(layer),), {"forward": lambda self, x: 3 * x})
    report = lrkernels.accelerate(model)
    assert list(report.declined) == ["base_model.model.first"] and "Custom is no LoRA" in str(report)


def test_a_base_layer_of_unknown_output():
    class Pair(nn.Module):
        in_features, out_features = 24, 40

        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(40, 24))

        def forward(self, x):
            return (x @ self.weight.T)[0]

    model = peft_layers(target_modules=["first"])
    model.base_model.model.first.base_layer = Pair()
    declined = lrkernels.accelerate(model).declined
    assert declined == {
        "base_model.model.first": "base_layer is Pair, which is no nn.Linear: its output may have any shape"
    }


def test_dtensors_are_declined(tmp_path):
    distributed = pytest.importorskip("torch.distributed")
    if not distributed.is_available() or not distributed.is_gloo_available():
        pytest.skip("torch was built without gloo")
    from torch.distributed.tensor import DeviceMesh, Replicate, distribute_tensor

    store = distributed.FileStore(str(tmp_path / "store"), 1)
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        mesh = DeviceMesh("cpu", [0])

        def distribute(linear):
            linear.weight = nn.Parameter(distribute_tensor(linear.weight.detach(), mesh, [Replicate()]))

        model = peft_layers()
        distribute(model.base_model.model.first.base_layer)
        distribute(model.base_model.model.second.lora_A["default"])
        assert list(lrkernels.accelerate(model).declined.values()) == [
            "base_layer holds a DTensor",
            "adapter 'default': lora_A or lora_B holds a DTensor or another tensor subclass",
        ]
    finally:
        distributed.destroy_process_group()


def test_wrong_arguments():
    with pytest.raises(TypeError, match="accelerate: model is list, expected an nn.Module"):
        lrkernels.accelerate([])
    with pytest.raises(TypeError, match="restore: model is list, expected an nn.Module"):
        lrkernels.restore([])
    with pytest.raises(ValueError, match="accelerate: the model has no PEFT layer; call peft.get_peft_model first"):
        lrkernels.accelerate(tiny_llama())


def test_an_offloaded_layer_is_declined():
    """accelerate's hooks replace the forward of a module: a new class would not be asked."""
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    model = peft_layers()
    add_hook_to_module(model.base_model.model.first.base_layer, AlignDevicesHook(io_same_device=True))
    assert list(lrkernels.accelerate(model).declined) == ["base_model.model.first"]
