"""Orthogonal weights: maps and their inverses, the parametrization, OrthogonalLinear, and SandwichLinear's bound."""

import copy
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize

from lrkernels.nn import OrthogonalLinear, SandwichLinear, orthogonal
from lrkernels.nn.orthogonal_maps import MAPS, orthonormalized, signed_lu

EVERY_MAP = pytest.mark.parametrize("map", MAPS)
SHAPES = [(1, 1), (5, 5), (7, 4), (4, 7), (40, 33), (64, 64)]


def excess(q):
    q = q.mT if q.shape[0] < q.shape[1] else q
    return torch.linalg.matrix_norm(q.mT @ q - torch.eye(q.shape[1], dtype=q.dtype), 2)


def uniform(rows, cols, dtype=torch.float64):
    return orthonormalized(torch.randn(rows, cols, dtype=dtype))


# --- Maps ---


@pytest.mark.parametrize("shape", SHAPES)
def test_orthonormalized_is_the_factor_with_a_positive_diagonal(shape):
    a = torch.randn(shape, dtype=torch.float64)
    q = orthonormalized(a)
    assert q.shape == shape and excess(q) < 1e-13
    r = q.mT @ a if shape[0] >= shape[1] else (a @ q.mT).mT
    torch.testing.assert_close(r.tril(-1), torch.zeros_like(r))
    assert (r.diagonal() > 0).all()
    torch.testing.assert_close(orthonormalized(q), q)


@pytest.mark.parametrize("shape", [s for s in SHAPES if s[0] >= s[1]])
@pytest.mark.parametrize("panel", [1, 3, 32])
@pytest.mark.parametrize("start", ["uniform", "identity", "minus identity", "permutation"])
def test_signed_lu(shape, panel, start):
    q = uniform(*shape)
    if start != "uniform":
        q = torch.eye(*shape, dtype=torch.float64) * (-1 if start == "minus identity" else 1)
        q = q.roll(1, dims=0) if start == "permutation" else q
    lower, signs = signed_lu(q, panel)
    cols = shape[1]
    summed = q * signs + torch.eye(*shape, dtype=torch.float64)
    upper = torch.linalg.solve_triangular(lower[:cols], summed[:cols], upper=False, unitriangular=True)
    torch.testing.assert_close(upper.tril(-1), torch.zeros_like(upper))
    torch.testing.assert_close(lower @ upper, summed)
    assert (upper.diagonal() >= 1.0 - 1e-12).all() and (signs.abs() == 1).all()
    assert torch.equal(lower[:cols].triu(), torch.eye(cols, dtype=torch.float64))


@EVERY_MAP
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("start", ["uniform", "identity", "minus identity"])
def test_right_inverse_is_an_inverse_for_any_orthonormal_matrix(map, shape, start):
    q = uniform(*shape)
    if start != "uniform":
        q = torch.eye(*shape, dtype=torch.float64) * (-1 if start == "minus identity" else 1)
    chart = MAPS[map](*shape)
    parameter = chart.right_inverse(q)
    assert tuple(parameter.shape) == chart.parameter_shape and parameter.is_contiguous()
    torch.testing.assert_close(chart(parameter), q)
    if map == "householder":
        assert (parameter.norm(dim=1) >= 1).all(), "a vector of zeros would never train"


@EVERY_MAP
@pytest.mark.parametrize("shape", SHAPES)
def test_any_parameter_gives_an_orthonormal_matrix_with_the_right_gradient(map, shape):
    chart = MAPS[map](*shape)
    chart.right_inverse(uniform(*shape))
    parameter = torch.randn(chart.parameter_shape, dtype=torch.float64, requires_grad=True)
    q = chart(parameter)
    assert tuple(q.shape) == shape and excess(q) < 1e-12
    if max(shape) <= 7:
        assert torch.autograd.gradcheck(chart, parameter)
    assert excess(chart(parameter.float())) < 5e-6


