"""Muon, NorMuon and Dion beside torch.optim.Muon and beside their equations, written out in float64 without our ops."""

import math

import pytest
import torch
from optimizer_cases import SHAPES, matrices, run, set_gradients
from torch import Tensor

from lrkernels import optim
from lrkernels.optim.coefficients import QUINTIC

STEPS = 4


def newton_schulz(a: Tensor, coefficients=QUINTIC, steps=5) -> Tensor:
    """By the singular values: σ ← c₀σ + c₁σ³ + c₂σ⁵ from σ/‖σ‖."""
    u, s, vh = torch.linalg.svd(a.double(), full_matrices=False)
    s = s / s.norm()
    triples = coefficients if isinstance(coefficients[0], tuple) else [coefficients] * steps
    for c0, c1, c2 in triples:
        s = c0 * s + c1 * s**3 + c2 * s**5
    return (u * s) @ vh


def relative_error(a: Tensor, b: Tensor) -> float:
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


@pytest.mark.parametrize("scaling", ["original", "match_rms_adamw"])
@pytest.mark.parametrize("nesterov", [True, False])
def test_torchs_muon_for_the_same_settings(scaling, nesterov):
    ours, theirs, start = matrices(), matrices(), matrices()
    a = optim.Muon(ours, lr=0.05, momentum=0.9, nesterov=nesterov, weight_decay=0.2, scaling=scaling)
    b = torch.optim.Muon(
        theirs, lr=0.05, momentum=0.9, nesterov=nesterov, weight_decay=0.2, adjust_lr_fn=scaling
    )  # fmt: skip
    run(a, ours, STEPS)
    run(b, theirs, STEPS)
    for p, q, w in zip(ours, theirs, start, strict=True):
        assert relative_error(p - w, q - w) < 0.02  # theirs iterates in bfloat16
        torch.testing.assert_close(a.state[p]["momentum_buffer"], b.state[q]["momentum_buffer"])


