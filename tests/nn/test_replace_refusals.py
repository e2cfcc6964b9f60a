"""What replace_linear must not replace, and the proof that it would be silently wrong."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from lrkernels.nn import LoRALinear, LowRankLinear, replace_linear

lora = partial(LoRALinear, r=2)
lowrank = partial(LowRankLinear.from_linear, rank=2)


class WeightOfTheBase(nn.Module):
    """An adapter as others write it: its ``weight`` is the base layer's, without the update."""

    def __init__(self, base):
        super().__init__()
        self.base_layer, self.update = base, nn.Linear(base.in_features, base.out_features, bias=False)

    @property
    def weight(self):
        return self.base_layer.weight

    @property
    def bias(self):
        return self.base_layer.bias

    def forward(self, x):
        return self.base_layer(x) + self.update(x)


def encoder_layer():
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    return layer.requires_grad_(False)


def train_and_eval_outputs(layer, x):
    with torch.no_grad():
        return layer.train()(x), layer.eval()(x)


def test_why_the_encoder_layer_is_refused():
    x, layer = torch.randn(2, 5, 8), encoder_layer()
    trained, evaluated = train_and_eval_outputs(layer, x)
    torch.testing.assert_close(trained, evaluated)
    layer.linear1 = WeightOfTheBase(layer.linear1)
    trained, evaluated = train_and_eval_outputs(layer, x)
    assert (trained - evaluated).abs().max() > 0.01, "the fast path ignores the replacement in evaluation only"


def test_why_the_attention_output_is_refused():
    x, attention = torch.randn(2, 5, 8), nn.MultiheadAttention(8, 2, batch_first=True).requires_grad_(False)
    before = attention(x, x, x)[0]
    attention.out_proj = WeightOfTheBase(attention.out_proj)
    torch.testing.assert_close(attention(x, x, x)[0], before)  # the update never acts, in training neither


def test_lora_put_there_by_hand_is_still_right():
    x, layer = torch.randn(2, 5, 8), encoder_layer()
    before, _ = train_and_eval_outputs(layer, x)
    for name in ("linear1", "linear2"):
        adapter = LoRALinear(getattr(layer, name), 2).requires_grad_(False)
        nn.init.normal_(adapter.lora_B)
        setattr(layer, name, adapter)
    trained, evaluated = train_and_eval_outputs(layer, x)
    torch.testing.assert_close(trained, evaluated)
    assert (trained - before).abs().max() > 0.01, "the update acts"


@pytest.mark.parametrize("factory", [lora, lowrank])
@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("self_attn.out_proj", "'0.self_attn.out_proj': nn.MultiheadAttention reads out_proj.weight"),
        ("linear1", "'0.linear1': nn.TransformerEncoderLayer has an inference fast path that reads linear1.weight"),
        ("linear2", "'0.linear2': nn.TransformerEncoderLayer"),
    ],
)
def test_refused_when_named(factory, target, reason):
    model = nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16), nn.Linear(8, 8))
    with pytest.raises(ValueError, match=f"refused {reason}"):
        replace_linear(model, factory, target_modules=["1", target])
    assert type(model[1]) is nn.Linear and all(p.requires_grad for p in model.parameters())


def test_reported_when_swept_in():
    model = nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16), nn.Linear(8, 8))
    for sweep in ({"target_modules": "all-linear"}, {"filter_fn": lambda module, fqn: True}):
        report = replace_linear(model, lambda linear: LowRankLinear(8, 8, 2), **sweep)
        assert [r.name for r in report.replaced] == ["1"]
        assert list(report.refused) == ["0.self_attn.out_proj", "0.linear1", "0.linear2"]
        assert "refused (3)\n  0.self_attn.out_proj: nn.MultiheadAttention reads" in str(report)
        model[1] = nn.Linear(8, 8)
    with pytest.raises(ValueError, match=r"every layer it matched was refused:\n  self_attn\.out_proj: "):
        replace_linear(nn.TransformerEncoderLayer(8, 2, 16), lora, target_modules="all-linear")


def test_the_decoder_layer_calls_its_layers_and_is_replaced():
    layer = nn.TransformerDecoderLayer(8, 2, 16, dropout=0.0)
    x = torch.randn(5, 2, 8)
    replace_linear(layer, lora, target_modules=["linear1", "linear2"])
    with torch.no_grad():
        before = layer(x, x)
        nn.init.normal_(layer.linear1.lora_B), nn.init.normal_(layer.linear2.lora_B)
        trained, evaluated = layer.train()(x, x), layer.eval()(x, x)
    torch.testing.assert_close(trained, evaluated)
    assert (trained - before).abs().max() > 0.01, "the update acts"


class Shifted(nn.Linear):
    def forward(self, x):
        return super().forward(x) + 1.0


def computed_weights():
    parametrized = nn.Linear(8, 8)
    parametrize.register_parametrization(parametrized, "weight", nn.Tanh())
    patched = nn.Linear(8, 8)
    patched.forward = lambda x: x
    return {
        "parametrized": (parametrized, "its weight is parametrized"),
        "weight norm": (parametrizations.weight_norm(nn.Linear(8, 8)), "its weight is parametrized"),
        "older weight norm": (nn.utils.weight_norm(nn.Linear(8, 8)), "its weight is computed by a hook"),
        "older spectral norm": (nn.utils.spectral_norm(nn.Linear(8, 8)).eval(), "its weight is computed by a hook"),
        "pruned": (prune.l1_unstructured(nn.Linear(8, 8), "weight", 0.5), "its weight is computed by a hook"),
        "subclass": (Shifted(8, 8), "Shifted has a forward of its own"),
        "patched": (patched, "Linear has a forward of its own"),
    }


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize(
    "case",
    ["parametrized", "weight norm", "older weight norm", "older spectral norm", "pruned", "subclass", "patched"],
)
def test_layers_that_do_more_are_wrapped_but_not_factorised(case):
    linear, reason = computed_weights()[case]
    model, x = nn.Sequential(linear, nn.Linear(8, 8)), torch.randn(3, 8)
    before = model(x)
    with pytest.raises(ValueError, match=f"refused '0': {reason}"):
        replace_linear(model, lambda m: LowRankLinear(8, 8, 2), target_modules=["0"])
    assert model[0] is linear
    replace_linear(model, lora, target_modules=["0"])
    torch.testing.assert_close(model(x), before)
    nn.init.normal_(model[0].lora_B)
    assert not torch.allclose(model(x), before)


def test_uninitialised_layers_are_refused():
    model = nn.Sequential(nn.LazyLinear(8), nn.Linear(8, 8))
    with pytest.raises(ValueError, match="refused '0': its weight is uninitialised"):
        replace_linear(model, lora, target_modules=["0"])
