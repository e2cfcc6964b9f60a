"""LowRankLinear.from_linear where inputs or outputs count differently: each promise against NumPy in float64."""

import numpy as np
import pytest
import torch
from torch import nn

from lrkernels.nn import LowRankLinear
from lrkernels.nn.weighted_svd import balanced

OUT, IN, RANK = 20, 16, 5


def moment(size, seed, rank=None):
    """A second moment whose features are correlated and differ in scale."""
    generator = np.random.default_rng(seed)
    root = generator.standard_normal((size, size if rank is None else rank))
    return torch.from_numpy((root @ root.T) * np.outer(*2 * (np.logspace(0, 1, size),)))


def linear(bias=True):
    return nn.Linear(IN, OUT, bias, dtype=torch.float64)


def root(matrix):
    """A square root by NumPy's eigenvectors."""
    values, vectors = np.linalg.eigh(matrix.numpy())
    return vectors * np.sqrt(np.clip(values, 0, None))


def tail(matrix, rank=RANK):
    return np.sqrt((np.linalg.svd(matrix, compute_uv=False)[rank:] ** 2).sum())


def product(layer):
    return (layer.up @ layer.down).detach().numpy()


@pytest.mark.parametrize("sides", ["input", "output", "both"])
def test_the_weighted_error_is_the_tail_of_the_weighted_spectrum(sides):
    layer, a, b = linear(), moment(IN, 0), moment(OUT, 1)
    weight = layer.weight.detach().numpy()
    moments = {"input": {"input_moment": a}, "output": {"output_moment": b}}
    moments["both"] = moments["input"] | moments["output"]
    right = np.eye(IN) if sides == "output" else root(a)
    left = np.eye(OUT) if sides == "input" else root(b).T
    weighted = LowRankLinear.from_linear(layer, RANK, **moments[sides])
    plain = LowRankLinear.from_linear(layer, RANK)
    errors = [np.linalg.norm(left @ (weight - product(x)) @ right) for x in (weighted, plain)]
    np.testing.assert_allclose(errors[0], tail(left @ weight @ right), rtol=1e-9)
    assert errors[0] < 0.95 * errors[1], "the plain truncation is worse by this measure"
    torch.testing.assert_close(weighted.up.T @ weighted.up, weighted.down @ weighted.down.T)


def test_a_vector_is_the_diagonal_of_a_moment():
    layer, d, e = linear(), torch.rand(IN).double() + 0.1, torch.rand(OUT).double() + 0.1
    for vectors, matrices in (
        ({"input_moment": d}, {"input_moment": d.diag()}),
        ({"output_moment": e}, {"output_moment": e.diag()}),
        ({"input_moment": d, "output_moment": e}, {"input_moment": d.diag(), "output_moment": e.diag()}),
    ):
        a, b = (LowRankLinear.from_linear(layer, RANK, **moments) for moments in (vectors, matrices))
        np.testing.assert_allclose(product(a), product(b), atol=1e-12)
    scale = d.sqrt().numpy()
    weight = layer.weight.detach().numpy()
    found = LowRankLinear.from_linear(layer, RANK, input_moment=d)
    np.testing.assert_allclose(np.linalg.norm((weight - product(found)) * scale), tail(weight * scale), rtol=1e-9)


def test_it_is_the_projection_on_the_leading_eigenvectors_of_the_outputs():
    """LoRD: the error on the very data is the tail of the outputs' eigenvalues."""
    layer, x = linear(bias=False), torch.randn(400, IN).double() @ moment(IN, 2)
    found = LowRankLinear.from_linear(layer, RANK, input_moment=x.T @ x / 400)
    y = (x @ layer.weight.T).detach().numpy()
    values, vectors = np.linalg.eigh(y.T @ y)
    leading = vectors[:, -RANK:]
    np.testing.assert_allclose(product(found), leading @ leading.T @ layer.weight.detach().numpy(), atol=1e-9)
    error = np.linalg.norm(y - found(x).detach().numpy()) ** 2
    np.testing.assert_allclose(error, values[:-RANK].sum(), rtol=1e-6)
    plain = LowRankLinear.from_linear(layer, RANK)
    assert error < 0.9 * np.linalg.norm(y - plain(x).detach().numpy()) ** 2


@pytest.mark.parametrize("bias", [True, False])
def test_the_bias_takes_over_the_mean(bias):
    """AFM: a principal component analysis of the outputs, their mean apart."""
    layer, x = linear(bias), torch.randn(400, IN).double() + 3.0
    found = LowRankLinear.from_linear(layer, RANK, input_moment=x.T @ x / 400, input_mean=x.mean(0))
    y, approximated = layer(x).detach().numpy(), found(x).detach().numpy()
    mean = y.mean(0)
    leading = np.linalg.svd(y - mean, full_matrices=False)[2][:RANK].T
    np.testing.assert_allclose(approximated, mean + (y - mean) @ leading @ leading.T, atol=1e-8)
    np.testing.assert_allclose(approximated.mean(0), mean, atol=1e-10)
    without = LowRankLinear.from_linear(layer, RANK, input_moment=x.T @ x / 400)
    assert np.linalg.norm(y - approximated) < np.linalg.norm(y - without(x).detach().numpy())
    diagonal = LowRankLinear.from_linear(layer, RANK, input_moment=x.square().mean(0), input_mean=x.mean(0))
    np.testing.assert_allclose(diagonal(x).detach().mean(0), mean, atol=1e-10)


