"""replace_linear: which layers it takes, what it reports, and what it leaves as it was."""

import re
from functools import partial

import pytest
import torch
from torch import nn

import lrkernels
from lrkernels.nn import LoRALinear, LowRankLinear, replace_linear

lora = partial(LoRALinear, r=2)
lowrank = partial(LowRankLinear.from_linear, rank=2)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q_proj, self.v_proj = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        return self.q_proj(x).tanh() + self.v_proj(x)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn, self.norm, self.mlp = Attention(), nn.LayerNorm(8), nn.Linear(8, 8)

    def forward(self, x):
        return self.mlp(self.norm(x + self.attn(x)))


class Model(nn.Module):
    def __init__(self, tied=False):
        super().__init__()
        self.embedding = nn.Embedding(12, 8)
        self.layers = nn.ModuleList([Block(), Block()])
        self.lm_head = nn.Linear(8, 12, bias=False)
        if tied:
            self.lm_head.weight = self.embedding.weight

    def forward(self, tokens):
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.lm_head(x)


def replaced_names(report):
    return [r.name for r in report.replaced]


def kinds(model, kind):
    return [name for name, module in model.named_modules() if isinstance(module, kind)]


def test_is_part_of_the_package():
    assert lrkernels.replace_linear is replace_linear


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (["q_proj"], ["layers.0.attn.q_proj", "layers.1.attn.q_proj"]),
        (["attn.q_proj", "mlp"], ["layers.0.attn.q_proj", "layers.0.mlp", "layers.1.attn.q_proj", "layers.1.mlp"]),
        (("layers.1.mlp",), ["layers.1.mlp"]),
        ({"lm_head"}, ["lm_head"]),
    ],
)
def test_names_match_whole_or_as_dotted_suffix(targets, expected):
    model = Model()
    report = replace_linear(model, lora, target_modules=targets)
    assert replaced_names(report) == expected == kinds(model, LoRALinear) and len(report) == len(expected)
    assert "not named in target_modules" in report.skipped.values()


def test_a_suffix_is_whole_components():
    with pytest.raises(ValueError, match=r"'proj' matches no layer; close names: (q_proj, v_proj|v_proj, q_proj)$"):
        replace_linear(Model(), lora, target_modules=["proj"])


@pytest.mark.parametrize("tied", [True, False])
def test_all_linear_leaves_the_output_head(tied):
    model = Model(tied)
    if not tied:
        model.get_output_embeddings = lambda: model.lm_head
    report = replace_linear(model, lora, target_modules="all-linear")
    assert len(report) == 6 and "output head" in report.skipped["lm_head"]


def test_filter_narrows_or_chooses_alone():
    asked = []

    def in_second_block(module, fqn):
        asked.append(type(module))
        return fqn.startswith("layers.1.")

    report = replace_linear(Model(), lora, target_modules=["mlp", "v_proj"], filter_fn=in_second_block)
    assert replaced_names(report) == ["layers.1.attn.v_proj", "layers.1.mlp"]
    assert report.skipped["layers.0.mlp"] == "filter_fn declined"
    assert set(asked) == {nn.Linear}
    report = replace_linear(Model(), lora, filter_fn=lambda module, fqn: module.out_features == 12)
    assert replaced_names(report) == ["lm_head"]


@pytest.mark.parametrize(
    ("targets", "error", "message"),
    [
        (["layers.0.attn.qproj"], ValueError, r"matches no layer; close names: layers.0.attn.q_proj"),
        (["q_proj", "mpl"], ValueError, r"'mpl' matches no layer; close names: mlp"),
        (["zzz"], ValueError, r"'zzz' matches no layer; the model's linear layers: q_proj, v_proj, mlp, lm_head"),
        (["attn"], ValueError, r"'attn' matches layers.0.attn, which is Attention, not nn.Linear; it contains"),
        (["embedding"], ValueError, r"matches embedding, which is Embedding, not nn.Linear"),
        (["norm.weight"], ValueError, r"matches layers.0.norm.weight, a parameter of shape \(8,\)"),
        ([], ValueError, "target_modules is empty"),
        (None, ValueError, "say what to replace"),
        ("q_proj", TypeError, "target_modules is 'q_proj', expected a list of names"),
        ([3], TypeError, "target_modules holds 3"),
        (3, TypeError, "target_modules is 3, expected a list of names"),
        (b"mlp", TypeError, "target_modules is b'mlp', expected a list of names"),
        (re.compile("mlp"), TypeError, r"target_modules is re.compile\('mlp'\), .* \(for a pattern use filter_fn"),
    ],
)
def test_slips_in_target_modules_raise(targets, error, message):
    model = Model()
    with pytest.raises(error, match=message):
        replace_linear(model, lora, target_modules=targets)
    assert kinds(model, LoRALinear) == [] and all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("model", [None, [nn.Linear(8, 8)], nn.Sequential])
