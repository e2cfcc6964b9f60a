"""SplitLowRankLinear and ALDS's choice of groups and ranks: errors are sums of tails, and no choice is better."""

import copy
import itertools

import numpy as np
import pytest
import torch
from compressed_models import falling, network, tail, values
from torch import nn

from lrkernels.compress import compress, linear_layers, splits_within
from lrkernels.nn import LowRankLinear, SplitLowRankLinear


def weight_of(layer):
    return torch.cat([u @ d for u, d in zip(layer.up.chunk(layer.groups, 1), layer.down, strict=True)], 1)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_it_computes_its_equation_with_its_gradients(groups, bias):
    layer = SplitLowRankLinear(12, 10, groups, 2, bias, dtype=torch.float64)
    for x in (torch.randn(3, 7, 12), torch.randn(12), torch.randn(0, 12)):
        x = x.double().requires_grad_()
        expected = x @ weight_of(layer).T + (layer.bias if bias else 0.0)
        y = layer(x)
        torch.testing.assert_close(y, expected)
        inputs, cotangent = [x, *layer.parameters()], torch.randn_like(y)
        torch.testing.assert_close(
            torch.autograd.grad(y, inputs, cotangent), torch.autograd.grad(expected, inputs, cotangent)
        )
    assert SplitLowRankLinear(256, 192, groups, 16)(torch.randn(4, 256)).shape == (4, 192)
    half = layer.float()(torch.randn(5, 12).bfloat16())
    assert half.dtype == torch.bfloat16


def test_float32_factors_keep_their_digits_beside_half_activations():
    layer = SplitLowRankLinear(16, 4, 2, 1, bias=False)
    with torch.no_grad():  # x·down = 8·2⁻¹⁰, which is lost where 1 + 2⁻⁹ is rounded to bfloat16
        layer.down.copy_(torch.tensor([1 + 2.0**-9, -1.0]).repeat(4))
        layer.up.fill_(1.0)
    for dtype in (torch.bfloat16, torch.float16):
        y = layer(torch.ones(3, 16, dtype=dtype))
        assert y.dtype == dtype and (y == 2 * 4 * 2.0**-9).all()


@pytest.mark.parametrize("shape", [(5, 24), (5, 6), (5, 2), (5, 13), ()], ids=str)
def test_another_number_of_features_is_refused(shape):
    layer = SplitLowRankLinear(12, 10, 6, 2)
    with pytest.raises(ValueError, match=r"SplitLowRankLinear: x has shape .*, expected \(..., 12\)"):
        layer(torch.randn(shape))
    with pytest.raises(ValueError, match=r"expected \(..., 2\)"):
        SplitLowRankLinear(2, 10, 2, 1)(torch.randn(5, 4))


def test_it_compiles_whole_and_takes_another_batch():
    layer, x = SplitLowRankLinear(12, 10, 3, 2), torch.randn(5, 12)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), layer(x))
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    assert "groups=3, rank=2" in repr(layer)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_it_starts_with_the_variance_of_linear(groups):
    weight = weight_of(SplitLowRankLinear(256, 192, groups, 32))
    assert weight.var().item() == pytest.approx(1 / (3 * 256), rel=0.1)


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_its_error_is_the_sum_of_the_groups_tails(groups):
    linear = nn.Linear(24, 15).double()
    layer = SplitLowRankLinear.from_linear(linear, groups, 3)
    difference = (linear.weight - weight_of(layer)).detach()
    tails = [tail(columns, 3) ** 2 for columns in linear.weight.chunk(groups, 1)]
    np.testing.assert_allclose(difference.norm() ** 2, sum(tails), rtol=1e-9)
    assert torch.equal(layer.bias, linear.bias) and layer.bias is not linear.bias
    dense = layer.to_linear()
    torch.testing.assert_close(dense.weight, weight_of(layer))
    assert type(dense) is nn.Linear and torch.equal(dense.bias, linear.bias)
    if groups == 1:
        whole = LowRankLinear.from_linear(linear, 3)
        torch.testing.assert_close(weight_of(layer), whole.up @ whole.down)
    assert all(
        p.is_meta for p in SplitLowRankLinear.from_linear(nn.Linear(24, 15, device="meta"), groups, 3).parameters()
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((12, 10, 5, 2), "groups is 5, expected a divisor of in_features, which is 12"),
        ((12, 10, 0, 2), "groups is 0, expected at least 1"),
        ((12, 10, 4, 4), "rank is 4, expected at most 3"),
    ],
)
def test_wrong_sizes_are_refused(arguments, message):
    with pytest.raises(ValueError, match=f"SplitLowRankLinear: {message}"):
        SplitLowRankLinear(*arguments)
    with pytest.raises(ValueError, match=f"SplitLowRankLinear.from_linear: {message}"):
        SplitLowRankLinear.from_linear(nn.Linear(*arguments[:2]), *arguments[2:])


# --- ALDS ---


def blocks_of_rank(ranks, rows=12, cols=8):
    """Columns in groups, each of a low rank and with a range of its own."""
    return torch.cat([torch.randn(rows, r).double() @ torch.randn(r, cols).double() for r in ranks], 1)


def size_and_error(layer, choice):
    weight = layer.weight.detach()
    if choice is None:
        return weight.numel(), 0.0
    groups, rank = choice
    tails = sum(tail(columns, rank) ** 2 for columns in weight.chunk(groups, 1))
    return rank * (weight.shape[1] + groups * weight.shape[0]), (tails**0.5 / weight.norm()).item()


@pytest.mark.parametrize("numbers", [200, 420, 700])
def test_the_largest_error_is_the_least_of_all_choices_that_fit(numbers):
    layers = {"a": nn.Linear(16, 12).double(), "b": nn.Linear(16, 12).double(), "c": nn.Linear(12, 16).double()}
    layers["a"].weight.data = blocks_of_rank([2, 2])
    layers["b"].weight.data = falling(12, 16, 0.6, 0)
    found = splits_within(layers, numbers, groups=(1, 2))
    options = [None, *itertools.product((1, 2), range(1, 7))]
    best = np.inf
    table = {name: [size_and_error(layer, choice) for choice in options] for name, layer in layers.items()}
    for choices in itertools.product(*table.values()):
        if sum(size for size, _ in choices) <= numbers:
            best = min(best, max(error for _, error in choices))
    sizes, errors = zip(*(size_and_error(layers[name], choice) for name, choice in found.items()), strict=True)
    assert sum(sizes) <= numbers
    np.testing.assert_allclose(max(errors), best, atol=1e-7)


def test_groups_are_found_where_the_weight_has_them():
    layer = nn.Linear(32, 12).double()
    layer.weight.data = blocks_of_rank([1, 1, 1, 1])
    assert values(layer.weight)[3] > 0.1, "as one matrix it has rank four"
    model = nn.Sequential(layer)
    weight = layer.weight.detach().clone()
    choices = splits_within(linear_layers(model), 32 + 4 * 12)
    assert choices == {"0": (4, 1)}
    compress(model, choices)
    torch.testing.assert_close(weight_of(model[0]), weight, atol=1e-6, rtol=0)


def test_a_budget_for_everything_keeps_everything_and_a_small_one_is_refused():
    model = network()
    layers = linear_layers(model)
    everything = sum(layer.weight.numel() for layer in layers.values())
    assert splits_within(layers, everything) == {"0": None, "2": None, "4": None}
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="numbers is 117, expected at least 118, the smallest choices"):
        splits_within(layers, 117)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
