"""AdaptedLinear: adapters by name, switching them off, merging, state, and its place in a model."""

import copy
import pickle
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from adapter_cases import CASES
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint

from lrkernels.adapters import AdaptedLinear, CoLA, DoRA, LoRA, PiSSA, VeRA, VeRAFactors, adapted_layers
from lrkernels.nn import LoRALinear, replace_linear


def two_adapters() -> AdaptedLinear:
    layer = LoRA.wrap(nn.Linear(12, 10), r=4, alpha=8.0)
    layer.add_adapter("dora", DoRA, r=2)
    for parameter in layer.adapters.parameters():
        nn.init.normal_(parameter)
    return layer


def outputs(layer, x) -> dict[str | None, torch.Tensor]:
    found = {}
    for name in (None, "default", "dora"):
        layer.set_adapter(name)
        found[name] = layer(x)
    return found


def test_a_base_alone_is_itself():
    linear = nn.Linear(12, 10)
    layer, x = AdaptedLinear(linear), torch.randn(5, 12)
    assert torch.equal(layer(x), linear(x)) and layer.weight is linear.weight and layer.adapter is None
    with pytest.raises(RuntimeError, match=r"AdaptedLinear.merge: no adapter is set"):
        layer.merge()


def test_adapters_are_added_set_and_deleted_by_name():
    layer, x = two_adapters(), torch.randn(5, 12)
    assert layer.active == "default" and list(layer.adapters) == ["default", "dora"]
    found = outputs(layer, x)
    assert torch.equal(found[None], layer.base_layer(x))
    torch.testing.assert_close(found["default"], found[None] + x @ layer.adapters["default"].delta().T)
    assert not torch.allclose(found["dora"], found["default"])
    layer.set_adapter("default")
    layer.delete_adapter("dora")
    assert torch.equal(layer(x), found["default"]) and list(layer.adapters) == ["default"]
    layer.delete_adapter("default")
    assert layer.active is None and torch.equal(layer(x), found[None])
    layer.add_adapter("next", LoRA, r=2)
    assert layer.active == "next"


def test_disabling_is_the_base_merged_or_not():
    layer, x = two_adapters(), torch.randn(5, 12)
    base, updated = layer.base_layer(x), layer(x)
    for merged in (False, True):
        if merged:
            layer.merge()
        layer.disable()
        assert torch.equal(layer(x), base) and torch.equal(layer.weight, layer.base_layer.weight)
        assert torch.equal(layer.to_linear()(x), base)
        layer.load_state_dict(layer.state_dict())
        layer.enable()
        torch.testing.assert_close(layer(x), updated)
        torch.testing.assert_close(layer.to_linear()(x), updated)


def test_what_is_merged_is_the_adapter_that_is_set():
    layer, x = two_adapters(), torch.randn(5, 12)
    found, parameter = outputs(layer, x), layer.base_layer.weight
    for name in ("default", "dora"):
        layer.set_adapter(name)
        layer.merge()
        torch.testing.assert_close(layer(x), found[name])
        torch.testing.assert_close(F.linear(x, layer.weight, layer.bias), found[name])
        other = {"default": "dora", "dora": "default"}[name]
        for change in (
            layer.set_adapter,
            lambda _: layer.set_adapter(None),
            lambda _: layer.delete_adapter(layer.active),
        ):
            with pytest.raises(RuntimeError, match=f"AdaptedLinear.set_adapter: '{name}' is merged; call unmerge"):
                change(other)
        with pytest.raises(RuntimeError, match="reset_parameters: merged"):
            layer.reset_parameters()
        layer.set_adapter(name)
        layer.unmerge()
        assert layer.base_layer.weight is parameter and torch.equal(layer(x), found[name])


def test_an_adapter_without_a_matrix_is_not_merged():
    layer, x = CoLA.wrap(nn.Linear(12, 10), r=4), torch.randn(5, 12)
    before = layer(x)
    for refused in (layer.merge, partial(layer.merge, keep=False), layer.to_linear, layer.restart):
        with pytest.raises(TypeError, match=r"merge: CoLA has neither delta\(\) nor merged\(weight\)"):
            refused()
    assert not layer.merged and not hasattr(layer, "weight") and torch.equal(layer(x), before)
    with pytest.raises(NotImplementedError, match=r"CoLA has no delta\(\)"):
        layer.adapter.delta()


