"""Sparse24LowRankLinear: what it holds, computes, refuses; pruning a linear layer and repairing it."""

import copy
import io
import itertools
import pickle

import pytest
import torch
from sparse24_cases import random_mask
from torch import nn

import lrkernels
from lrkernels.nn import Sparse24LowRankLinear

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def dense_of(layer):
    return lrkernels.sparse24_decompress(layer.values, layer.bitmask).detach()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rank", (0, 3))
@pytest.mark.parametrize("transposable", (False, True))
def test_forward(rank, transposable, dtype):
    layer = Sparse24LowRankLinear(24, 16, rank, transposable=transposable, dtype=dtype)
    if rank:
        nn.init.normal_(layer.up)
    weight = dense_of(layer).double()
    for mask in (weight != 0, weight.mT != 0)[: 1 + transposable]:
        assert (mask.unflatten(1, (-1, 4)).sum(-1) <= 2).all()
    if rank:
        weight = weight + layer.up.detach().double() @ layer.down.detach().double()
    x = torch.randn(2, 5, 24).to(dtype)
    expected = x.double() @ weight.mT + layer.bias.detach().double()
    for context in (torch.enable_grad, torch.no_grad):
        with context():
            y = layer(x)
        assert y.dtype == dtype
        tolerance = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 2e-2, torch.float16: 3e-3}[dtype]
        torch.testing.assert_close(y.detach().double(), expected, rtol=tolerance, atol=tolerance)


def test_bytes_of_a_state_dict():
    layer = Sparse24LowRankLinear(1024, 512, bias=False, dtype=torch.bfloat16)
    assert sum(t.nbytes for t in layer.state_dict().values()) <= 0.57 * 1024 * 512 * 2
    assert list(layer.state_dict()) == ["values", "bitmask"]


def test_a_change_of_values_is_seen():
    layer = Sparse24LowRankLinear(32, 16, bias=False).requires_grad_(False)
    x = torch.randn(2, 32)
    before = layer(x)
    layer.values.mul_(2)
    torch.testing.assert_close(layer(x), 2 * before)
    layer.values.data = layer.values.data / 2
    torch.testing.assert_close(layer(x), before)
    torch.testing.assert_close(layer.bfloat16()(x.bfloat16()).float(), before, rtol=0.05, atol=0.05)


def test_training_keeps_the_support():
    layer = Sparse24LowRankLinear(32, 16, 4)
    nn.init.normal_(layer.up, std=0.1)
    kept = dense_of(layer) != 0
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.05)
    x, target = torch.randn(64, 32), torch.randn(64, 16)
    losses = []
    for _ in range(30):
        loss = (layer(x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] and all(p.grad is not None for p in layer.parameters())
    assert not dense_of(layer)[~kept].any()


@pytest.mark.parametrize("weighted", (False, True))
def test_error_falls_with_every_rank(weighted):
    linear = nn.Linear(48, 32)
    scales = torch.logspace(-1, 1, 48)
    inputs = torch.randn(400, 48) * scales
    moment = inputs.mT @ inputs / len(inputs)
    errors = []
    for rank in (0, 1, 2, 4, 8, 16, 32):
        layer = Sparse24LowRankLinear.from_linear(linear, rank, input_moment=moment if weighted else None)
        lost = linear.weight - layer.to_linear().weight
        errors.append(((inputs @ lost.mT) if weighted else lost).square().sum().sqrt().item())
    assert all(b < a for a, b in itertools.pairwise(errors)) and errors[-1] < 1e-4 * errors[0]
    plain = Sparse24LowRankLinear.from_linear(linear, 4)
    aware = Sparse24LowRankLinear.from_linear(linear, 4, input_moment=moment)
    loss = [(inputs @ (linear.weight - one.to_linear().weight).mT).norm() for one in (plain, aware)]
    assert loss[1] < 0.8 * loss[0]


def test_from_linear_keeps_bits_device_and_flags():
    linear = nn.Linear(16, 8, dtype=torch.bfloat16).eval()
    linear.weight.requires_grad_(False)
    layer = Sparse24LowRankLinear.from_linear(linear, 2, transposable=True)
    dense = dense_of(layer)
    assert torch.equal(dense[dense != 0], linear.weight[dense != 0])
    assert not layer.training and not layer.values.requires_grad and not layer.down.requires_grad
    assert layer.bias.requires_grad and torch.equal(layer.bias, linear.bias)
    assert layer.to_linear().weight.dtype == torch.bfloat16
    meta = Sparse24LowRankLinear.from_linear(nn.Linear(16, 8, device="meta"), 2)
    assert meta.values.is_meta and meta.down.is_meta and meta.bitmask.is_meta


def test_state_dict_there_and_back():
    layer = Sparse24LowRankLinear(24, 8, 2).requires_grad_(False)
    x = torch.randn(3, 24)
    y = layer(x)
    other = Sparse24LowRankLinear(24, 8, 2).requires_grad_(False)
    assert not torch.allclose(other(x), y)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x), y)
    with io.BytesIO() as file:
        torch.save(layer, file)
        file.seek(0)
        assert torch.equal(torch.load(file, weights_only=False)(x), y)
    assert torch.equal(copy.deepcopy(layer)(x), y)
    assert len(pickle.dumps(layer)) < len(pickle.dumps(layer.state_dict())) + 4000  # without the packing