@EVERY_MAP
@pytest.mark.parametrize("shape", [(5, 5), (7, 4), (4, 7)])
def test_the_tangent_space_is_reached_in_full_but_by_givens(map, shape):
    """The rank of the map's derivative is the dimension of the manifold: rows·cols − cols·(cols + 1) / 2."""
    chart = MAPS[map](*shape)
    parameter = chart.right_inverse(uniform(*shape))
    jacobian = torch.autograd.functional.jacobian(chart, parameter).reshape(shape[0] * shape[1], -1)
    rows, cols = max(shape), min(shape)
    dimension = rows * cols - cols * (cols + 1) // 2
    rank = int(torch.linalg.matrix_rank(jacobian, rtol=1e-8))
    if map == "givens":
        assert 0 < rank <= dimension
    else:
        assert rank == dimension


# --- The parametrization ---


@EVERY_MAP
@pytest.mark.parametrize("shape", [(6, 6), (9, 4), (4, 9)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_parametrized_layer_stays_orthogonal_in_training(map, shape, dtype):
    linear, x = nn.Linear(shape[1], shape[0], dtype=dtype), torch.randn(16, shape[1], dtype=dtype)
    start = orthonormalized(linear.weight.detach().double())
    assert orthogonal(linear, map=map) is linear
    rounding = 8 * torch.finfo(dtype).eps
    assert (linear.weight - start).abs().max() < rounding
    parameters = list(linear.parameters())
    assert {n for n, _ in linear.named_parameters()} == {"bias", "parametrizations.weight.original"}
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    for _ in range(5):
        F.linear(x, linear.weight, linear.bias).float().square().sum().backward()
        optimizer.step()
        assert excess(linear.weight.double()) < 4 * rounding
    assert linear.weight.dtype == dtype
    if map != "givens" or dtype != torch.bfloat16:
        assert (linear.weight - start).abs().max() > 0.01, "it trained"


@EVERY_MAP
def test_assigning_removing_copying_and_loading(map):
    linear = orthogonal(nn.Linear(6, 6, dtype=torch.float64), map=map)
    q = uniform(6, 6)
    linear.weight = q
    torch.testing.assert_close(linear.weight, q)
    copied = copy.deepcopy(linear)
    fresh = orthogonal(nn.Linear(6, 6, dtype=torch.float64), map=map)
    fresh.load_state_dict(linear.state_dict())
    for other in (copied, fresh):
        torch.testing.assert_close(other.weight, q)
    # After this torch leaves a deepcopy, which shares the parametrized class, without the attribute.
    parametrize.remove_parametrizations(linear, "weight")
    assert type(linear) is nn.Linear
    torch.testing.assert_close(linear.weight.detach(), q)
    with pytest.raises(ValueError, match=r"Map: the matrix is not orthonormal, \|\|Q'Q - I\|\| is 7\.3"):
        fresh.weight = 2 * q


@EVERY_MAP
def test_compiles_whole(map):
    linear, x = orthogonal(nn.Linear(6, 6), map=map), torch.randn(5, 6)
    torch.compiler.reset()
    compiled = torch.compile(linear, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), linear(x))


def test_the_parametrization_refuses():
    with pytest.raises(ValueError, match="orthogonal: map is 'qr', expected one of cayley, householder, givens"):
        orthogonal(nn.Linear(4, 4), map="qr")
    with pytest.raises(TypeError, match=r"orthogonal: Linear.weights is no floating-point tensor"):
        orthogonal(nn.Linear(4, 4), "weights")
    for bad in (math.nan, math.inf):
        linear = nn.Linear(3, 4)
        with torch.no_grad():
            linear.weight[1, 2] = bad
        with pytest.raises(ValueError, match="orthogonal: weight has NaN or Inf"):
            orthogonal(linear)
        assert not hasattr(linear, "parametrizations")
    with pytest.raises(ValueError, match=r"orthogonal: weight has shape \(4, 4, 3, 3\), expected a matrix"):
        orthogonal(nn.Conv2d(4, 4, 3))
    chart = MAPS["cayley"](4, 3)
    with pytest.raises(ValueError, match=r"CayleyMap: the matrix is \(3, 4\), expected \(4, 3\)"):
        chart.right_inverse(uniform(3, 4))
    with pytest.raises(ValueError, match="CayleyMap: the matrix is not orthonormal"):
        chart.right_inverse(torch.full((4, 3), math.nan))


# --- OrthogonalLinear ---


@EVERY_MAP
@pytest.mark.parametrize(("in_features", "out_features"), [(6, 6), (4, 9), (9, 4)])
def test_orthogonal_linear(map, in_features, out_features):
    layer = OrthogonalLinear(in_features, out_features, map=map, dtype=torch.float64)
    x = torch.randn(2, 5, in_features, dtype=torch.float64)
    y = layer(x)
    torch.testing.assert_close(y, F.linear(x, layer.weight, layer.bias))
    assert layer.orthogonality_error() < 1e-13 and excess(layer.weight) < 1e-13
    if out_features >= in_features:
        torch.testing.assert_close((y - layer.bias).norm(dim=-1), x.norm(dim=-1))
        torch.testing.assert_close(layer.inverse(y), x)
    torch.testing.assert_close(layer(layer.inverse(y)), y)
    linear = layer.to_linear()
    assert type(linear) is nn.Linear and linear.weight.is_contiguous() and linear.weight.requires_grad
    assert torch.equal(linear.weight, layer.weight) and torch.equal(linear.bias, layer.bias)
    q = uniform(out_features, in_features)
    layer.set_weight(q)
    torch.testing.assert_close(layer.weight, q)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(x), layer(x))
    assert torch.autograd.gradcheck(
        lambda p: torch.func.functional_call(layer, {"parameter": p}, (x,)), layer.parameter
    )


