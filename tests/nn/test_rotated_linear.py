"""Layers with rotated inputs: equations, the two sides that can be rotated, merging, state, dtypes, errors."""

import copy
import pickle
import warnings
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from rotation_cases import CASES
from torch import nn
from torch._dynamo.testing import CompileCounter

from lrkernels.nn import (
    BOFTLinear,
    GivensLinear,
    HouseholderLinear,
    OFTLinear,
    RotatedLinear,
    replace_linear,
)
from lrkernels.nn.rotations.rotated_linear import rotates_weight

pytestmark = pytest.mark.filterwarnings("ignore:OFT. the Neumann series")
EVERY = pytest.mark.parametrize("name", CASES)


def bits(tensor):
    return tensor.detach().clone().view(torch.uint8)


def trained(layer):
    return {n: p for n, p in layer.named_parameters() if p.requires_grad}


@EVERY
@pytest.mark.parametrize("rows", [3, 200])  # x is rotated, and the weight is (without gradients)
def test_output_merged_weight_and_inverse_are_those_of_the_dense_matrix(name, rows):
    case = CASES[name]
    layer, x = case.layer(), torch.randn(rows, 12, dtype=torch.float64)
    r, weight = case.matrix(layer), case.weight(layer)
    assert r.sub(torch.eye(12)).abs().max() > 0.1, "a rotation to be seen"
    torch.testing.assert_close(layer(x), x @ weight.T + layer.bias)
    with torch.no_grad():
        assert rotates_weight(layer.rotation, rows, 10) == (rows == 200)
        torch.testing.assert_close(layer(x), x @ weight.T + layer.bias)
    torch.testing.assert_close(layer.weight, weight)
    torch.testing.assert_close(layer.rotate(x), x @ r)
    torch.testing.assert_close(layer.rotation.transposed(x), x @ r.T)
    torch.testing.assert_close(layer.inverse(layer.rotate(x)), x)
    torch.testing.assert_close(layer.rotation.matrix(), r)


@EVERY
def test_orthogonality_error_is_that_of_the_dense_matrix(name):
    case = CASES[name]
    layer = case.layer()
    r = case.matrix(layer).detach()
    exact = torch.linalg.eigvalsh(r.T @ r - torch.eye(12)).abs().max()
    error = layer.orthogonality_error()
    assert error.dtype == torch.float64 and not error.requires_grad
    torch.testing.assert_close(error, exact, rtol=1e-6, atol=1e-13)
    assert (error < 1e-12) == case.orthogonal
    if case.orthogonal:
        assert case.layer(dtype=torch.float32).orthogonality_error() < 5e-6


@EVERY
@pytest.mark.parametrize("rows", [3, 64])
def test_gradients_whichever_side_is_rotated(name, rows, monkeypatch):
    case = CASES[name]
    layer, x = case.layer(), torch.randn(rows, 12, dtype=torch.float64, requires_grad=True)
    cotangent = torch.randn(rows, 10, dtype=torch.float64)
    inputs = [x, *trained(layer).values()]
    expected = torch.autograd.grad(x @ case.weight(layer).T + layer.bias, inputs, cotangent)
    for side in (True, False):
        monkeypatch.setattr("lrkernels.nn.rotations.rotated_linear.rotates_weight", lambda *_, side=side: side)
        gradients = torch.autograd.grad(layer(x), inputs, cotangent)
        for gradient, exact in zip(gradients, expected, strict=True):
            torch.testing.assert_close(gradient, exact)