@pytest.mark.parametrize("name", [name for name in CASES if name != "CoLA"])
def test_restart_moves_the_update_into_the_weight_and_goes_on(name):
    layer, x = CASES[name].layer(), torch.randn(5, 12, dtype=torch.float64)
    expected, original = layer(x), layer.base_layer.weight.clone()
    layer.restart()
    assert not layer.merged and not torch.allclose(layer.base_layer.weight, original)
    torch.testing.assert_close(layer(x), expected)
    for parameter in layer.adapter.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter)
    if name != "SingLoRA":
        assert not torch.allclose(layer(x), expected), "the adapter is at work again"


def test_merge_without_keeping():
    layer, x = two_adapters(), torch.randn(5, 12)
    initial, expected = copy.deepcopy(layer.state_dict()), layer(x)
    layer.merge(keep=False)
    assert layer.merged and not layer.adapter.up.any()
    torch.testing.assert_close(layer(x), expected)
    for refused, message in (
        (layer.unmerge, "the unmerged weight is gone"),
        (layer.disable, "the unmerged weight is gone"),
        (lambda: layer.add_adapter("third", LoRA, r=2), r"call restart\(\) instead of merge"),
    ):
        with pytest.raises(RuntimeError, match=message):
            refused()
    layer.load_state_dict(initial)
    assert not layer.merged
    torch.testing.assert_close(layer(x), expected)
    layer.disable()
    with pytest.raises(RuntimeError, match=r"merge: the adapters are disabled; call enable\(\) first"):
        layer.merge(keep=False)


def test_state_dict_has_every_adapter_and_the_unmerged_weight():
    layer, other, x = two_adapters(), two_adapters(), torch.randn(5, 12)
    keys = [f"adapters.{n}" for n in ("default.down", "default.up", "dora.down", "dora.up", "dora.magnitude")]
    layer.merge()
    assert list(layer.state_dict()) == ["base_layer.weight", "base_layer.bias", *keys]
    other.load_state_dict(layer.state_dict())
    layer.unmerge()
    for name, expected in outputs(layer, x).items():
        assert torch.equal(outputs(other, x)[name], expected)
    with pytest.raises(RuntimeError, match="adapters.dora.down"):
        LoRA.wrap(nn.Linear(12, 10), r=4).load_state_dict(layer.state_dict())


def test_copies_keep_what_is_set_merged_and_disabled():
    layer, x = two_adapters(), torch.randn(5, 12)
    layer.set_adapter("dora")
    layer.merge()
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert other.active == "dora" and other.merged and torch.equal(other(x), layer(x))
        other.disable()
        assert torch.equal(other(x), layer.base_layer(x)) and layer.enabled


def test_train_mode_and_device_of_a_later_adapter_are_the_layers():
    layer = LoRA.wrap(nn.Linear(12, 10), r=4).eval()
    layer.add_adapter("second", LoRA, r=2, dropout=0.5)
    assert not layer.adapters["second"].training
    meta = LoRA.wrap(nn.Linear(12, 10), r=4, device="meta")
    assert meta.adapter.down.is_meta and not meta.base_layer.weight.is_meta
    assert LoRA.wrap(nn.Linear(12, 10), r=4, dtype=torch.bfloat16).adapter.up.dtype == torch.bfloat16


class Shifting(nn.Linear):
    def forward(self, x, shift=0.0):
        return 2.0 * super().forward(x) + shift


@pytest.mark.parametrize("name", CASES)
def test_a_base_with_a_forward_of_its_own_runs_it(name):
    base, x = Shifting(12, 10), torch.randn(5, 12)
    layer = CASES[name].adapter_class.wrap(base, **CASES[name].options)
    torch.testing.assert_close(layer(x, shift=3.0), base(x) + 3.0)
    torch.testing.assert_close(layer(x, 3.0), base(x) + 3.0)
    hooked = nn.Linear(12, 10)
    hooked.register_forward_hook(lambda module, args, output: output + 1.0)
    torch.testing.assert_close(CASES[name].adapter_class.wrap(hooked, **CASES[name].options)(x), hooked(x))


