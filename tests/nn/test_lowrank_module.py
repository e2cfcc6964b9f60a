"""LowRankLinear: what it computes, how it starts, and the way from and to nn.Linear."""

import copy
import pickle

import pytest
import torch
from torch import nn

from lrkernels.nn import LowRankLinear


def test_computes_its_equation():
    layer = LowRankLinear(24, 40, 5)
    x = torch.randn(3, 7, 24)
    exact = x.double() @ layer.down.double().T @ layer.up.double().T + layer.bias.double()
    plain = x @ layer.down.T @ layer.up.T + layer.bias
    error, plain_error = ((y.double() - exact).abs().max() for y in (layer(x), plain))
    assert error <= 2 * plain_error + 1e-6
    assert layer(x).shape == (3, 7, 40)


def test_every_parameter_gets_the_gradient_of_its_equation():
    layer = LowRankLinear(12, 9, 4, dtype=torch.float64)
    x = torch.randn(5, 12, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(5, 9, dtype=torch.float64)
    inputs = (x, layer.down, layer.up, layer.bias)
    expected = torch.autograd.grad(((x @ layer.down.T @ layer.up.T + layer.bias) * weights).sum(), inputs)
    torch.testing.assert_close(torch.autograd.grad((layer(x) * weights).sum(), inputs), expected)


@pytest.mark.parametrize(("in_features", "out_features", "rank"), [(512, 256, 8), (256, 768, 128)])
def test_initial_product_has_the_variance_of_linear(in_features, out_features, rank):
    layer = LowRankLinear(in_features, out_features, rank)
    product = layer.up @ layer.down
    assert product.var().item() == pytest.approx(1 / (3 * in_features), rel=0.1)
    assert product.mean().abs() < 3 * (3 * in_features) ** -0.5 / rank
    assert layer.bias.abs().max() <= in_features**-0.5
    assert layer.bias.std() > 0.4 * in_features**-0.5


@pytest.mark.parametrize(("in_features", "out_features"), [(20, 33), (33, 20)])
def test_from_linear_is_the_best_approximation(in_features, out_features):
    linear = nn.Linear(in_features, out_features, dtype=torch.float64)
    layer = LowRankLinear.from_linear(linear, 6)
    singular_values = torch.linalg.svdvals(linear.weight)
    difference = linear.weight - layer.up @ layer.down
    torch.testing.assert_close(torch.linalg.matrix_norm(difference), singular_values[6:].norm())
    torch.testing.assert_close(torch.linalg.matrix_norm(difference, 2), singular_values[6])
    torch.testing.assert_close(layer.up.T @ layer.up, layer.down @ layer.down.T)
    torch.testing.assert_close(layer.bias, linear.bias)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_full_rank_round_trip_is_exact_to_rounding(dtype):
    linear = nn.Linear(16, 24, dtype=dtype)
    layer = LowRankLinear.from_linear(linear, 16)
    restored = layer.to_linear()
    assert restored.weight.dtype == dtype and type(restored) is nn.Linear
    error = torch.linalg.matrix_norm(restored.weight.double() - linear.weight.double(), 2)
    assert error <= 16 * torch.finfo(dtype).eps * torch.linalg.matrix_norm(linear.weight.double(), 2)
    assert torch.equal(restored.bias, linear.bias)


def test_from_linear_keeps_flags_and_shares_nothing():
    linear = nn.Linear(8, 8).eval()
    linear.weight.requires_grad_(False)
    layer = LowRankLinear.from_linear(linear, 3)
    assert not layer.training and not layer.to_linear().training
    assert not layer.down.requires_grad and not layer.up.requires_grad and layer.bias.requires_grad
    with torch.no_grad():
        before = linear.bias.clone()
        layer.bias.add_(1)
    assert torch.equal(linear.bias, before)
    assert LowRankLinear.from_linear(nn.Linear(8, 8, bias=False), 3).bias is None


def test_balancing_keeps_the_product():
    for dtype, rounding in ((torch.float64, 1e-12), (torch.bfloat16, 3e-2)):
        layer = LowRankLinear(12, 10, 4, dtype=torch.float64)
        with torch.no_grad():
            layer.up.mul_(30.0)
        layer = layer.to(dtype)
        product, parameter = (layer.up @ layer.down).double(), layer.up
        layer.balance_()
        assert layer.up is parameter, "the optimizer's parameters stay"
        up, down = layer.up.double(), layer.down.double()
        torch.testing.assert_close(up @ down, product, rtol=rounding, atol=rounding * product.abs().max().item())
        torch.testing.assert_close(up.T @ up, down @ down.T, rtol=rounding, atol=rounding * product.norm().item())


def test_state_dict_round_trip_and_keys():
    layer, other = LowRankLinear(8, 6, 2), LowRankLinear(8, 6, 2)
    assert list(layer.state_dict()) == ["down", "up", "bias"]
    assert list(LowRankLinear(8, 6, 2, bias=False).state_dict()) == ["down", "up"]
    other.load_state_dict(layer.state_dict())
    x = torch.randn(4, 8)
    assert torch.equal(layer(x), other(x))


def test_deepcopy_and_pickle():
    layer, x = LowRankLinear(8, 6, 2), torch.randn(4, 8)
    expected = layer(x)
    copied, loaded = copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))
    with torch.no_grad():
        layer.down.zero_()
    assert torch.equal(copied(x), expected) and torch.equal(loaded(x), expected)