@pytest.mark.parametrize("bad", ("nibble", "shape", "spare"))
def test_a_malformed_state_dict_changes_nothing(bad):
    layer = Sparse24LowRankLinear(12, 8)
    state = {
        key: value.clone() + 1 if value.is_floating_point() else value.clone()
        for key, value in layer.state_dict().items()
    }
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    if bad == "nibble":
        state["bitmask"][3, 0] = 0b00110111
    elif bad == "spare":
        state["bitmask"][3, 1] |= 0b01000000
    else:
        state["bitmask"] = state["bitmask"][:, :1]
    with pytest.raises(RuntimeError, match="bitmask"):
        layer.load_state_dict(state)
    for key in ("bitmask",) if bad == "shape" else before:
        assert torch.equal(layer.state_dict()[key], before[key]), key


def test_compile_and_inference_mode():
    layer = Sparse24LowRankLinear(32, 16, 2).requires_grad_(False)
    nn.init.normal_(layer.up)
    x = torch.randn(4, 32)
    y = layer(x)
    torch.testing.assert_close(torch.compile(layer, fullgraph=True, backend="aot_eager")(x), y)
    with torch.inference_mode():
        torch.testing.assert_close(layer(x), y)
        torch.testing.assert_close(Sparse24LowRankLinear.from_linear(layer.to_linear())(x).shape, y.shape)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16


@pytest.mark.parametrize(
    "arguments, message",
    (
        ((30, 8), "in_features is 30, expected a multiple of 4"),
        ((32, 8, 9), "rank is 9"),
        ((32, 8, -1), "rank is -1"),
        ((32, 0), "out_features is 0"),
    ),
)
def test_bad_sizes(arguments, message):
    with pytest.raises(ValueError, match=f"Sparse24LowRankLinear: {message}"):
        Sparse24LowRankLinear(*arguments)


def test_more_bad_arguments():
    with pytest.raises(ValueError, match="out_features is 6, expected a multiple of 4 because"):
        Sparse24LowRankLinear(8, 6, transposable=True)
    with pytest.raises(TypeError, match=r"Sparse24LowRankLinear.from_linear: linear"):
        Sparse24LowRankLinear.from_linear(nn.Conv1d(4, 4, 1))
    broken = nn.Linear(8, 8)
    broken.weight.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match="linear.weight holds NaN or Inf"):
        Sparse24LowRankLinear.from_linear(broken)
    with pytest.raises(ValueError, match="input_moment has shape"):
        Sparse24LowRankLinear.from_linear(nn.Linear(8, 8), input_moment=torch.eye(4))


def test_random_masks_of_the_tests_are_two_of_four():
    for transposable in (False, True):
        mask = random_mask(8, 12, transposable)
        assert (mask.unflatten(1, (-1, 4)).sum(-1) == 2).all()