def test_a_merged_subclass_runs_its_own_forward():
    layer, x = LoRA.wrap(Shifting(12, 10), r=4), torch.randn(5, 12)
    nn.init.normal_(layer.adapter.up)
    layer.merge()
    torch.testing.assert_close(layer(x, shift=3.0), 2.0 * F.linear(x, layer.weight, layer.bias) + 3.0)


def test_a_weight_that_is_no_matrix_is_refused_where_it_is_needed():
    packed, x = nn.Linear(12, 10), torch.randn(5, 12)
    packed.forward = lambda x: x.new_ones(*x.shape[:-1], 10)
    packed.weight = nn.Parameter(torch.zeros(60, 1, dtype=torch.uint8), requires_grad=False)
    for name in ("LoRA", "LoRAFA", "VeRA", "SingLoRA", "AdaLoRA", "DyLoRA", "CoLA"):
        layer = CASES[name].adapter_class.wrap(packed, **CASES[name].options)
        torch.testing.assert_close(layer(x), torch.ones(5, 10))
        if name != "CoLA":
            with pytest.raises(TypeError, match=r"AdaptedLinear.merge: base_layer \(Linear\) has no plain"):
                layer.merge()
    for name in ("DoRA", "PiSSA", "LoRAXS"):
        with pytest.raises(TypeError, match=f"{name}: base_layer.weight is torch.uint8"):
            CASES[name].adapter_class.wrap(packed, **CASES[name].options)
    computed = nn.Linear(12, 10)
    parametrize.register_parametrization(computed, "weight", nn.Identity())
    with pytest.raises(TypeError, match="ParametrizedLinear"):
        LoRA.wrap(computed, r=4).merge()


@pytest.mark.parametrize("name", CASES)
def test_replace_linear_takes_each(name):
    model = nn.Sequential(nn.Linear(12, 10), nn.GELU(), nn.Linear(10, 12), nn.LayerNorm(12))
    x = torch.randn(5, 12)
    expected = model(x)
    case = CASES[name]
    report = replace_linear(model, partial(case.adapter_class.wrap, **case.options), target_modules="all-linear")
    assert len(report) == 2 and report.frozen and [type(m) for m in model[::2]] == [AdaptedLinear] * 2
    torch.testing.assert_close(model(x), expected)
    layers = list(adapted_layers(model))
    own = {id(p) for layer in layers for p in layer.adapters.parameters()}
    trained = [p for p in model.parameters() if p.requires_grad]
    assert trained and all(id(p) in own for p in trained)
    constant = (
        *("LoRAFA", "VeRA", "PiSSA", "OffsetLoRA", "LoRAXS", "NoRA", "SVFT", "PSOFT", "SORSA", "LaMDA", "TLoRA"),
    )
    assert (name in constant) == any(not p.requires_grad for layer in layers for p in layer.adapters.parameters()), (
        "constants of an adapter stay constant"
    )
    with pytest.raises(ValueError, match="matches 0, which is a AdaptedLinear already"):
        replace_linear(model, partial(LoRALinear, r=2), target_modules=["0"])
    for layer in layers:
        layer.disable()
    torch.testing.assert_close(model(x), expected)


def test_pissa_leaves_a_tied_weight_tied():
    embedding, head = nn.Embedding(10, 12), nn.Linear(12, 10, bias=False)
    head.weight = embedding.weight
    before = embedding.weight.detach().clone()
    layer = PiSSA.wrap(head, r=4)
    assert layer.base_layer.weight is embedding.weight and torch.equal(embedding.weight, before)