@EVERY
def test_gradcheck(name):
    layer = CASES[name].layer(in_features=12, out_features=3)
    names = list(trained(layer))

    def forward(x, *values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    x = torch.randn(2, 12, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(forward, (x, *trained(layer).values()), fast_mode=True)


def test_the_cheaper_side_is_rotated():
    rotation = OFTLinear(nn.Linear(64, 8), block_size=16).rotation
    with torch.no_grad():
        assert rotates_weight(rotation, 9, 8) and not rotates_weight(rotation, 8, 8)
    # In training a weight that is rotated costs rows·out more: 100·48 against 2·3·16·(100 − 48), 4800 against 4992.
    assert rotates_weight(rotation, 100, 48)
    assert not rotates_weight(rotation, 100, 49)
    rotation.requires_grad_(False)
    assert rotates_weight(rotation, 100, 64)


@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtypes(name, dtype):
    case = CASES[name]
    layer, x = case.layer(dtype=dtype), torch.randn(200, 12, dtype=dtype)
    assert {p.dtype for p in trained(layer).values()} == {torch.float32}
    weight = case.weight(layer)
    exact = x.double() @ weight.T + layer.bias.double()
    for rows in (3, 200):
        with torch.no_grad():
            y = layer(x[:rows])
        assert y.dtype == dtype
        assert (y.double() - exact[:rows]).abs().max() <= 8 * torch.finfo(dtype).eps * exact.abs().max()
    layer.merge()
    error = (layer.weight.double() - weight).abs().max()
    roundings = 4 if dtype == torch.float32 else 1  # of half weights the arithmetic is exact next to the one rounding
    assert layer.weight.dtype == dtype and error <= roundings * torch.finfo(dtype).eps * weight.abs().max()


@EVERY
@pytest.mark.parametrize(
    ("dtype", "own"),
    [
        (torch.float32, torch.bfloat16),
        (torch.float64, torch.float32),
        (torch.bfloat16, torch.float64),
        (torch.bfloat16, torch.bfloat16),
    ],
    ids=str,
)
def test_parameters_of_any_dtype_serve_a_base_of_any_dtype(name, dtype, own):
    case = CASES[name]
    layer, x = case.layer(dtype=dtype, placement=own), torch.randn(7, 12, dtype=dtype)
    exact = x.double() @ case.weight(layer).T + layer.bias.double()
    y = layer(x)
    y.sum().backward()
    assert y.dtype == dtype and {(p.dtype, p.grad.dtype) for p in trained(layer).values()} == {(own, own)}
    tolerance = 8 * max(torch.finfo(d).eps for d in (dtype, torch.float32 if own == torch.bfloat16 else own))
    assert (y.double() - exact).abs().max() <= tolerance * exact.abs().max()
    layer.merge()
    assert layer.weight.dtype == dtype


@EVERY
@pytest.mark.parametrize("rows", [3, 200])
def test_autocast(name, rows):
    case = CASES[name]
    layer, x = case.layer(dtype=torch.float32), torch.randn(rows, 12)
    exact = x.double() @ case.weight(layer).T + layer.bias
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
        y.sum().backward()
        with torch.no_grad():
            inferred = layer(x)
    assert y.dtype == inferred.dtype == torch.bfloat16
    assert all(p.grad.dtype == torch.float32 and p.grad.any() for p in trained(layer).values())
    for found in (y, inferred):
        assert (found - exact).abs().max() <= 0.03 * exact.abs().max()


@EVERY
def test_any_leading_dimensions(name):
    layer, x = CASES[name].layer(), torch.randn(2, 3, 12, dtype=torch.float64)
    expected = layer(x.reshape(6, 12))
    torch.testing.assert_close(layer(x), expected.reshape(2, 3, 10))
    torch.testing.assert_close(layer(x[0, 0]), expected[0])
    torch.testing.assert_close(layer(x.mT.contiguous().mT), expected.reshape(2, 3, 10))
    assert layer(x[:0]).shape == (0, 3, 10)


@EVERY
def test_starts_as_its_base_and_learns(name):
    case = CASES[name]
    teacher, x = case.layer(dtype=torch.float32), torch.randn(32, 12)
    linear = teacher.base_layer
    layer = case.layer_class(linear, **case.options)
    torch.testing.assert_close(layer(x), F.linear(x, linear.weight, linear.bias))
    target = teacher(x).detach()
    optimizer = torch.optim.Adam(trained(layer).values(), lr=0.05)
    losses = []
    for _ in range(60):
        loss = (layer(x) - target).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    layer.reset_parameters()
    torch.testing.assert_close(layer(x), F.linear(x, linear.weight, linear.bias))


@EVERY
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_merge_and_unmerge(name, dtype):
    layer, x = CASES[name].layer(dtype=dtype), torch.randn(5, 12, dtype=dtype)
    parameter, before = layer.base_layer.weight, {k: bits(v) for k, v in layer.state_dict().items()}
    y = layer(x)
    layer.merge()
    assert layer.merged and torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))
    assert (layer(x) - y).abs().max() <= 4 * torch.finfo(dtype).eps * y.abs().max()
    assert all(torch.equal(bits(v), before[k]) for k, v in layer.state_dict().items())
    layer.unmerge()
    assert layer.base_layer.weight is parameter and torch.equal(layer(x), y)
    assert all(torch.equal(bits(v), before[k]) for k, v in layer.state_dict().items())