def test_a_model_that_is_no_module_raises(model):
    with pytest.raises(TypeError, match=f"replace_linear: model is {type(model).__name__}, expected an nn.Module"):
        replace_linear(model, lora, target_modules="all-linear")


@pytest.mark.parametrize("factory", [None, 3, "lora", nn.Linear(8, 8)])
def test_a_factory_that_is_no_function_raises(factory):
    model = Model()
    with pytest.raises(TypeError, match=f"replace_linear: factory is {type(factory).__name__}, expected a function"):
        replace_linear(model, factory, target_modules=["mlp"])
    assert kinds(model, LoRALinear) == [] and all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("result", [None, [nn.Linear(8, 8)], LoRALinear])
def test_a_factory_that_returns_no_module_changes_nothing(result):
    model = Model()
    layers = dict(model.named_modules())
    with pytest.raises(
        TypeError, match=rf"factory returned {type(result).__name__} for 'layers.1.mlp', expected an nn"
    ):
        replace_linear(
            model, lambda m: result if m is model.layers[1].mlp else lora(m), target_modules=["q_proj", "mlp"]
        )
    assert dict(model.named_modules()) == layers and all(p.requires_grad for p in model.parameters())


def test_other_slips_raise():
    with pytest.raises(ValueError, match=r"no layer was chosen; the model's replaceable nn.Linear layers: layers.0"):
        replace_linear(Model(), lora, filter_fn=lambda module, fqn: False)
    with pytest.raises(TypeError, match="filter_fn is list"):
        replace_linear(Model(), lora, filter_fn=["q_proj"])
    with pytest.raises(ValueError, match=r"model is itself an nn.Linear.*factory\(model\)"):
        replace_linear(nn.Linear(4, 4), lora, target_modules="all-linear")


def test_a_failing_factory_names_the_layer_and_changes_nothing():
    model = Model()
    with pytest.raises(ValueError, match=r"factory failed for 'lm_head', Linear\(.*: LoRALinear: r is 9, expected at"):
        replace_linear(
            model, lambda m: LoRALinear(m, 2 if m.out_features == 8 else 9), target_modules=["mlp", "lm_head"]
        )
    assert kinds(model, LoRALinear) == [] and all(p.requires_grad for p in model.parameters())
    with pytest.raises(KeyError):
        replace_linear(model, lambda m: {}[m], target_modules=["mlp"])


def test_adapters_freeze_the_rest_and_the_model_starts_unchanged():
    model, tokens = Model(), torch.randint(12, (2, 5))
    before = model(tokens)
    report = replace_linear(model, lora, target_modules=["q_proj", "v_proj"])
    torch.testing.assert_close(model(tokens), before)
    trainable = [n for n, p in model.named_parameters() if p.requires_grad]
    assert len(trainable) == 8 and all(n.endswith(("lora_A", "lora_B")) for n in trainable)
    model(tokens).sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is not None] == trainable
    assert report.frozen and report.trainable_after == 4 * 2 * (8 * 2)


def test_factors_in_place_of_weights_leave_the_model_trainable():
    model = Model()
    report = replace_linear(model, lowrank, target_modules="all-linear")
    assert not report.frozen and all(p.requires_grad for p in model.parameters())
    assert len(report) == 7 and report.parameters_before == sum(p.numel() for p in Model().parameters())
    assert report.parameters_after == sum(p.numel() for p in model.parameters())
    # Six layers of 8x8 and the head of 12x8 became two factors of rank 2.
    assert report.parameters_after == report.parameters_before - 6 * (64 - 2 * 16) - (96 - 2 * 20)