@EVERY_MAP
def test_orthogonal_linear_dtypes_autocast_meta_and_compile(map):
    x = torch.randn(5, 6)
    layer = OrthogonalLinear(6, 6, map=map)
    assert layer.orthogonality_error() < 2e-6
    with torch.autocast("cpu", torch.bfloat16):
        y, weight = layer(x), layer.weight
    assert weight.dtype == torch.float32 and excess(weight) < 2e-6
    assert y.dtype == torch.bfloat16 and (y - layer(x)).abs().max() < 0.05
    half = OrthogonalLinear(6, 6, map=map, dtype=torch.bfloat16)
    assert half(x.bfloat16()).dtype == torch.bfloat16 and half.orthogonality_error() < 0.05
    torch.compiler.reset()
    torch.testing.assert_close(torch.compile(layer, fullgraph=True, backend="aot_eager")(x), layer(x))
    meta = OrthogonalLinear(6, 6, map=map, device="meta")
    meta.load_state_dict(layer.state_dict(), assign=True)
    assert torch.equal(meta(x), layer(x))
    empty = OrthogonalLinear(6, 6, map=map, device="meta").to_empty(device="cpu")
    empty.reset_parameters()
    assert empty.orthogonality_error() < 2e-6


def test_a_deep_orthogonal_stack_is_an_isometry_and_a_gaussian_one_is_not():
    """Dynamical isometry (Saxe et al.): every singular value of fifty layers' product is 1."""
    with torch.no_grad():
        product, gaussian = torch.eye(24, dtype=torch.float64), torch.eye(24, dtype=torch.float64)
        for _ in range(50):
            product = OrthogonalLinear(24, 24, bias=False, dtype=torch.float64).weight @ product
            gaussian = torch.randn(24, 24, dtype=torch.float64) / 24**0.5 @ gaussian
    torch.testing.assert_close(torch.linalg.svdvals(product), torch.ones(24, dtype=torch.float64))
    values = torch.linalg.svdvals(gaussian)
    assert values[0] / values[-1] > 1e10


# --- SandwichLinear ---


def sandwich(in_features=6, out_features=9, dtype=torch.float64, **options):
    layer = SandwichLinear(in_features, out_features, dtype=dtype, **options)
    with torch.no_grad():
        layer.alpha.mul_(2.0)
        if layer.psi is not None:
            nn.init.normal_(layer.psi)
    return layer


def plain_sandwich(layer, x):
    """The layer from its definition, with a general inverse."""
    w = (layer.alpha * layer.weight / layer.weight.norm()).T
    out = layer.out_features
    u, v = w[:out], w[out:]
    identity = torch.eye(out, dtype=w.dtype)
    a = u - u.T + v.T @ v
    inverse = torch.linalg.inv(identity + a)
    q_a, q_b = (inverse @ (identity - a)).T, (-2 * v @ inverse).T
    psi = torch.diag(layer.psi.exp())
    hidden = math.sqrt(2) * layer.scale * x @ q_b.T @ torch.linalg.inv(psi) + layer.bias
    return math.sqrt(2) * torch.relu(hidden) @ psi @ q_a


