"""Penalties: zero where they should be, their value by definition, their gradients; and row conditioning."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize

from lrkernels.nn import (
    condition_rows,
    convolution_orthogonality,
    delta_orthogonal_,
    double_soft_orthogonality,
    mutual_coherence,
    soft_orthogonality,
    spectral_isometry,
    unit_spectral_norm,
)
from lrkernels.nn.orthogonal_maps import orthonormalized

PENALTIES = [soft_orthogonality, double_soft_orthogonality, mutual_coherence, spectral_isometry]
EVERY = pytest.mark.parametrize("penalty", PENALTIES, ids=lambda p: p.__name__)


def less_identity(gram):
    return gram - np.eye(len(gram))


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (6, 6)])
def test_values_by_definition(shape):
    weight = torch.randn(shape, dtype=torch.float64)
    w = weight.numpy()
    small, large = (w @ w.T, w.T @ w) if shape[0] <= shape[1] else (w.T @ w, w @ w.T)
    assert soft_orthogonality(weight).item() == pytest.approx(np.linalg.norm(less_identity(small)) ** 2)
    both = np.linalg.norm(less_identity(small)) ** 2 + np.linalg.norm(less_identity(large)) ** 2
    assert double_soft_orthogonality(weight).item() == pytest.approx(both)
    assert mutual_coherence(weight).item() == pytest.approx(np.abs(less_identity(small)).max())
    spectral = np.abs(np.linalg.eigvalsh(less_identity(small))).max()
    found = [spectral_isometry(weight, iterations).item() for iterations in (1, 2, 200)]
    assert 0.5 * spectral < found[0] <= found[1] <= spectral * (1 + 1e-12)
    assert found[2] == pytest.approx(spectral)


@EVERY
@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (6, 6)])
def test_zero_for_an_orthonormal_weight_alone(penalty, shape):
    q = orthonormalized(torch.randn(shape, dtype=torch.float64)).requires_grad_()
    least = abs(shape[0] - shape[1]) if penalty is double_soft_orthogonality else 0
    assert penalty(q).item() == pytest.approx(least, abs=1e-12)
    penalty(q).backward()
    assert q.grad.isfinite().all()
    assert penalty(1.1 * q.detach()) > least + 0.1


@EVERY
def test_gradients(penalty):
    weight = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    call = (lambda w: spectral_isometry(w, 500)) if penalty is spectral_isometry else penalty
    assert torch.autograd.gradcheck(call, weight, atol=1e-4)


@EVERY
def test_descent_leads_to_an_orthonormal_weight(penalty):
    weight = (0.5 * torch.randn(4, 8, dtype=torch.float64)).requires_grad_()
    before = penalty(weight).item()
    optimizer = torch.optim.SGD([weight], lr=0.02)
    for _ in range(400):
        optimizer.zero_grad()
        penalty(weight).backward()
        optimizer.step()
    least = 4 if penalty is double_soft_orthogonality else 0
    assert penalty(weight).item() - least < 0.1 * (before - least)


def test_kernels_and_half_precision():
    kernel = torch.randn(4, 3, 3, 3)
    torch.testing.assert_close(soft_orthogonality(kernel), soft_orthogonality(kernel.flatten(1)))
    half = kernel.bfloat16()
    assert soft_orthogonality(half).dtype == torch.float32
    torch.testing.assert_close(soft_orthogonality(half), soft_orthogonality(half.float()))
    assert torch.equal(spectral_isometry(kernel), spectral_isometry(kernel))


@pytest.mark.parametrize(
    "penalty", [*PENALTIES, unit_spectral_norm, convolution_orthogonality], ids=lambda p: p.__name__
)
def test_autocast_does_not_round_a_penalty(penalty):
    kernel = torch.randn(4, 3, 3, 3)
    with torch.autocast("cpu", torch.bfloat16):
        found = penalty(kernel)
    assert found.dtype == torch.float32 and torch.equal(found, penalty(kernel))


@pytest.mark.parametrize("power", [1, 2, 3])
@pytest.mark.parametrize("shape", [(7, 5), (5, 7), (6, 2, 3, 3)])
def test_the_unit_norms_penalty_is_that_of_the_largest_singular_value(shape, power):
    weight = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    largest = torch.linalg.matrix_norm(weight.flatten(1), 2)
    expected = (largest**power - 1).square()
    found = unit_spectral_norm(weight, power, iterations=300)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, weight), torch.autograd.grad(expected, weight))
    assert unit_spectral_norm(1.5 / largest.item() * weight.detach(), power, 1) <= (1.5**power - 1) ** 2
    q = orthonormalized(torch.randn(shape, dtype=torch.float64).flatten(1))
    assert unit_spectral_norm(q, power).item() < 1e-24
    q[0] *= 0.5  # below the largest, where an orthonormality penalty would see it
    assert unit_spectral_norm(q, power, 50).item() < 1e-12 < 0.1 < soft_orthogonality(q).item()


def circular_matrix(kernel, size, stride):
    """The matrix of a circular convolution of ``[in, size·stride, size·stride]`` images, column by column."""
    channels, side = kernel.shape[1], size * stride
    images = torch.eye(channels * side * side, dtype=kernel.dtype).reshape(-1, channels, side, side)
    before = [kernel.shape[d] // 2 for d in (2, 3)]
    after = [kernel.shape[d] - 1 - b for d, b in zip((2, 3), before, strict=True)]
    padded = F.pad(images, (before[1], after[1], before[0], after[0]), mode="circular")
    return F.conv2d(padded, kernel, stride=stride).flatten(1).T


@pytest.mark.parametrize(
    ("shape", "stride"), [((3, 4, 3, 3), 1), ((5, 2, 3, 3), 1), ((4, 2, 3, 3), 2), ((3, 4, 5, 3), 1), ((6, 1, 3, 3), 2)]
)
def test_the_kernels_penalty_is_that_of_the_convolutions_matrix(shape, stride):
    kernel, size = 0.4 * torch.randn(shape, dtype=torch.float64), 10
    matrix = circular_matrix(kernel, size, stride)
    assert matrix.shape == (shape[0] * size**2, shape[1] * (size * stride) ** 2)
    small = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    exact = (small - torch.eye(len(small))).square().sum() / size**2
    torch.testing.assert_close(convolution_orthogonality(kernel, stride), exact)


@pytest.mark.parametrize("shape", [(5, 3, 3, 3), (3, 5, 3, 3), (4, 4, 5, 5)])
def test_a_delta_orthogonal_kernel_is_an_isometry(shape):
    kernel = delta_orthogonal_(torch.empty(shape, dtype=torch.float64))
    assert convolution_orthogonality(kernel) < 1e-20
    values = torch.linalg.svdvals(circular_matrix(kernel, 6, 1))
    torch.testing.assert_close(values, torch.ones_like(values))
    assert int((kernel != 0).sum()) == shape[0] * shape[1]
    doubled = delta_orthogonal_(torch.empty(shape), gain=2.0)
    torch.testing.assert_close(torch.linalg.svdvals(doubled.sum((2, 3))), torch.full((min(shape[:2]),), 2.0))


def test_penalties_refuse():
    for penalty in (*PENALTIES, unit_spectral_norm):
        with pytest.raises(ValueError, match=rf"{penalty.__name__}: weight has shape \(4,\), expected at least two"):
            penalty(torch.zeros(4))
    with pytest.raises(ValueError, match="spectral_isometry: iterations is 0"):
        spectral_isometry(torch.zeros(4, 4), 0)
    with pytest.raises(ValueError, match="unit_spectral_norm: power is 0, iterations 8"):
        unit_spectral_norm(torch.zeros(4, 4), 0)
    with pytest.raises(ValueError, match=r"convolution_orthogonality: kernel has shape \(4, 4\)"):
        convolution_orthogonality(torch.zeros(4, 4))
    with pytest.raises(ValueError, match="convolution_orthogonality: stride is 0"):
        convolution_orthogonality(torch.zeros(4, 4, 3, 3), 0)
    with pytest.raises(ValueError, match=r"delta_orthogonal_: kernel has shape \(4, 4, 2, 3\)"):
        delta_orthogonal_(torch.zeros(4, 4, 2, 3))


# --- Row conditioning ---


def test_row_conditioning_makes_a_badly_scaled_weight_well_conditioned():
    linear = nn.Linear(30, 20, dtype=torch.float64)
    with torch.no_grad():
        linear.weight.mul_(torch.logspace(-2, 2, 20, dtype=torch.float64)[:, None])
    raw, x = linear.weight.detach().clone(), torch.randn(5, 30, dtype=torch.float64)
    assert condition_rows(linear) is linear
    expected = raw / raw.norm(dim=1, keepdim=True)
    torch.testing.assert_close(linear.weight, expected)
    torch.testing.assert_close(linear(x), x @ expected.T + linear.bias)
    assert torch.linalg.cond(raw) > 1e3 > 50 > torch.linalg.cond(linear.weight)
    linear(x).square().sum().backward()
    gradient = linear.parametrizations.weight.original.grad
    torch.testing.assert_close((gradient * raw).sum(1), torch.zeros(20, dtype=torch.float64))  # no gradient lengthwise
    with torch.no_grad():
        linear.parametrizations.weight.original[3] = 0.0
    assert not linear.weight[3].any() and linear.weight.isfinite().all()
    parametrize.remove_parametrizations(linear, "weight")
    assert type(linear) is nn.Linear


def test_row_conditioning_of_kernels_and_its_refusals():
    conv = condition_rows(nn.Conv2d(3, 4, 3).bfloat16())
    assert conv.weight.dtype == torch.bfloat16
    torch.testing.assert_close(conv.weight.float().flatten(1).norm(dim=1), torch.ones(4), rtol=0.01, atol=0)
    with pytest.raises(TypeError, match="condition_rows: Linear.w is no floating-point tensor"):
        condition_rows(nn.Linear(4, 4), "w")
    with pytest.raises(ValueError, match=r"condition_rows: bias has shape \(4,\)"):
        condition_rows(nn.Linear(4, 4), "bias")
