"""What hangs on a replaced layer hangs on its replacement: tied weights and hooks."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

from lrkernels.nn import LoRALinear, LowRankLinear, replace_linear

lora = partial(LoRALinear, r=2)
lowrank = partial(LowRankLinear.from_linear, rank=2)


def tied_language_model():
    model = nn.Sequential(nn.Embedding(12, 8), nn.Linear(8, 8), nn.Linear(8, 12, bias=False))
    model[2].weight = model[0].weight
    return model


def test_a_tied_head_stays_tied_under_an_adapter():
    model = tied_language_model()
    report = replace_linear(model, lora, target_modules=["2"])
    assert model[2].base_layer.weight is model[0].weight
    assert report.parameters_after == report.parameters_before + 2 * (8 + 12)
    state = copy.deepcopy(model.state_dict())
    model.load_state_dict(state)
    assert model[2].base_layer.weight is model[0].weight


def test_a_tied_head_is_not_factorised():
    with pytest.raises(ValueError, match=r"refused '2': its weight is tied to 0.weight"):
        replace_linear(tied_language_model(), lowrank, target_modules=["2"])
    model = tied_language_model()
    report = replace_linear(model, lowrank, filter_fn=lambda module, fqn: True)
    assert report.refused["2"].startswith("its weight is tied to 0.weight") and model[2].weight is model[0].weight


def test_layers_tied_to_each_other_share_their_factors():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8))
    model[1].weight, model[1].bias = model[0].weight, model[0].bias
    x = torch.randn(3, 8)
    expected = model[1](model[0](x))
    replace_linear(model, partial(LowRankLinear.from_linear, rank=8), target_modules="all-linear")
    assert model[0].down is model[1].down and model[0].up is model[1].up and model[0].bias is model[1].bias
    assert model[2].down is not model[0].down
    torch.testing.assert_close(model[1](model[0](x)), expected)
    only_weight = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    only_weight[1].weight = only_weight[0].weight
    replace_linear(only_weight, lowrank, target_modules="all-linear")
    assert only_weight[0].up is only_weight[1].up and only_weight[0].bias is not only_weight[1].bias


def test_half_of_a_tied_pair_is_not_factorised():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    model[1].weight = model[0].weight
    with pytest.raises(ValueError, match=r"refused '0': its weight is tied to 1.weight"):
        replace_linear(model, lowrank, target_modules=["0"])
    ranks = iter((2, 3))
    with pytest.raises(ValueError, match=r"refused '1': its weight is tied to 0.weight, and the replacements differ"):
        replace_linear(model, lambda m: LowRankLinear.from_linear(m, next(ranks)), target_modules=["0", "1"])


@pytest.mark.parametrize("factory", [lora, lowrank])
def test_call_hooks_move_and_see_the_whole_layer(factory):
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
    seen = {}

    def record(key):
        return lambda module, *values: seen.setdefault(key, (module, *values)) and None

    handles = [
        model[0].register_forward_pre_hook(record("pre")),
        model[0].register_forward_hook(record("forward")),
        model[0].register_full_backward_pre_hook(record("backward pre")),
        model[0].register_full_backward_hook(record("backward")),
    ]
    with_kwargs = model[0].register_forward_hook(
        lambda m, args, kwargs, y: seen.update(kwargs=kwargs), with_kwargs=True
    )
    always = model[0].register_forward_hook(record("always"), always_call=True)
    replace_linear(model, factory, target_modules=["0"])
    new = model[0]
    if factory is lora:
        nn.init.normal_(new.lora_B)
    x = torch.randn(3, 8, requires_grad=True)
    y = new(x)
    (y * y).sum().backward()
    assert {key: value[0] for key, value in seen.items() if key != "kwargs"} == dict.fromkeys(
        ("pre", "forward", "backward pre", "backward", "always"), new
    )
    assert torch.equal(seen["forward"][2], y) and seen["kwargs"] == {}
    torch.testing.assert_close(seen["backward"][2][0], 2 * y)
    torch.testing.assert_close(seen["backward"][1][0], x.grad)
    seen.clear()
    for handle in (*handles, with_kwargs, always):
        handle.remove()
    new(x).sum().backward()
    assert seen == {} and not new._forward_hooks and not new._backward_hooks


def test_state_dict_hooks_keep_firing():
    for factory, key in ((lora, "0.base_layer.bias"), (lowrank, "0.bias")):
        model = nn.Sequential(nn.Linear(8, 8))
        fired = []
        model[0].register_state_dict_pre_hook(lambda module, prefix, keep, fired=fired: fired.append((module, prefix)))
        model[0].register_state_dict_post_hook(
            lambda module, state, prefix, metadata: state.__setitem__(prefix + "bias", state[prefix + "bias"] + 1)
        )
        model[0].register_load_state_dict_pre_hook(
            lambda module, state, prefix, *rest: state.__setitem__(prefix + "bias", state[prefix + "bias"] - 1)
        )
        model[0].register_load_state_dict_post_hook(lambda module, keys, fired=fired: fired.append((module, keys)))
        bias = model[0].bias.detach().clone()
        replace_linear(model, factory, target_modules=["0"])
        owner = model[0].base_layer if factory is lora else model[0]
        state = model.state_dict()
        torch.testing.assert_close(state[key], bias + 1)
        model.load_state_dict(state)
        torch.testing.assert_close(owner.bias, bias)
        assert [module for module, _ in fired] == [owner, owner] and fired[0][1] == key.removesuffix("bias")


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_a_hook_that_computes_the_weight_stays_with_it():
    model = nn.Sequential(nn.utils.weight_norm(nn.Linear(8, 8)))
    replace_linear(model, lora, target_modules=["0"])
    x = torch.randn(3, 8)
    before = model(x)
    with torch.no_grad():
        model[0].base_layer.weight_g.mul_(2)
    torch.testing.assert_close(model(x) - model[0].bias, 2 * (before - model[0].bias))