@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (1, 4), (5, 5)])
def test_sandwich_is_its_equation(shape):
    layer, x = sandwich(*shape, scale=1.5), torch.randn(2, 5, shape[0], dtype=torch.float64)
    torch.testing.assert_close(layer(x), plain_sandwich(layer, x))
    cotangent = torch.randn(2, 5, shape[1], dtype=torch.float64)
    parameters = list(layer.parameters())
    torch.testing.assert_close(
        torch.autograd.grad(layer(x), parameters, cotangent),
        torch.autograd.grad(plain_sandwich(layer, x), parameters, cotangent),
    )
    assert layer.orthogonality_error() < 1e-13


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_the_jacobian_never_exceeds_the_scale_and_comes_near_it(scale):
    layers = [sandwich(6, 9, scale=scale), sandwich(9, 9), sandwich(9, 4, activation=None)]
    model = nn.Sequential(*layers)
    points = 3.0 * torch.randn(200, 6, dtype=torch.float64)
    jacobians = torch.func.vmap(torch.func.jacrev(model))(points)
    norms = torch.linalg.matrix_norm(jacobians, 2)
    assert norms.max() <= scale * (1 + 1e-12)
    one = torch.linalg.matrix_norm(torch.func.vmap(torch.func.jacrev(layers[0]))(points), 2)
    assert 0.5 * scale < one.max() <= scale * (1 + 1e-12)


def test_a_sandwich_without_activation_is_affine():
    layer, x = sandwich(activation=None), torch.randn(5, 6, dtype=torch.float64)
    q = layer.directions()
    torch.testing.assert_close(layer(x), 2 * x @ q[:, 9:].T @ q[:, :9] + layer.bias)
    assert layer.psi is None and set(layer.state_dict()) == {"weight", "alpha", "bias"}


def test_sandwich_gradcheck_dtypes_autocast_compile_and_state():
    layer, x = sandwich(activation=torch.tanh), torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    names, values = zip(*layer.named_parameters(), strict=True)

    def forward(x, *values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(forward, (x, *values), fast_mode=True)
    single = sandwich(dtype=torch.float32)
    exact = copy.deepcopy(single).double()(x)
    for dtype, bound in ((torch.float32, 1e-5), (torch.bfloat16, 0.05), (torch.float16, 0.01)):
        y = copy.deepcopy(single).to(dtype)(x.to(dtype))
        assert y.dtype == dtype and (y - exact).abs().max() < bound * exact.abs().max()
    with torch.autocast("cpu", torch.bfloat16):
        y = single(x.float())
    assert y.dtype == torch.bfloat16 and (y - exact).abs().max() < 0.05 * exact.abs().max()
    torch.compiler.reset()
    torch.testing.assert_close(torch.compile(single, fullgraph=True, backend="aot_eager")(x.float()), single(x.float()))
    fresh = SandwichLinear(6, 9)
    fresh.load_state_dict(single.state_dict())
    assert torch.equal(fresh(x.float()), single(x.float()))


def test_sandwich_starts_from_the_cayley_map_of_its_weight_and_trains():
    layer = SandwichLinear(6, 9)
    torch.testing.assert_close(layer.alpha[0], layer.weight.norm())
    model = nn.Sequential(layer, SandwichLinear(9, 3, activation=None))
    x = torch.randn(64, 6)
    target = 0.5 * x[:, :3]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    losses = []
    for _ in range(80):
        loss = (model(x) - target).square().mean()
        loss.backward()
        assert all(p.grad is not None for p in model.parameters())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SandwichLinear(0, 4), "SandwichLinear: in_features is 0"),
        (lambda: SandwichLinear(4, 4, scale=0.0), "SandwichLinear: scale is 0.0, expected a positive number"),
        (lambda: OrthogonalLinear(4, 0), "OrthogonalLinear: out_features is 0"),
        (lambda: OrthogonalLinear(4, 4, map="x"), "OrthogonalLinear: map is 'x', expected one of cayley"),
    ],
)
def test_constructors_refuse(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_an_activation_is_called():
    with pytest.raises(TypeError, match="SandwichLinear: activation is 'relu', expected a function of a tensor"):
        SandwichLinear(3, 3, activation="relu")


def test_a_sandwich_of_zeros_is_finite():
    layer = SandwichLinear(6, 5)
    torch.nn.init.zeros_(layer.weight)
    layer(torch.randn(3, 6)).sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())
