"""LoRALinear: what it computes over any base layer, its gradients, its state and its errors."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from philox import philox_mask
from torch import nn
from torch.nn.utils import parametrize

from lrkernels.nn import LoRALinear


def make(in_features=12, out_features=10, r=4, dtype=torch.float32, bias=True, **options) -> LoRALinear:
    """A layer whose update is not zero, as it is at the start."""
    layer = LoRALinear(nn.Linear(in_features, out_features, bias, dtype=dtype), r, **options)
    nn.init.normal_(layer.lora_B)
    return layer


class Doubling(nn.Linear):
    """A subclass whose forward is its own."""

    def forward(self, x, shift=0.0):
        return 2.0 * super().forward(x) + shift


class Scaled(nn.Module):
    """A parametrization."""

    def forward(self, weight):
        return 3.0 * weight


def test_starts_as_its_base():
    linear = nn.Linear(12, 10)
    x = torch.randn(5, 12)
    torch.testing.assert_close(LoRALinear(linear, 4, alpha=8)(x), F.linear(x, linear.weight, linear.bias))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("rslora", "scale"), [(False, 3.0 / 4), (True, 3.0 / 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_computes_its_equation(dtype, rslora, scale, bias):
    layer = make(dtype=dtype, bias=bias, alpha=3.0, rslora=rslora)
    assert layer.scale == scale
    x = torch.randn(2, 5, 12, dtype=dtype)
    a, b, w = layer.lora_A, layer.lora_B, layer.base_layer.weight
    shift = 0.0 if layer.bias is None else layer.bias
    exact = x.double() @ (w.double().T + scale * a.double().T @ b.double().T) + shift
    half_a, half_b = a.to(dtype), b.to(dtype)
    plain = F.linear(x, w, layer.bias) + scale * F.linear(F.linear(x, half_a), half_b)
    error, plain_error = ((y.double() - exact).abs().max() for y in (layer(x), plain))
    assert layer(x).dtype == dtype
    assert error <= 2 * plain_error + torch.finfo(dtype).eps


def test_factors_are_float32_over_a_half_base():
    assert make(dtype=torch.bfloat16).lora_A.dtype == torch.float32
    assert make(dtype=torch.float64).lora_A.dtype == torch.float64
    assert LoRALinear(nn.Linear(8, 8).bfloat16(), 2, dtype=torch.bfloat16).lora_B.dtype == torch.bfloat16


DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


@pytest.mark.parametrize("base_type", [nn.Linear, Doubling])
@pytest.mark.parametrize("factor_dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_factors_of_any_dtype_serve_a_base_of_any_dtype(dtype, factor_dtype, base_type):
    layer = LoRALinear(base_type(12, 10, dtype=dtype), 4, alpha=8, dtype=factor_dtype)
    nn.init.normal_(layer.lora_B)
    x, grad = torch.randn(5, 12, dtype=dtype), torch.randn(5, 10, dtype=dtype)
    y = layer(x)
    a, b, w, shift = (t.detach().double() for t in (layer.lora_A, layer.lora_B, layer.base_layer.weight, layer.bias))
    base = x.double() @ w.T + shift
    exact = (2 * base if base_type is Doubling else base) + 2 * x.double() @ a.T @ b.T
    tolerance = 4 * max(torch.finfo(d).eps for d in (dtype, factor_dtype))
    assert y.dtype == dtype and layer.lora_A.dtype == layer.lora_B.dtype == factor_dtype
    assert (y.double() - exact).abs().max() <= tolerance * exact.abs().max()
    y.backward(grad)
    for factor, exact_grad in (
        (layer.lora_A, 2 * b.T @ grad.double().T @ x.double()),
        (layer.lora_B, 2 * grad.double().T @ x.double() @ a.T),
    ):
        assert factor.grad.dtype == factor_dtype
        assert (factor.grad.double() - exact_grad).abs().max() <= tolerance * exact_grad.abs().max()
    layer.merge()
    exact = w + 2 * b @ a
    assert layer.weight.dtype == dtype and (layer.weight.double() - exact).abs().max() <= tolerance * exact.abs().max()


@pytest.mark.parametrize("factor_dtype", DTYPES, ids=str)
def test_factors_of_any_dtype_under_autocast(factor_dtype):
    layer, x = make(dtype=torch.float32), torch.randn(5, 12)
    exact = x @ (layer.base_layer.weight + layer.lora_B @ layer.lora_A).T + layer.bias
    layer.lora_A.data, layer.lora_B.data = layer.lora_A.data.to(factor_dtype), layer.lora_B.data.to(factor_dtype)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    assert (y - exact).abs().max() <= 0.02 * exact.abs().max()


def test_dropout_is_the_mask_of_the_seed_torch_draws():
    layer, x = make(dropout=0.5, alpha=8.0), torch.randn(6, 12)
    torch.manual_seed(7)
    y = layer(x)
    torch.manual_seed(7)
    seed = int(torch.randint(0, 2**62, ()))
    dropped = x * torch.from_numpy(philox_mask(seed, x.numel(), 0.5)).view_as(x).float()
    expected = layer.base_layer(x) + 2.0 * (dropped @ layer.lora_A.T @ layer.lora_B.T)
    torch.testing.assert_close(y, expected)
    assert not torch.equal(layer(x), y), "another forward draws another mask"


def test_dropout_acts_in_training_alone_and_one_drops_everything():
    layer, x = make(dropout=1.0), torch.randn(6, 12)
    torch.testing.assert_close(layer(x), layer.base_layer(x))
    state = torch.get_rng_state()
    y = layer.eval()(x)
    assert torch.equal(torch.get_rng_state(), state), "evaluation draws no seed"
    torch.testing.assert_close(y, layer.base_layer(x) + x @ layer.lora_A.T @ layer.lora_B.T)


def test_gradients_reach_the_factors_and_x_alone():
    layer = make(dtype=torch.float64, alpha=2.0)
    x = torch.randn(5, 12, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(5, 10, dtype=torch.float64)
    inputs = (x, layer.lora_A, layer.lora_B)
    weight = layer.base_layer.weight
    y = x @ (weight + 0.5 * layer.lora_B @ layer.lora_A).T + layer.bias
    expected = torch.autograd.grad((y * weights).sum(), inputs)
    (layer(x) * weights).sum().backward()
    torch.testing.assert_close(tuple(t.grad for t in inputs), expected)
    assert weight.grad is None and layer.bias.grad is None
    assert [n for n, p in layer.named_parameters() if p.requires_grad] == ["lora_A", "lora_B"]


@pytest.mark.parametrize("wrap", ["subclass", "parametrized", "hooked", "patched"])
def test_a_base_with_a_forward_of_its_own_runs_it(wrap):
    base = Doubling(12, 10) if wrap == "subclass" else nn.Linear(12, 10)
    if wrap == "parametrized":
        parametrize.register_parametrization(base, "weight", Scaled())
    elif wrap == "hooked":
        base.register_forward_hook(lambda module, args, output: output + 1.0)
    elif wrap == "patched":
        base.forward = lambda x: torch.ones(*x.shape[:-1], 10)
    x = torch.randn(5, 12)
    expected = base(x)
    assert not torch.allclose(expected, F.linear(x, base.weight, base.bias)) or wrap == "parametrized"
    layer = LoRALinear(base, 4)
    nn.init.normal_(layer.lora_B)
    torch.testing.assert_close(layer(x), expected + x @ layer.lora_A.T @ layer.lora_B.T)


def test_further_arguments_go_to_the_base():
    layer, x = LoRALinear(Doubling(12, 10), 4), torch.randn(5, 12)
    torch.testing.assert_close(layer(x, shift=5.0), layer(x) + 5.0)
    torch.testing.assert_close(layer(x, 5.0), layer(x) + 5.0)


def test_weight_is_the_one_the_layer_acts_with():
    layer = make(alpha=6.0)
    product = layer.base_layer.weight.double() + 1.5 * layer.lora_B.double() @ layer.lora_A.double()
    torch.testing.assert_close(layer.weight.double(), product, rtol=1e-6, atol=1e-6)
    layer.weight.sum().backward()
    torch.testing.assert_close(layer.lora_B.grad, 1.5 * layer.lora_A.sum(1).expand(10, 4))


def test_state_dict_round_trip_and_keys():
    layer, other, x = make(), make(), torch.randn(5, 12)
    assert list(layer.state_dict()) == ["lora_A", "lora_B", "base_layer.weight", "base_layer.bias"]
    other.load_state_dict(layer.state_dict())
    assert torch.equal(layer(x), other(x))


def test_deepcopy_and_pickle_share_nothing():
    layer, x = make(dropout=0.3).eval(), torch.randn(5, 12)
    expected = layer(x)
    copied, loaded = copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))
    with torch.no_grad():
        layer.lora_B.zero_()
        layer.base_layer.weight.zero_()
    for other in (copied, loaded):
        assert torch.equal(other(x), expected)
        assert not other.base_layer.weight.requires_grad and other.lora_A.requires_grad


def test_meta_device_then_assign():
    source = make()
    layer = LoRALinear(nn.Linear(12, 10, device="meta"), 4)
    assert layer.lora_A.is_meta and layer(torch.empty(5, 12, device="meta")).shape == (5, 10)
    with pytest.raises(RuntimeError, match="meta device"):
        layer.merge()
    layer.load_state_dict(source.state_dict(), assign=True)
    x = torch.randn(5, 12)
    assert torch.equal(layer(x), source(x))
    assert layer.lora_A.requires_grad and not layer.base_layer.weight.requires_grad


def test_train_mode_follows_the_base():
    assert not LoRALinear(nn.Linear(4, 4).eval(), 2).training


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"r": 0}, ValueError, "LoRALinear: r is 0, expected at least 1"),
        ({"r": -1}, ValueError, "LoRALinear: r is -1"),
        ({"r": 11}, ValueError, "LoRALinear: r is 11, expected at most 10"),
        ({"r": 2.5}, TypeError, "LoRALinear: r is 2.5, expected an int"),
        ({"r": 2, "alpha": float("nan")}, ValueError, "LoRALinear: alpha is nan"),
        ({"r": 2, "alpha": float("inf")}, ValueError, "LoRALinear: alpha is inf"),
        ({"r": 2, "alpha": "16"}, TypeError, "LoRALinear: alpha is '16', expected a number"),
        ({"r": 2, "dropout": -0.1}, ValueError, "LoRALinear: dropout is -0.1, expected a probability"),
        ({"r": 2, "dropout": 1.5}, ValueError, "LoRALinear: dropout is 1.5"),
        ({"r": 2, "dtype": torch.int8}, TypeError, "LoRALinear: dtype is torch.int8, expected one of torch.float32"),
        ({"r": 2, "dtype": torch.float8_e5m2}, TypeError, "LoRALinear: dtype is torch.float8_e5m2"),
        ({"r": 2, "dtype": "float32"}, TypeError, "LoRALinear: dtype is 'float32'"),
    ],
)
def test_constructor_refuses(options, error, message):
    linear = nn.Linear(12, 10)
    with pytest.raises(error, match=message):
        LoRALinear(linear, **options)
    assert linear.weight.requires_grad, "a refused base is left as it was"


def test_only_linear_layers_are_bases():
    with pytest.raises(TypeError, match=r"LoRALinear: base_layer is Embedding, expected torch.nn.Linear"):
        LoRALinear(nn.Embedding(4, 4), 2)
    with pytest.raises(TypeError, match="uninitialised LazyLinear"):
        LoRALinear(nn.LazyLinear(4), 2)


def test_repr_says_the_settings():
    text = repr(make(alpha=8, dropout=0.1))
    assert "in_features=12, out_features=10, r=4, alpha=8, dropout=0.1, rslora=False, merged=False" in text
    assert "(base_layer): Linear(" in text
