"""Diagnostics by the identities that define them, against NumPy."""

import numpy as np
import pytest
import torch
from torch import nn

from lrkernels.diagnostics import (
    effective_rank,
    heavy_tail_exponent,
    intruder_dimensions,
    numerical_rank,
    spectral_utilisation,
    stable_rank,
    utilised_rank,
)
from lrkernels.nn import LowRankLinear, input_statistics


def with_spectrum(rows, cols, values, seed=0):
    generator = np.random.default_rng(seed)
    size = min(rows, cols)
    u, v = (np.linalg.qr(generator.standard_normal((n, size)))[0] for n in (rows, cols))
    return torch.from_numpy(u * np.asarray(values, dtype=float) @ v.T)


def gaussian(rows, cols, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((rows, cols)))


# --- ranks ---


def test_ranks_of_equal_singular_values_are_their_number():
    for a in (with_spectrum(12, 9, [2.0] * 5 + [0.0] * 4), 3 * torch.eye(5)):
        for rank in (stable_rank(a), stable_rank(a, exact=False), effective_rank(a), numerical_rank(a)):
            np.testing.assert_allclose(rank, 5, rtol=1e-6)
    single = torch.outer(torch.randn(7), torch.randn(9))
    np.testing.assert_allclose([stable_rank(single), effective_rank(single)], 1, rtol=1e-4)


def test_ranks_are_what_numpy_says_and_in_order():
    stack = torch.stack([with_spectrum(20, 30, 0.7 ** np.arange(20), seed) for seed in range(3)])
    s = 0.7 ** np.arange(20.0)
    p = s / s.sum()
    expected = (s**2).sum() / s[0] ** 2, np.exp(-(p * np.log(p)).sum())
    for dtype, rounding in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        found = stable_rank(stack.to(dtype)), effective_rank(stack.to(dtype))
        for value, exact in zip(found, expected, strict=True):
            assert value.shape == (3,) and value.dtype == torch.float64
            np.testing.assert_allclose(value, exact, rtol=rounding)
        assert (found[0] <= found[1]).all()
    assert effective_rank(stack[0].bfloat16()) > 1


def test_the_stable_rank_by_rsvd_is_close_and_from_above():
    large = torch.stack([gaussian(400, 300, seed) for seed in range(3)])
    exact, estimate = stable_rank(large), stable_rank(large, exact=False)
    assert (estimate >= exact * (1 - 1e-12)).all() and (estimate <= 1.01 * exact).all()
    decaying = with_spectrum(400, 300, 0.9 ** np.arange(300))
    np.testing.assert_allclose(stable_rank(decaying, exact=False), stable_rank(decaying), rtol=1e-4)


def test_the_numerical_rank_counts_to_a_limit_and_to_a_tolerance():
    a = with_spectrum(40, 30, [1.0] * 4 + [1e-3] * 6 + [0.0] * 20)
    assert numerical_rank(a) == 10 and numerical_rank(a, tolerance=1e-2) == 4
    assert numerical_rank(a.float()) == 10 and numerical_rank(a.float(), at_most=12) == 10
    assert numerical_rank(a, at_most=7) == 7
    assert numerical_rank(torch.zeros(3, 4)) == 0
    exact = torch.outer(torch.arange(1.0, 9), torch.ones(200)) + torch.outer(torch.ones(8), torch.arange(200.0) % 7)
    for dtype in (torch.bfloat16, torch.float16):
        assert numerical_rank(exact.to(dtype)) == numerical_rank(exact.to(dtype), at_most=5) == 2, "small integers"
        assert numerical_rank(torch.eye(300).to(dtype)) == 300
    with pytest.raises(ValueError, match="numerical_rank: tolerance is -1"):
        numerical_rank(a, tolerance=-1)
    with pytest.raises(ValueError, match=r"stable_rank: a has shape \(3,\)"):
        stable_rank(torch.ones(3))


def test_the_utilised_rank_is_that_of_the_inputs_and_enough_for_the_outputs():
    linear, x = nn.Linear(24, 20).double(), gaussian(300, 5) @ gaussian(5, 24, 1)
    moment = x.T @ x / 300
    assert utilised_rank(linear.weight, moment) == 5 and numerical_rank(linear.weight) == 20
    layer = LowRankLinear.from_linear(linear, 5, input_moment=moment)
    torch.testing.assert_close(layer(x), linear(x), rtol=1e-6, atol=1e-6)
    assert utilised_rank(linear.weight, torch.eye(24).double()) == 20
    with pytest.raises(ValueError, match=r"utilised_rank: input_moment has shape \(20, 20\)"):
        utilised_rank(linear.weight, torch.eye(20))


# --- utilisation ---