def test_a_second_call_adds_adapters_and_nests_none():
    model = Model()
    replace_linear(model, lora, target_modules=["q_proj"])
    first = model.layers[0].attn.q_proj
    report = replace_linear(model, partial(LoRALinear, r=4), target_modules=["v_proj", "mlp"])
    assert len(report) == 4 and model.layers[0].attn.q_proj is first and first.lora_A.requires_grad
    report = replace_linear(model, lora, filter_fn=lambda module, fqn: True)
    assert replaced_names(report) == ["lm_head"]
    with pytest.raises(ValueError, match=r"'q_proj' matches layers.0.attn.q_proj, which is a LoRALinear already"):
        replace_linear(model, lora, target_modules=["q_proj"])


def test_a_layer_used_twice_is_replaced_once():
    shared = nn.Linear(8, 8)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    model.again = Block()
    model.again.mlp = shared
    calls = []
    report = replace_linear(model, lambda linear: calls.append(linear) or lora(linear), target_modules=["2", "q_proj"])
    assert model[0] is model[2] is model.again.mlp and isinstance(model[0], LoRALinear)
    assert calls == [shared, model.again.attn.q_proj.base_layer]
    assert report.replaced[0].name == "0" and report.replaced[0].aliases == ("2", "again.mlp")
    assert "also held as 2, again.mlp" in str(report)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtype_device_and_mode_stay(dtype):
    model = Model().to(dtype).eval()
    model.layers[0].mlp.train()
    fresh = lambda linear: LowRankLinear(linear.in_features, linear.out_features, 2)  # noqa: E731
    replace_linear(model, fresh, target_modules=["mlp"])
    replace_linear(model, lora, target_modules=["q_proj"])
    first, second = model.layers[0].mlp, model.layers[1].mlp
    assert first.down.dtype == second.up.dtype == dtype and first.training and not second.training
    adapter = model.layers[1].attn.q_proj
    assert adapter.base_layer.weight.dtype == dtype and not adapter.training and not adapter.base_layer.training
    assert model(torch.tensor([[1, 2]])).dtype == dtype
    meta = Model().to("meta")
    replace_linear(meta, fresh, target_modules="all-linear")
    assert all(p.is_meta for p in meta.parameters())


def test_the_factory_may_decline():
    model = Model()
    report = replace_linear(model, lambda m: m if m.out_features == 8 else lora(m), target_modules=["mlp", "lm_head"])
    assert replaced_names(report) == ["lm_head"]
    assert report.skipped["layers.0.mlp"] == "the factory returned the layer itself"


def test_fused_expert_weights_are_reported():
    model = Model()
    model.layers[0].experts = nn.Module()
    model.layers[0].experts.gate_up_proj = nn.Parameter(torch.zeros(4, 8, 16))
    model.layers[0].experts.scale = nn.Parameter(torch.zeros(4))
    report = replace_linear(model, lora, target_modules=["mlp"])
    assert list(report.expert_weights) == ["layers.0.experts.gate_up_proj"]
    assert "a fused 4x8x16 parameter, 512 elements" in str(report)
    with pytest.raises(ValueError, match=r"gate_up_proj, a parameter of shape \(4, 8, 16\), not an nn.Linear"):
        replace_linear(model, lora, target_modules=["gate_up_proj"])


def test_the_report_prints():
    report = replace_linear(Model(tied=True), lora, target_modules="all-linear")
    text = str(report)
    assert text == repr(report)
    assert text.splitlines()[0] == "replaced 6 modules"
    assert "layers.*.attn.q_proj (2): Linear(in_features=8, out_features=8, bias=True) -> LoRALinear(" in text
    assert 'skipped (1)\n  lm_head: the output head, which "all-linear" leaves alone' in text
    assert "parameters: 560 -> 752 (1.34x)" in text
    assert "trainable: 560 -> 192 (0.343x), 25.53% of the parameters; everything but the adapters is frozen" in text