@pytest.mark.parametrize("sides", ["input", "both"])
def test_moments_may_be_singular(sides):
    """Inputs in a space of three dimensions need rank three, whatever the weight is."""
    layer, a = linear(), moment(IN, 3, rank=3)
    moments = {"input_moment": a, "output_moment": moment(OUT, 4)} if sides == "both" else {"input_moment": a}
    found = LowRankLinear.from_linear(layer, 3, **moments)
    x = torch.from_numpy(root(a)).T
    torch.testing.assert_close(found(x), layer(x), rtol=1e-6, atol=1e-5)
    silent = LowRankLinear.from_linear(layer, 3, output_moment=moment(OUT, 5, rank=3))
    error = root(moment(OUT, 5, rank=3)).T @ (layer.weight.detach().numpy() - product(silent))
    assert np.abs(error).max() < 1e-6


def test_balanced_keeps_the_product():
    up, down = torch.randn(9, 4).double() * 100, torch.randn(4, 7).double()
    down[3] = down[2]  # rank three
    u, d = balanced(up, down)
    torch.testing.assert_close(u @ d, up @ down)
    torch.testing.assert_close(u.T @ u, d @ d.T)
    singular_values = torch.linalg.svdvals(up @ down)[:4]
    torch.testing.assert_close((u.T @ u).diagonal(), singular_values)


def test_a_large_weight_is_nearly_the_best():
    """Beyond the sizes that are decomposed exactly; a spectrum that falls, and one that does not."""
    generator = np.random.default_rng(0)
    flat = generator.standard_normal((300, 200))
    u, _, vh = np.linalg.svd(flat, full_matrices=False)
    for weight in (flat, u * 1.05 ** -np.arange(200.0) @ vh):
        layer = nn.Linear(200, 300)
        layer.weight.data = torch.from_numpy(weight).float()
        error = np.linalg.norm(weight - product(LowRankLinear.from_linear(layer, 16)))
        assert error <= (1.03 if weight is flat else 1.02) * tail(weight, 16)
        exact = np.linalg.norm(weight - product(LowRankLinear.from_linear(layer, 26)))
        assert exact == pytest.approx(tail(weight, 26), rel=1e-5), "above an eighth of the ranks it is the best"


def test_half_precision_and_the_same_bits_again():
    layer = nn.Linear(200, 160).bfloat16()
    a, b = (LowRankLinear.from_linear(layer, 8, input_moment=torch.eye(200)) for _ in range(2))
    assert a.up.dtype == torch.bfloat16 and torch.equal(a.up, b.up) and torch.equal(a.down, b.down)
    plain = LowRankLinear.from_linear(layer, 8)
    torch.testing.assert_close(a.up @ a.down, plain.up @ plain.down, atol=2e-2, rtol=0)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"input_moment": torch.ones(3)}, ValueError, r"input_moment has shape \(3,\), expected \(16, 16\) or its"),
        ({"output_moment": torch.eye(16)}, ValueError, r"output_moment has shape \(16, 16\), expected \(20, 20\)"),
        ({"input_moment": torch.eye(16).int()}, TypeError, "input_moment is torch.int32, expected a floating-point"),
        ({"input_moment": [1.0]}, TypeError, "input_moment is list, expected"),
        ({"input_moment": -torch.eye(16)}, ValueError, "input_moment has a negative diagonal entry"),
        (
            {"input_moment": torch.eye(16) + (torch.ones(16, 16) - torch.eye(16)) * 2},
            ValueError,
            "input_moment has a negative eigenvalue",
        ),
        ({"input_moment": torch.eye(16) + torch.ones(16, 16).tril(-1)}, ValueError, "input_moment is not symmetric"),
        ({"output_moment": torch.full((20,), float("nan"))}, ValueError, "output_moment holds NaN or Inf"),
        ({"input_mean": torch.ones(20)}, ValueError, r"input_mean has shape \(20,\), expected \(16,\)"),
    ],
)
def test_what_is_no_moment_is_refused(arguments, error, message):
    with pytest.raises(error, match=f"LowRankLinear.from_linear: {message}"):
        LowRankLinear.from_linear(linear(), RANK, **arguments)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("tokens", [1, 3, 40])
def test_a_moment_of_few_tokens_is_one_but_for_rounding(tokens, dtype):
    """Summed in float32 its eigenvalues that should be 0 are negative as often as not."""
    generator = torch.Generator().manual_seed(tokens)
    scales = torch.logspace(-3, 3, 64)
    layer = nn.Linear(64, 20)
    negative = 0
    for _ in range(10):
        x = torch.randn(tokens, 64, generator=generator) * scales + 30
        moment = (x.T @ x / tokens).to(dtype)
        negative += torch.linalg.eigvalsh(moment.double()).min() < 0
        LowRankLinear.from_linear(layer, 4, input_moment=moment)
    assert negative > 0
