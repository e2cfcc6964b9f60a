"""Merging a LoRA update: exact both ways, and invisible to state_dict."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize

from lrkernels.nn import LoRALinear


def make(dtype=torch.float32, base_type=nn.Linear, **options) -> LoRALinear:
    layer = LoRALinear(base_type(12, 10, dtype=dtype), 4, alpha=2.0, **options)
    nn.init.normal_(layer.lora_B)
    return layer


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().clone().view(torch.uint8)


class Doubling(nn.Linear):
    def forward(self, x):
        return 2.0 * super().forward(x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_merge_rounds_once_and_unmerge_restores_the_bits(dtype):
    layer = make(dtype)
    parameter, before = layer.base_layer.weight, bits(layer.base_layer.weight)
    factors = bits(layer.lora_A), bits(layer.lora_B)
    exact = parameter.double() + 0.5 * layer.lora_B.double() @ layer.lora_A.double()
    layer.merge()
    assert layer.merged and layer.weight.dtype == dtype
    assert (layer.weight.double() - exact).abs().max() <= torch.finfo(dtype).eps * exact.abs().max()
    x = torch.randn(5, 12, dtype=dtype)
    assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))
    layer.unmerge()
    assert not layer.merged and layer.base_layer.weight is parameter
    assert torch.equal(bits(parameter), before)
    assert torch.equal(bits(layer.lora_A), factors[0]) and torch.equal(bits(layer.lora_B), factors[1])


def test_merged_and_unmerged_agree():
    layer, x = make(torch.float64, dropout=0.5).eval(), torch.randn(5, 12, dtype=torch.float64)
    unmerged = layer(x)
    layer.merge()
    torch.testing.assert_close(layer(x), unmerged)


def test_a_subclass_runs_its_own_forward_on_the_merged_weight():
    layer, x = make(base_type=Doubling), torch.randn(5, 12)
    layer.merge()
    torch.testing.assert_close(layer(x), 2.0 * F.linear(x, layer.weight, layer.bias))


def test_state_dict_while_merged_is_the_unmerged_one():
    layer = make()
    expected = copy.deepcopy(layer.state_dict())
    layer.merge()
    state = layer.state_dict()
    assert list(state) == list(expected)
    assert all(torch.equal(state[key], expected[key]) for key in expected)


def test_loading_into_a_merged_layer_merges_what_was_loaded():
    layer, other, x = make(), make(), torch.randn(5, 12)
    layer.merge()
    layer.load_state_dict(other.state_dict())
    other.merge()
    assert layer.merged and torch.equal(layer(x), other(x))
    layer.unmerge(), other.unmerge()
    assert torch.equal(layer(x), other(x))


def test_merge_without_keeping():
    layer, x = make(), torch.randn(5, 12)
    original, initial = layer.base_layer.weight, copy.deepcopy(layer.state_dict())
    expected = F.linear(x, layer.weight, layer.bias)
    layer.merge(keep=False)
    assert layer.merged and layer.base_layer.weight is not original
    assert torch.equal(layer(x), expected)
    assert layer.merged_weight is None and not layer.lora_B.any(), "one weight is held, and the update is in it"
    with pytest.raises(RuntimeError, match=r"unmerge: merged with keep=False"):
        layer.unmerge()
    fresh = make()
    fresh.load_state_dict(layer.state_dict())
    torch.testing.assert_close(fresh(x), expected)
    layer.load_state_dict(initial)
    assert not layer.merged
    torch.testing.assert_close(layer(x), expected)
    assert torch.equal(layer.base_layer.weight, original)


@pytest.mark.parametrize("base_type", [nn.Linear, Doubling])
@pytest.mark.parametrize("way", ["keep", "fold", "unmerge", "load", "to_linear"])
def test_merging_in_inference_mode_leaves_a_layer_that_trains(way, base_type):
    layer, x = make(base_type=base_type), torch.randn(5, 12, requires_grad=True)
    a, b, w = (t.detach().clone() for t in (layer.lora_A, layer.lora_B, layer.base_layer.weight))
    with torch.inference_mode():
        if way == "to_linear":
            layer = layer.to_linear()
        else:
            layer.merge(keep=way != "fold")
        if way == "load":
            layer.load_state_dict(layer.state_dict())
        if way == "unmerge":
            layer.unmerge()
    layer(x).sum().backward()
    twice = 2.0 if base_type is Doubling else 1.0
    # Merged, a base that doubles its output doubles the update too.
    effective = twice * w + (0.5 if way == "unmerge" else twice * 0.5) * b @ a
    torch.testing.assert_close(x.grad, effective.sum(0).expand(5, 12))
    assert not any(t.is_inference() for t in (*layer.parameters(), *layer.buffers()))
    if way in ("fold", "unmerge"):
        layer.lora_B.grad = torch.ones_like(layer.lora_B)
        torch.optim.SGD([layer.lora_B], lr=1.0).step()


@pytest.mark.parametrize("keep", [True, False])
def test_a_layer_made_in_inference_mode_merges_outside(keep):
    with torch.inference_mode():
        layer = make()
        merged = layer.base_layer.weight + 0.5 * layer.lora_B @ layer.lora_A
    layer.merge(keep=keep)
    torch.testing.assert_close(layer.weight, merged)
    assert layer.merged and layer.lora_B.any() == keep


def test_merging_twice_or_undoing_nothing_raises():
    layer = make()
    with pytest.raises(RuntimeError, match="unmerge: not merged"):
        layer.unmerge()
    layer.merge()
    for keep in (True, False):
        with pytest.raises(RuntimeError, match="merge: already merged"):
            layer.merge(keep=keep)


def test_a_merge_that_overflows_raises_and_changes_nothing():
    layer = make(torch.float16)
    with torch.no_grad():
        layer.lora_B.fill_(1e5), layer.lora_A.fill_(1.0)
    before = bits(layer.base_layer.weight)
    for keep in (True, False):
        with pytest.raises(ValueError, match=r"merge: the merged weight has NaN or Inf in torch.float16"):
            layer.merge(keep=keep)
    assert not layer.merged and torch.equal(bits(layer.base_layer.weight), before) and layer.lora_B.any()


def test_a_computed_or_packed_weight_cannot_be_merged():
    base = nn.Linear(12, 10)
    parametrize.register_parametrization(base, "weight", nn.Identity())
    with pytest.raises(TypeError, match=r"merge: base_layer \(ParametrizedLinear\) has no plain"):
        LoRALinear(base, 4).merge()
    packed = nn.Linear(12, 10)
    packed.weight = nn.Parameter(torch.zeros(60, 1, dtype=torch.uint8), requires_grad=False)
    layer = LoRALinear(packed, 4)
    with pytest.raises(TypeError, match=r"merge: base_layer \(Linear\) has no plain"):
        layer.merge()
    assert not hasattr(layer, "weight")


@pytest.mark.parametrize("keep", [True, False])
def test_a_tied_weight_is_left_alone(keep):
    embedding = nn.Embedding(10, 12)
    head = nn.Linear(12, 10, bias=False)
    head.weight = embedding.weight
    layer = LoRALinear(head, 4)
    nn.init.normal_(layer.lora_B)
    before = bits(embedding.weight)
    layer.merge(keep=keep)
    assert torch.equal(bits(embedding.weight), before)
    if keep:
        layer.unmerge()
        assert head.weight is embedding.weight


def test_a_merged_layer_moves_and_copies_whole():
    layer, x = make(), torch.randn(5, 12)
    original = layer.base_layer.weight.detach().clone()
    layer.merge()
    copied = copy.deepcopy(layer)
    assert copied.merged and torch.equal(copied(x), layer(x))
    copied.double()
    assert copied.merged_weight.dtype == torch.float64 and copied(x.double()).dtype == torch.float64
    copied.unmerge()
    assert torch.equal(copied.base_layer.weight, original.double()) and layer.merged


@pytest.mark.parametrize("state", ["unmerged", "merged", "folded"])
def test_to_linear_is_the_merged_base(state):
    layer, x = make(base_type=Doubling), torch.randn(5, 12)
    expected = 2.0 * F.linear(x, layer.weight, layer.bias)
    if state != "unmerged":
        layer.merge(keep=state == "merged")
    linear = layer.to_linear()
    assert type(linear) is Doubling and torch.equal(linear(x), expected)
    linear.weight.zero_()
    linear.bias.zero_()
    torch.testing.assert_close(2.0 * F.linear(x, layer.weight, layer.bias), expected)