def test_isotropic_features_use_all_dimensions_and_copies_of_one_use_one():
    isotropic = spectral_utilisation(2.5 * torch.eye(16))
    np.testing.assert_allclose([isotropic.hard_rank, isotropic.soft_rank], 16)
    np.testing.assert_allclose([isotropic.hard_utilisation, isotropic.soft_utilisation], 1)
    direction = torch.randn(16)
    one = spectral_utilisation(torch.outer(direction, direction))
    np.testing.assert_allclose([one.hard_rank, one.soft_rank, one.concentration], 1, rtol=1e-4)
    values = np.array([4.0, 2.0, 1.0, 1.0])
    found = spectral_utilisation(torch.from_numpy(np.diag(values)))
    p = values / 8
    np.testing.assert_allclose(found.hard_rank, 64 / 22)
    np.testing.assert_allclose(found.soft_rank, np.exp(-(p * np.log(p)).sum()))
    assert found.concentration == 0.5 and found.hard_rank < found.soft_rank


def test_the_utilisation_of_a_layers_inputs():
    model = nn.Sequential(nn.Linear(8, 3, bias=False), nn.Linear(3, 12, bias=False), nn.Linear(12, 1))
    statistics = input_statistics(model, [torch.randn(500, 8)], {"last": model[2]})
    found = spectral_utilisation(statistics["last"].covariance)
    assert 1 < found.hard_rank < found.soft_rank < 3.001, "twelve features that are three"
    for bad, message in (
        (torch.ones(3, 4), r"covariance has shape \(3, 4\)"),
        (torch.zeros(3, 3), "covariance is zero"),
        (torch.full((2, 2), float("nan")), "covariance holds NaN"),
    ):
        with pytest.raises(ValueError, match=f"spectral_utilisation: {message}"):
            spectral_utilisation(bad)


# --- intruders ---


def test_a_planted_update_is_an_intruder_and_a_small_dense_one_is_none():
    base = gaussian(128, 96) / 12
    left, right = gaussian(128, 1, 1), gaussian(96, 1, 2)
    planted = base + 3.0 * left @ right.T / (left.norm() * right.norm())
    found = intruder_dimensions(planted, base)
    u, u0 = (np.linalg.svd(w.numpy(), full_matrices=False)[0] for w in (planted, base))
    np.testing.assert_allclose(found.similarity, np.abs(u[:, :10].T @ u0).max(1), rtol=1e-9)
    assert found.count == 1 and found.indices.tolist() == [0]
    assert intruder_dimensions(base, base).count == 0
    assert intruder_dimensions(base + 1e-3 * gaussian(128, 96, 3), base).count == 0
    for arguments, message in (
        ((base, base[:, :4]), r"weight and base have shapes \(128, 96\) and \(128, 4\)"),
        ((base, base, 97), "top is 97, expected 1 to 96"),
        ((base, base, 5, 2.0), r"epsilon is 2.0, expected a cosine in \[0, 1\]"),
    ):
        with pytest.raises(ValueError, match=f"intruder_dimensions: {message}"):
            intruder_dimensions(*arguments)


# --- heavy tails ---


def test_hills_estimator_finds_the_exponent_of_a_power_law():
    uniform = np.random.default_rng(0).random(2000)
    for exponent in (2.0, 3.5):
        eigenvalues = np.sort(uniform ** (-1 / (exponent - 1)))[::-1]
        weight = torch.from_numpy(np.diag(np.sqrt(eigenvalues)))
        assert heavy_tail_exponent(weight, share=0.2) == pytest.approx(exponent, rel=0.15)


def test_equal_eigenvalues_have_a_tail_that_ends_at_once():
    assert heavy_tail_exponent(torch.eye(8)) == heavy_tail_exponent(3 * torch.eye(8, 12), False) == float("inf")
    assert heavy_tail_exponent(torch.linalg.qr(gaussian(16, 16))[0]) > 1e9


def test_the_aspect_ratio_of_noise_shows_unless_it_is_fixed():
    square, long = gaussian(100, 100), gaussian(100, 800, 1)
    raw = [heavy_tail_exponent(w, fixed_aspect=False) for w in (square, long, long.T)]
    fixed = [heavy_tail_exponent(w) for w in (square, long, long.T)]
    assert raw[1] > 1.8 * raw[0] and raw[1] == pytest.approx(raw[2])
    assert fixed[0] == pytest.approx(raw[0]) and fixed[1] == pytest.approx(fixed[0], rel=0.05)
    uneven = heavy_tail_exponent(gaussian(100, 250, 2))
    assert uneven == pytest.approx(fixed[0], rel=0.1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.eye(3),), "a tail of 1 eigenvalues above 1 fits nothing"),
        ((torch.zeros(8, 8),), "a tail of 4 eigenvalues above 0 fits nothing"),
        ((torch.ones(2, 3, 4),), r"weight has shape \(2, 3, 4\)"),
        ((torch.eye(8), True, 1.0), "share is 1.0"),
    ],
)
def test_heavy_tail_refuses(arguments, message):
    with pytest.raises(ValueError, match=f"heavy_tail_exponent: .*{message}"):
        heavy_tail_exponent(*arguments)