@EVERY
def test_merge_without_keeping_makes_the_rotation_the_identity(name):
    layer, x = CASES[name].layer(), torch.randn(5, 12, dtype=torch.float64)
    y = layer(x)
    layer.merge(keep=False)
    torch.testing.assert_close(layer(x), y)
    torch.testing.assert_close(layer.rotate(x), x)
    assert layer.scale is None or (layer.scale == 1).all()


class Doubling(nn.Linear):
    def forward(self, x, shift=0.0):
        return 2.0 * super().forward(x) + shift


@EVERY
def test_a_base_with_a_forward_of_its_own_runs_once_on_the_rotated_input(name):
    case = CASES[name]
    layer = case.layer(base=Doubling)
    calls, x = [], torch.randn(200, 12, dtype=torch.float64)
    layer.base_layer.register_forward_hook(lambda module, args, output: calls.append(args[0]))
    y = layer(x, shift=0.5)
    assert len(calls) == 1
    rotated = x @ case.matrix(layer)
    torch.testing.assert_close(calls[0], rotated)
    inner = 2.0 * F.linear(rotated, layer.base_layer.weight, layer.bias) + 0.5
    expected = inner if layer.scale is None else layer.scale * (inner - layer.bias) + layer.bias
    torch.testing.assert_close(y, expected)


@EVERY
def test_state_dict_copies_and_pickle(name):
    case = CASES[name]
    layer, other, x = case.layer(), case.layer(), torch.randn(5, 12, dtype=torch.float64)
    y = layer(x)
    other.load_state_dict(layer.state_dict())
    for copied in (other, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(copied(x), y)
    own = [k for k in layer.state_dict() if not k.startswith("base_layer.")]
    assert own == [n for n, _ in layer.named_parameters() if not n.startswith("base_layer.")]


@pytest.mark.parametrize(("name", "rows"), [*((name, 3) for name in CASES), ("OFT", 500)])
def test_compiles_whole(name, rows):
    layer, x = CASES[name].layer(), torch.randn(rows, 12, dtype=torch.float64)
    torch.compiler.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    gradients = []
    for run in (layer, compiled):
        y = run(x)
        gradients.append((y, *torch.autograd.grad(y.square().sum(), trained(layer).values())))
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize("name", ["Givens", "OFT"])
def test_dynamic_shapes_compile_once_a_side(name):
    layer, counter = CASES[name].layer(dtype=torch.float32), CompileCounter()
    torch.compiler.reset()
    compiled = torch.compile(layer, fullgraph=True, backend=counter, dynamic=True)
    for rows in (5, 6, 7, 9, 40, 60, 200):
        x = torch.randn(rows, 12)
        torch.testing.assert_close(compiled(x), layer(x))
    assert counter.frame_count == 2


@EVERY
def test_replace_linear_takes_each_and_trains_the_rotation_alone(name):
    case = CASES[name]
    model, x = nn.Sequential(nn.Linear(12, 12), nn.GELU(), nn.Linear(12, 12), nn.LayerNorm(12)), torch.randn(5, 12)
    expected = model(x)
    report = replace_linear(model, partial(case.layer_class, **case.options), target_modules="all-linear")
    assert len(report) == 2 and report.frozen
    torch.testing.assert_close(model(x), expected)
    names = {n for n, p in model.named_parameters() if p.requires_grad}
    parts = ("rotation.", "scale")
    assert names == {n for n, _ in model.named_parameters() if n[2:].startswith(parts)} and len(names) >= 2
    assert all(p.device == model[3].weight.device for p in model.parameters())


@EVERY
def test_made_on_the_meta_device(name):
    case = CASES[name]
    layer = case.layer_class(nn.Linear(12, 10, device="meta"), **case.options)
    assert all(p.is_meta for p in layer.parameters()) and layer(torch.empty(5, 12, device="meta")).shape == (5, 10)
    source, x = case.layer(dtype=torch.float32), torch.randn(5, 12)
    layer.load_state_dict(source.state_dict(), assign=True)
    assert torch.equal(layer(x), source(x))


@pytest.mark.parametrize("name", ["Givens", "OFT", "OFT, shared", "HRA", "GOFT"])
def test_what_a_training_step_keeps(name):
    """One activation for the rotation's gradient, nothing a round, and nothing of in_features² beside the weight."""
    layer, x = CASES[name].layer(in_features=24, out_features=96, dtype=torch.float32), torch.randn(100, 24)
    saved = {}
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (saved.setdefault(t.data_ptr(), t), t)[1], lambda t: t):
        layer(x.requires_grad_())
    large = [t for t in saved.values() if t.numel() >= 24 * 24]
    shapes = sorted(tuple(sorted(t.shape)) for t in large)
    assert shapes == [(24, 96), (24, 100)]
    assert any(t.data_ptr() == layer.base_layer.weight.data_ptr() for t in large)