def test_vera_shares_its_factors_through_replace_linear_and_copies():
    model = nn.Sequential(nn.Linear(12, 10), nn.Linear(10, 12))
    shared = VeRAFactors(4, 12, 12)
    replace_linear(model, partial(VeRA.wrap, r=4, shared=shared), target_modules="all-linear")
    for other in (model, copy.deepcopy(model), model.double()):
        assert other[0].adapter.shared is other[1].adapter.shared
    assert model[0].adapter.shared is shared and not shared.down.requires_grad


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda a: a.add_adapter("default", LoRA, r=2), ValueError, "there is an adapter named 'default' already"),
        (lambda a: a.add_adapter("", LoRA, r=2), ValueError, "'' cannot be the name of a module"),
        (lambda a: a.add_adapter("a.b", LoRA, r=2), ValueError, "'a.b' cannot be the name"),
        (lambda a: a.add_adapter("keys", LoRA, r=2), ValueError, "'keys' cannot be the name"),
        (lambda a: a.add_adapter(3, LoRA, r=2), ValueError, "3 cannot be the name"),
        (lambda a: a.add_adapter("b", nn.Linear, 2, 2), TypeError, "Linear'>, expected a subclass of Adapter"),
        (lambda a: a.add_adapter("b", LoRA(a.base_layer, 2)), TypeError, "expected a subclass of Adapter"),
        (lambda a: a.add_adapter("b", LoRA, r=11), ValueError, "LoRA: r is 11, expected at most 10"),
        (lambda a: a.add_adapter("b", LoRA, r=2, alpha=float("inf")), ValueError, "LoRA: alpha is inf"),
        (lambda a: a.add_adapter("b", DoRA, r=2, dropout=2.0), ValueError, "DoRA: dropout is 2.0"),
        (lambda a: a.add_adapter("b", CoLA, r=0), ValueError, "CoLA: r is 0"),
        (lambda a: a.add_adapter("b", LoRA, r=2, dtype=torch.int8), TypeError, "LoRA: dtype is torch.int8"),
        (lambda a: a.set_adapter("b"), ValueError, "set_adapter: no adapter is named 'b'; there are: default, dora"),
        (lambda a: a.delete_adapter("b"), ValueError, "delete_adapter: no adapter is named 'b'"),
        (lambda a: LoRA.wrap(nn.Embedding(4, 4), r=2), TypeError, "LoRA: base_layer is Embedding"),
        (lambda a: AdaptedLinear(nn.Embedding(4, 4)), TypeError, "AdaptedLinear: base_layer is Embedding"),
    ],
)
def test_slips_raise_and_change_nothing(call, error, message):
    layer = two_adapters()
    with pytest.raises(error, match=message):
        call(layer)
    assert list(layer.adapters) == ["default", "dora"] and layer.active == "default"


def test_a_refused_base_is_left_as_it_was():
    linear = nn.Linear(12, 10)
    with pytest.raises(ValueError, match="LoRA: r is 99"):
        LoRA.wrap(linear, r=99)
    with torch.no_grad():
        linear.weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match="PiSSA: linear.weight holds NaN or Inf"):
        PiSSA.wrap(linear, r=4)
    assert linear.weight.requires_grad and linear.bias.requires_grad


@pytest.mark.parametrize("name", ["LoRA", "DyLoRA"])
def test_checkpointing_repeats_what_was_drawn(name):
    layer, x = CASES[name].layer(dropout=0.5).train(), torch.randn(64, 12, dtype=torch.float64)
    found = []
    for run in (layer, partial(checkpoint, layer, use_reentrant=False)):
        torch.manual_seed(1)
        found.append(torch.autograd.grad(run(x).square().sum(), [layer.adapter.down, layer.adapter.up]))
    assert all(torch.equal(plain, again) for plain, again in zip(*found, strict=True))


def test_neither_a_ramp_nor_a_drawn_rank_recompiles():
    layers = {name: CASES[name].layer().train() for name in ("SingLoRA", "DyLoRA")}
    x = torch.randn(5, 12, dtype=torch.float64)
    for layer in layers.values():
        torch.compiler.reset()
        counter = CompileCounter()
        compiled = torch.compile(layer, fullgraph=True, backend=counter)
        for seed in range(4):
            torch.manual_seed(seed)
            y = compiled(x)
            torch.manual_seed(seed)
            torch.testing.assert_close(y, layer(x))
            if layer is layers["SingLoRA"]:
                layer.adapter.step.add_(10)
        assert counter.frame_count == 1


def test_repr_says_which_adapter_acts():
    text = repr(two_adapters())
    assert "active='default' (LoRA), enabled=True, merged=False" in text
    assert "LoRA(in_features=12, out_features=10" in text
    assert "r=4, alpha=8" in text