@pytest.mark.parametrize("scaling", ["original", "match_rms_adamw", "none"])
@pytest.mark.parametrize(
    "coefficients", [QUINTIC, (2.0, -1.5, 0.5), optim.polar_express(5)], ids=["quintic", "another", "polar_express"]
)
def test_muons_equation(scaling, coefficients):
    parameters, momentum = matrices(torch.float64), [torch.zeros(shape, dtype=torch.float64) for shape in SHAPES]
    expected = [p.detach().clone() for p in parameters]
    optimizer = optim.Muon(parameters, lr=0.05, weight_decay=0.2, scaling=scaling, coefficients=coefficients)
    run(optimizer, parameters, STEPS)
    for step in range(STEPS):
        given = matrices(torch.float64)
        set_gradients(given, step)
        for w, m, p in zip(expected, momentum, given, strict=True):
            rows, cols = w.shape
            m.mul_(0.95).add_(p.grad, alpha=0.05)
            o = newton_schulz(0.05 * p.grad + 0.95 * m, coefficients)
            scale = {"original": max(1, rows / cols) ** 0.5, "match_rms_adamw": 0.2 * max(rows, cols) ** 0.5, "none": 1}
            w.copy_((1 - 0.05 * 0.2) * w - 0.05 * scale[scaling] * o)
    for p, w in zip(parameters, expected, strict=True):
        torch.testing.assert_close(p.detach(), w, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("scaling", ["original", "match_rms_adamw"])
@pytest.mark.parametrize("nesterov", [True, False])
def test_normuons_equation(scaling, nesterov):
    parameters = matrices(torch.float64)
    expected = [p.detach().clone() for p in parameters]
    momentum, square = [torch.zeros_like(w) for w in expected], [torch.zeros(w.shape[0]).double() for w in expected]
    optimizer = optim.NorMuon(parameters, lr=0.05, weight_decay=0.2, beta2=0.8, scaling=scaling, nesterov=nesterov)
    run(optimizer, parameters, STEPS)
    for step in range(STEPS):
        given = matrices(torch.float64)
        set_gradients(given, step)
        for w, m, v, p in zip(expected, momentum, square, given, strict=True):
            rows, cols = w.shape
            m.mul_(0.95).add_(0.05 * p.grad)
            o = newton_schulz(0.05 * p.grad + 0.95 * m if nesterov else m)
            v.mul_(0.8).add_(0.2 * (o * o).sum(1) / cols)
            hat = o / (v.sqrt() + 1e-8)[:, None]
            if scaling == "match_rms_adamw":
                hat *= 0.2 * math.sqrt(rows * cols) / hat.norm()
            else:
                hat *= o.norm() / hat.norm() * max(1, rows / cols) ** 0.5
            w.copy_((1 - 0.05 * 0.2) * w - 0.05 * hat)
    for p, w in zip(parameters, expected, strict=True):
        torch.testing.assert_close(p.detach(), w, rtol=1e-9, atol=1e-10)


def test_normuon_without_memory_makes_all_rows_equally_long():
    parameters, start = matrices(), matrices()
    run(optim.NorMuon(parameters, lr=0.1, beta2=0.0, weight_decay=0.0), parameters, 1)
    for p, w in zip(parameters, start, strict=True):
        rms = (p - w).square().mean(1).sqrt()
        torch.testing.assert_close(rms, torch.full_like(rms, 0.1 * 0.2))


@pytest.mark.parametrize("fraction", [0.25, 1.0])
def test_dions_equation(fraction):
    parameters = matrices(torch.float64)
    expected = [p.detach().clone() for p in parameters]
    optimizer = optim.Dion(parameters, lr=0.05, rank_fraction=fraction, momentum=0.9, weight_decay=0.2)
    momentum = [torch.zeros_like(w) for w in expected]
    run(optimizer, parameters, 1)
    first = optim.Dion(matrices(torch.float64), rank_fraction=fraction)
    right = [first.initial_state(w, first.param_groups[0])["right"] for w in expected]
    run(optimizer, parameters, STEPS - 1, start=1)
    for step in range(STEPS):
        given = matrices(torch.float64)
        set_gradients(given, step)
        for index, (w, m, p) in enumerate(zip(expected, momentum, given, strict=True)):
            rows, cols = w.shape
            b = m + p.grad
            left = torch.linalg.qr(b @ right[index])[0]  # signs of columns cancel in the product
            r = b.T @ left
            m.copy_(b - 0.1 * left @ r.T)
            right[index] = r / r.norm(dim=0)
            w.copy_((1 - 0.05 * 0.2) * w - 0.05 * math.sqrt(rows / cols) * left @ right[index].T)
    for p, w, m in zip(parameters, expected, momentum, strict=True):
        torch.testing.assert_close(p.detach(), w, rtol=1e-8, atol=1e-9)
        torch.testing.assert_close(optimizer.state[p]["momentum_buffer"], m, rtol=1e-8, atol=1e-9)
        assert optimizer.state[p]["right"].shape == (w.shape[1], math.ceil(fraction * min(w.shape)))


def test_dions_columns_are_orthonormal_and_unit():
    """The step is √(rows/cols)·P·Qᵀ with PᵀP = I and unit columns of Q."""
    parameters, start = matrices(torch.float64), matrices(torch.float64)
    optimizer = optim.Dion(parameters, lr=1.0, rank_fraction=0.5, weight_decay=0.0)
    run(optimizer, parameters, 1)
    for p, w in zip(parameters, start, strict=True):
        q = optimizer.state[p]["right"]
        torch.testing.assert_close(q.norm(dim=0), torch.ones_like(q[0]))
        left = (w - p).detach() @ torch.linalg.pinv(q.T) / math.sqrt(w.shape[0] / w.shape[1])
        torch.testing.assert_close(left.T @ left, torch.eye(q.shape[1]).double())


def test_dion_at_full_rank_comes_to_the_polar_factor():
    """With μ = 1 and gradients of 0 after the first the momentum stays M, and the power iteration converges."""
    generator = torch.Generator().manual_seed(0)
    u, _, vh = torch.linalg.svd(torch.randn(12, 5, generator=generator, dtype=torch.float64), full_matrices=False)
    m = (u * torch.tensor([5.0, 3.0, 2.0, 1.0, 0.4])) @ vh
    p = torch.nn.Parameter(torch.zeros(12, 5, dtype=torch.float64))
    optimizer = optim.Dion([p], lr=1.0, rank_fraction=1.0, weight_decay=0.0)
    optimizer.param_groups[0]["momentum"] = 1.0
    distances = []
    for step in range(80):
        p.grad = m if step == 0 else torch.zeros_like(m)
        before = p.detach().clone()
        optimizer.step()
        distances.append((before - p - math.sqrt(12 / 5) * u @ vh).norm().item())
    assert distances[0] > 0.1 and distances[-1] < 1e-9


@pytest.mark.parametrize("shape", [(12, 8), (8, 12), (40, 40)], ids=str)
@pytest.mark.parametrize("rank", [1, 3])
def test_dion_steps_only_where_the_gradient_has_directions(shape, rank):
    """Gradients of the same few rows and columns at all steps: rounding makes no unit columns of the others."""
    generator = torch.Generator().manual_seed(rank)
    u, v, turn = (
        torch.linalg.qr(torch.randn(size, rank, dtype=torch.float64, generator=generator))[0] for size in (*shape, rank)
    )
    p = torch.nn.Parameter(torch.zeros(shape))
    optimizer = optim.Dion([p], lr=1.0, rank_fraction=0.75, weight_decay=0.0)
    for step in range(4):
        before = p.detach().clone()
        p.grad = (u @ (torch.arange(1.0, rank + 1) + step).diag().double() @ turn @ v.T).float()
        optimizer.step()
        moved = (p.detach() - before).double()
        outside = moved - u @ (u.T @ moved) @ v @ v.T
        assert outside.norm() < 1e-2 * moved.norm()
        assert torch.linalg.matrix_rank(moved, rtol=0.05) == rank


def test_dion_feeds_back_what_it_left_out():
    """M + G = M_next + (1 − μ)·P·Rᵀ: nothing of a gradient is lost, and M_next has all that P's span does not."""
    p = matrices(torch.float64, shapes=[(8, 8)])[0]
    optimizer = optim.Dion([p], lr=1.0, rank_fraction=0.25, momentum=0.0, weight_decay=0.0)
    set_gradients([p], 0)
    before = p.detach().clone()
    optimizer.step()
    span = torch.linalg.qr((before - p).detach())[0][:, :2]
    left_out = p.grad - span @ (span.T @ p.grad)
    torch.testing.assert_close(optimizer.state[p]["momentum_buffer"], left_out)


@pytest.mark.parametrize("make", [optim.Muon, optim.NorMuon, optim.Dion], ids=["muon", "normuon", "dion"])
def test_gradients_of_zero_take_no_step_and_leave_no_trace(make):
    parameters, start = matrices(), matrices()
    optimizer = make(parameters, weight_decay=0.0)
    for p in parameters:
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert all(torch.equal(p, w) for p, w in zip(parameters, start, strict=True))
    run(optimizer, parameters, 2)
    for p, w in zip(parameters, start, strict=True):
        assert torch.isfinite(p).all() and (p - w).norm() > 1e-4


@pytest.mark.parametrize("make", [optim.Muon, optim.NorMuon, optim.Dion], ids=["muon", "normuon", "dion"])
def test_the_scale_of_gradients_does_not_matter(make):
    """Down to numbers whose squares vanish in float32."""
    ones, tiny = matrices(), matrices()
    a, b = make(ones, weight_decay=0.0), make(tiny, weight_decay=0.0)
    for step in range(3):
        set_gradients(ones, step)
        set_gradients(tiny, step)
        for p in tiny:
            p.grad *= 2.0**-80
        a.step()
        b.step()
    for p, q in zip(ones, tiny, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


# Table 1 of the paper's code listing, lower = 1e-3, before the factor for safety.
PUBLISHED = [
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
]


def test_polar_express_has_the_published_coefficients():
    torch.testing.assert_close(torch.tensor(optim.polar_express(7, safety=1.0)), torch.tensor(PUBLISHED))
    safe = torch.tensor(optim.polar_express(7)).double()
    shrunk = torch.tensor(PUBLISHED).double() / torch.tensor([1.01, 1.01**3, 1.01**5], dtype=torch.float64)
    torch.testing.assert_close(safe[:-1], shrunk[:-1])
    torch.testing.assert_close(safe[-1], torch.tensor(PUBLISHED[-1]).double())


@pytest.mark.parametrize("lower", [1e-3, 1e-2, 0.3])
def test_polar_express_brings_every_singular_value_near_one(lower):
    """More than Newton–Schulz with Muon's coefficients does, and more with every step."""
    x = torch.linspace(lower, 1, 10001, dtype=torch.float64)
    errors = []
    for steps in (3, 5, 7, 10):
        y = x
        for a, b, c in optim.polar_express(steps, lower, safety=1.0):
            y = a * y + b * y**3 + c * y**5
        errors.append((y - 1).abs().max().item())
    assert errors == sorted(errors, reverse=True) and errors[-1] < 1e-6
    y = x
    for _ in range(5):
        y = QUINTIC[0] * y + QUINTIC[1] * y**3 + QUINTIC[2] * y**5
    assert errors[1] < (y - 1).abs().max()