def test_a_rotation_of_ones_own():
    class Flip(nn.Module):
        def __init__(self, features, device=None, dtype=None):
            super().__init__()
            self.sign = nn.Parameter(-torch.ones(features, device=device, dtype=dtype))

        work = 1.0

        def forward(self, x):
            return x * self.sign

        transposed = forward

    layer, x = RotatedLinear(nn.Linear(12, 10), Flip), torch.randn(5, 12)
    torch.testing.assert_close(layer(x), F.linear(-x, layer.base_layer.weight, layer.bias))
    layer.merge()
    torch.testing.assert_close(layer(x), F.linear(-x, layer.base_layer.weight, layer.bias))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda base: OFTLinear(base, 5), ValueError, "OFT: block_size is 5, expected a divisor of in_features = 12"),
        (lambda base: OFTLinear(base, 1), ValueError, "OFT: block_size is 1, expected at least 2"),
        (lambda base: OFTLinear(base, 4.0), TypeError, "OFT: block_size is 4.0, expected an int"),
        (lambda base: OFTLinear(base, 4, method="series"), ValueError, "OFT: method is 'series', expected 'exact'"),
        (lambda base: OFTLinear(base, 4, terms=0), ValueError, "OFT: terms is 0, expected at least 1"),
        (lambda base: OFTLinear(base, 4, coft_eps=0.0), ValueError, "OFT: coft_eps is 0.0, expected a positive number"),
        (lambda base: BOFTLinear(base, 3, 2), ValueError, "BOFT: block_size is 3, expected an even number"),
        (lambda base: BOFTLinear(base, 4, 2), ValueError, "BOFT: factors is 2, expected in_features = 12 to be a"),
        (lambda base: BOFTLinear(base, 4, 0), ValueError, "BOFT: factors is 0, expected at least 1"),
        (lambda base: HouseholderLinear(base, 3), ValueError, "HRA: r is 3, expected an even number"),
        (lambda base: HouseholderLinear(base, 0), ValueError, "HRA: r is 0, expected at least 1"),
        (lambda base: GivensLinear(base, [1, 0]), ValueError, "GivensRotation: a stride is 0, expected at least 1"),
        (lambda base: GivensLinear(base, dtype=torch.int8), TypeError, "GivensLinear: dtype is torch.int8"),
        (
            lambda base: GivensLinear(nn.Conv1d(4, 4, 1)),
            TypeError,
            "GivensLinear: base_layer is Conv1d",
        ),
    ],
)
def test_refusals_leave_the_base_as_it_was(make, error, message):
    linear = nn.Linear(12, 10)
    with pytest.raises(error, match=message):
        make(linear)
    assert linear.weight.requires_grad


def test_sizes_that_are_no_powers_of_two():
    x = torch.randn(3, 13, dtype=torch.float64)
    for name in ("Givens", "GOFT", "qGOFT", "HRA"):
        layer = CASES[name].layer(13, 7)
        torch.testing.assert_close(layer(x), x @ CASES[name].weight(layer).T + layer.bias)
    one = CASES["GOFT"].layer(1, 7)
    torch.testing.assert_close(one(x[:, :1]), F.linear(x[:, :1], one.base_layer.weight, one.bias))


@pytest.mark.parametrize("name", CASES)
def test_x_of_another_width_is_refused_by_name(name):
    layer = CASES[name].layer()
    for x in (torch.randn(3, 11, dtype=torch.float64), torch.randn((), dtype=torch.float64)):
        with pytest.raises(ValueError, match=r"Rotation: x has shape \(.*\), expected \(\.\.\., 12\)"):
            layer(x)


def test_nothing_warns_where_nothing_is_wrong():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CASES["OFT"].layer().merge()