def test_meta_device_then_assign():
    source = LowRankLinear(8, 6, 2)
    layer = LowRankLinear(8, 6, 2, device="meta")
    assert layer.down.is_meta and layer(torch.empty(3, 8, device="meta")).shape == (3, 6)
    layer.load_state_dict(source.state_dict(), assign=True)
    x = torch.randn(3, 8)
    assert torch.equal(layer(x), source(x)) and layer.up.requires_grad
    from_meta = LowRankLinear.from_linear(nn.Linear(8, 6, device="meta"), 2)
    assert all(p.is_meta for p in from_meta.parameters())


@pytest.mark.parametrize("dtype", [torch.int32, torch.float8_e4m3fn, torch.complex64, "float32"])
def test_constructor_refuses_dtypes_the_op_has_not(dtype):
    with pytest.raises(TypeError, match=f"LowRankLinear: dtype is {dtype!r}, expected one of torch.float32, torch.flo"):
        LowRankLinear(8, 6, 2, dtype=dtype)


def test_conversions_in_inference_mode_can_train_afterwards():
    linear, x = nn.Linear(8, 6), torch.randn(3, 8, requires_grad=True)
    with torch.inference_mode():
        layer = LowRankLinear.from_linear(linear, 6)
        restored = layer.to_linear()
    for module in (layer, restored):
        torch.testing.assert_close(module(x), linear(x))
        assert not any(p.is_inference() for p in module.parameters())
        module(x).sum().backward()
        assert all(p.grad is not None for p in module.parameters())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((8, 6, 0), ValueError, "LowRankLinear: rank is 0, expected at least 1"),
        ((8, 6, -2), ValueError, "LowRankLinear: rank is -2"),
        ((8, 6, 7), ValueError, "LowRankLinear: rank is 7, expected at most 6"),
        ((8, 6, 2.0), TypeError, "LowRankLinear: rank is 2.0, expected an int"),
        ((8, 6, True), TypeError, "LowRankLinear: rank is True"),
        ((0, 6, 1), ValueError, "LowRankLinear: in_features is 0"),
        ((8, "6", 1), TypeError, "LowRankLinear: out_features is '6'"),
    ],
)
def test_constructor_refuses(arguments, error, message):
    with pytest.raises(error, match=message):
        LowRankLinear(*arguments)


def test_from_linear_refuses():
    with pytest.raises(TypeError, match=r"from_linear: linear is Conv1d, expected torch.nn.Linear"):
        LowRankLinear.from_linear(nn.Conv1d(2, 2, 1), 1)
    with pytest.raises(ValueError, match=r"from_linear: rank is 9, expected at most 8"):
        LowRankLinear.from_linear(nn.Linear(8, 10), 9)
    with pytest.raises(TypeError, match=r"from_linear: linear is an uninitialised LazyLinear"):
        LowRankLinear.from_linear(nn.LazyLinear(4), 1)
    linear = nn.Linear(8, 8)
    with torch.no_grad():
        linear.weight[2, 3] = float("nan")
    with pytest.raises(ValueError, match=r"from_linear: linear.weight holds NaN or Inf"):
        LowRankLinear.from_linear(linear, 2)
    packed = nn.Linear(8, 8)
    packed.weight = nn.Parameter(torch.zeros(32, 1, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(TypeError, match=r"from_linear: linear.weight is torch.uint8 of shape \(32, 1\)"):
        LowRankLinear.from_linear(packed, 2)


def test_repr_says_the_sizes():
    assert repr(LowRankLinear(8, 6, 2)) == "LowRankLinear(in_features=8, out_features=6, rank=2, bias=True)"
