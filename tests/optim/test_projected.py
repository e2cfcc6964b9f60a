"""ProjectedOptimizer and its bases: what projections must satisfy, beside torch.optim and beside dense algebra."""

import math
from dataclasses import dataclass

import pytest
import torch
from optimizer_cases import BASES, SHAPES, matrices, run, set_gradients
from torch import Tensor

from lrkernels import optim, reference
from lrkernels.optim import rules

FULL = 12  # at least the shorter side of every matrix


def stepped(basis, inner="sgd", gradients=None, shape=(6, 20), steps=1, **options):
    """W₀ − W after steps of lr 1 from one gradient or one a step, and the optimizer's state."""
    gradients = torch.randn(shape) if gradients is None else gradients
    p = torch.nn.Parameter(torch.zeros(shape, dtype=gradients.dtype))
    optimizer = optim.ProjectedOptimizer([p], inner, basis, **{"lr": 1.0, "momentum": 0.0, **options})
    for step in range(steps):
        p.grad = gradients if gradients.dim() == 2 else gradients[step]
        optimizer.step()
    return -p.detach(), optimizer.state[p]


def dense_basis(state, rows) -> Tensor:
    return state["basis_projection"] if "basis_projection" in state else dct_matrix(rows)[:, state["basis_columns"]]


def dct_matrix(rows) -> Tensor:
    i, f = torch.arange(rows)[:, None], torch.arange(rows)
    return torch.cos(math.pi * (2 * i + 1) * f / (2 * rows)) * torch.where(f == 0, 1, math.sqrt(2)) / math.sqrt(rows)


def optimal(g, rank) -> Tensor:
    u = torch.linalg.svd(g.double(), full_matrices=False)[0][..., :rank]
    return (u @ (u.mT @ g.double())).to(g.dtype)


@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (7, 7)], ids=str)
@pytest.mark.parametrize("name", ["galore", "dct"])
def test_a_full_basis_with_plain_steps_is_gradient_descent(name, shape):
    basis = {"galore": optim.GaLore(FULL), "dct": optim.DCT(FULL)}[name]
    g = torch.randn(shape)
    moved, _ = stepped(basis, gradients=g, shape=shape)
    torch.testing.assert_close(moved, g, rtol=1e-4, atol=1e-5)


def test_full_galore_is_the_inner_optimizer_in_turned_coordinates():
    """While P stays, W = Uᵀ·W' with W' AdamW's on UᵀG; momentum, which is linear, needs no turning back."""
    sgd, reference_sgd = matrices(), matrices()
    ours = optim.ProjectedOptimizer(sgd, "sgd", optim.GaLore(FULL), lr=0.1, momentum=0.9, nesterov=True)
    theirs = torch.optim.SGD(reference_sgd, lr=0.1, momentum=0.9, nesterov=True)
    run(ours, sgd, 5)
    run(theirs, reference_sgd, 5)
    for p, q in zip(sgd, reference_sgd, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)

    p, start = matrices(shapes=[(5, 12)])[0], matrices(shapes=[(5, 12)])[0]
    ours = optim.ProjectedOptimizer([p], "adamw", optim.GaLore(FULL), lr=0.1)
    set_gradients([p], 0)
    u = torch.linalg.svd(p.grad, full_matrices=False)[0]
    turned = torch.nn.Parameter(torch.zeros(5, 12))
    theirs = torch.optim.Adam([turned], lr=0.1)
    for step in range(5):
        set_gradients([p], step)
        turned.grad = u.T @ p.grad
        ours.step()
        theirs.step()
    torch.testing.assert_close((p - start).detach(), u @ turned.detach(), rtol=1e-3, atol=1e-4)


class Axes(optim.MatrixBasis):
    """All unit vectors: the projection is G itself."""

    rank = FULL

    def __repr__(self):
        return "Axes()"

    def matrix(self, state, rows):
        return torch.eye(rows).unsqueeze(0)


@pytest.mark.parametrize("shape", [(6, 20), (20, 6)], ids=str)
def test_all_axes_give_the_inner_optimizer_itself(shape):
    for inner, theirs in (
        ("adamw", lambda p: torch.optim.AdamW(p, lr=0.1, betas=(0.8, 0.9), eps=1e-6, weight_decay=0.1)),
        ("sgd", lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.7)),
    ):
        ours, reference_parameters = matrices(shapes=[shape]), matrices(shapes=[shape])
        options = {"lr": 0.1, "betas": (0.8, 0.9), "eps": 1e-6, "momentum": 0.7, "refresh_every": 2}
        decay = 0.1 if inner == "adamw" else 0.0
        run(optim.ProjectedOptimizer(ours, inner, Axes(), weight_decay=decay, **options), ours, 6)
        run(theirs(reference_parameters), reference_parameters, 6)
        torch.testing.assert_close(ours[0], reference_parameters[0])


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("shape", [(20, 30), (30, 20)], ids=str)
def test_galores_steps_are_the_leading_part_of_the_gradient(shape, warm):
    """PPᵀG = G_r for one gradient again and again, and P is orthonormal."""
    u, _ = torch.linalg.qr(torch.randn(shape[0], 8))
    v, _ = torch.linalg.qr(torch.randn(shape[1], 8))
    g = (u * torch.tensor([8.0, 6, 4, 3, 1e-2, 8e-3, 5e-3, 2e-3])) @ v.T
    moved, state = stepped(optim.GaLore(4, warm=warm), gradients=g, shape=shape, steps=5, refresh_every=1)
    torch.testing.assert_close(moved / 5, optimal(g, 4), rtol=1e-4, atol=1e-4)
    p = state["basis_projection"]
    torch.testing.assert_close(p.T @ p, torch.eye(4), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["galore", "galore_warm", "dct"])
@pytest.mark.parametrize("inner", ["adamw", "sgd"])
def test_steps_stay_in_the_basis_between_refreshes(name, inner):
    gradients = torch.randn(4, 6, 20)
    moved, state = stepped(BASES[name], inner, gradients, steps=4, refresh_every=10, momentum=0.9)
    p = dense_basis(state, 6)
    assert p.shape == (6, 3) and moved.norm() > 0.1
    torch.testing.assert_close(p @ (p.T @ moved), moved, rtol=1e-4, atol=1e-5)


def test_moments_have_the_rank_of_the_basis_and_are_all_there_is():
    for name, expected in (
        ("galore", {"basis_projection": (6, 3)}),
        ("fira", {"basis_projection": (6, 3), "basis_residual_norm": (1,)}),
        ("dct", {"basis_columns": (3,)}),
        ("flora", {}),
    ):
        for shape in ((6, 20), (20, 6)):
            _, state = stepped(BASES[name], "adamw", shape=shape)
            found = {key: tuple(value.shape) for key, value in state.items()}
            assert found == {"step": (), "refreshed": (), "exp_avg": (3, 20), "exp_avg_sq": (3, 20), **expected}


def test_the_first_moment_turns_with_the_basis():
    """After a refresh it is P_newᵀ·P_old·M, by dense algebra."""
    for name in ("galore", "dct"):
        gradients = torch.randn(3, 6, 20)
        _, before = stepped(BASES[name], "adamw", gradients, steps=2, refresh_every=2)
        _, after = stepped(BASES[name], "adamw", gradients, steps=3, refresh_every=2)
        old, new = dense_basis(before, 6), dense_basis(after, 6)
        assert (old @ old.T - new @ new.T).norm() > 0.1
        turned = new.T @ old @ before["exp_avg"]
        expected = 0.9 * turned + 0.1 * new.T @ gradients[2]
        torch.testing.assert_close(after["exp_avg"], expected, rtol=1e-4, atol=1e-5)


def test_the_second_moment_is_exact_where_coordinates_are_uncorrelated():
    """The mean square of turned samples, in a basis within the old one's span; and the mean where it is not."""
    basis = optim.GaLore(4)
    samples = torch.randn(20000, 4, 5) * torch.rand(4, 5)
    old = torch.linalg.qr(torch.randn(9, 9))[0]
    turn = torch.linalg.qr(torch.randn(4, 4))[0]
    moment = samples.square().mean(0)[None]

    def turned(new):
        return basis.rotate_state({"projection": old[None, :, :4]}, {"projection": new[None]}, moment, 2, 9)[0]

    inside = old[:, :4] @ turn
    torch.testing.assert_close(turned(inside), (turn.T @ samples).square().mean(0), rtol=0.05, atol=1e-3)
    outside = turned(old[:, 4:8])
    torch.testing.assert_close(outside, moment.mean(1).expand(4, 5), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(turned(old[:, :4]), moment[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["galore", "galore_warm", "fira", "dct"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_leaves_the_basis_alone(name, value):
    """Only that matrix's: the other one of the stack gets its new basis."""
    parameters = matrices(shapes=[(6, 20), (6, 20)])
    optimizer = optim.ProjectedOptimizer(parameters, "adamw", BASES[name], refresh_every=1)
    run(optimizer, parameters, 2)
    key = "basis_columns" if name == "dct" else "basis_projection"
    before = [optimizer.state[p][key].clone() for p in parameters]
    set_gradients(parameters, 7)
    parameters[0].grad[2, 3] = value
    optimizer.step()
    after = [optimizer.state[p][key] for p in parameters]
    assert torch.equal(before[0], after[0]) and not torch.equal(before[1], after[1])
    assert torch.isfinite(parameters[1]).all()


def test_a_first_gradient_that_is_not_finite_finds_a_basis():
    _, state = stepped(optim.GaLore(3), gradients=torch.full((6, 20), math.nan))
    torch.testing.assert_close(state["basis_projection"], torch.eye(6, 3))


def test_staggered_refreshes_meet_each_matrix_once_a_period():
    parameters = matrices(shapes=[(4, 8)] * 6)
    optimizer = optim.ProjectedOptimizer(parameters, "sgd", optim.GaLore(2), refresh_every=4, stagger=True)
    found = [[] for _ in parameters]
    for step in range(12):
        run(optimizer, parameters, 1, start=step)
        for p, when in zip(parameters, found, strict=True):
            if not when or optimizer.state[p]["refreshed"].item() != when[-1]:
                when.append(optimizer.state[p]["refreshed"].item())
    assert found == [[0, 4, 8], [0, 4, 8], [0, 3, 7, 11], [0, 2, 6, 10], [0, 2, 6, 10], [0, 1, 5, 9]]


def test_staggered_or_not_a_refreshed_matrix_is_the_same():
    """The last of six is refreshed at 0 and 1: like alone with a refresh at every step, for two steps."""
    parameters, alone = matrices(shapes=[(4, 8)] * 6), matrices(shapes=[(4, 8)] * 6)
    optimizer = optim.ProjectedOptimizer(parameters, "adamw", optim.GaLore(2), refresh_every=4, stagger=True)
    other = optim.ProjectedOptimizer(alone[5:], "adamw", optim.GaLore(2), refresh_every=1)
    for step in range(2):
        set_gradients(parameters, step)
        alone[5].grad = parameters[5].grad.clone()
        optimizer.step()
        other.step()
    torch.testing.assert_close(parameters[5], alone[5], rtol=1e-4, atol=1e-5)


def test_batched_products_and_products_of_each_matrix_are_the_same(monkeypatch):
    """On a CPU it is the second, elsewhere the first."""
    one_by_one, batched = matrices(), matrices()
    run(optim.ProjectedOptimizer(one_by_one, "adamw", BASES["galore"], refresh_every=2), one_by_one, 4)
    monkeypatch.setattr("lrkernels.optim.projected._by_matrix", lambda basis, g: False)
    run(optim.ProjectedOptimizer(batched, "adamw", BASES["galore"], refresh_every=2), batched, 4)
    for p, q in zip(one_by_one, batched, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rule", [rules._fused_adam, rules._foreach_adam], ids=["fused", "foreach"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_both_forms_of_adams_rule_are_adam(rule, dtype):
    theirs = matrices(dtype)
    optimizer = torch.optim.Adam(theirs, lr=1.0, betas=(0.8, 0.9), eps=1e-3, foreach=False)
    start = [p.detach().clone() for p in theirs]
    moved = [torch.zeros_like(p) for p in start]
    moments = [[torch.zeros_like(p) for p in start] for _ in range(2)]
    for step in range(4):
        set_gradients(theirs, step)
        gradients = [p.grad.clone() for p in theirs]
        torch._foreach_sub_(moved, rule(gradients, *moments, step + 1, (0.8, 0.9), 1e-3))
        optimizer.step()
        assert all(torch.equal(a, p.grad) for a, p in zip(gradients, theirs, strict=True))
    for p, w, d in zip(theirs, start, moved, strict=True):
        torch.testing.assert_close(p - w, d)


# --- Fira ---


def test_fira_with_plain_steps_is_gradient_descent():
    """‖N(R)‖/‖R‖ = 1, so that the two terms add up to G."""
    g = torch.randn(6, 20)
    moved, _ = stepped(optim.Fira(2), gradients=g)
    torch.testing.assert_close(moved, g, rtol=1e-4, atol=1e-5)
    tall, _ = stepped(optim.Fira(2), gradients=g.T.contiguous(), shape=(20, 6))
    torch.testing.assert_close(tall, g.T, rtol=1e-4, atol=1e-5)


def test_firas_equation_and_its_limit():
    gradients = torch.randn(4, 6, 20) * torch.tensor([1.0, 4.0, 0.5, 3.0])[:, None, None]
    p = torch.nn.Parameter(torch.zeros(6, 20))
    optimizer = optim.ProjectedOptimizer([p], "adamw", optim.Fira(2, limit=1.05), lr=1.0, refresh_every=100)
    mean, square, before = torch.zeros(2, 20), torch.zeros(2, 20), None
    limited = []
    for t, g in enumerate(gradients, 1):
        p.grad, start = g, p.detach().clone()
        optimizer.step()
        basis = optimizer.state[p]["basis_projection"]
        r = basis.T @ g
        mean, square = 0.9 * mean + 0.1 * r, 0.999 * square + 0.001 * r * r
        n = mean / (1 - 0.9**t) / ((square / (1 - 0.999**t)).sqrt() + 1e-8)
        residual = (g - basis @ r) * (n.norm(dim=0) / r.norm(dim=0))
        if before is not None and residual.norm() > 1.05 * before:
            residual = residual * 1.05 * before / residual.norm()
            limited.append(t)
        before = residual.norm()
        torch.testing.assert_close(start - p.detach(), basis @ n + residual, rtol=1e-3, atol=1e-4)
    assert limited and len(limited) < 3


# --- Flora ---


def test_flora_is_right_on_average():
    g = torch.randn(5, 8)
    mean = sum(stepped(optim.Flora(3, seed=seed), gradients=g, shape=(5, 8))[0] for seed in range(600)) / 600
    error = (mean - g).norm() / g.norm()
    one = (stepped(optim.Flora(3), gradients=g, shape=(5, 8))[0] - g).norm() / g.norm()
    assert error < 0.12 and one > 0.5  # √(rows/rank/600) is 0.05


def test_floras_sketch_is_that_of_its_seed():
    g = torch.randn(6, 20)
    moved, state = stepped(optim.Flora(3, seed=11), gradients=g, steps=3, refresh_every=2)
    assert state["refreshed"].item() == 2
    steps = []
    for seed in (11, 11, 13):
        omega = reference.sketch_matrix(6, 3, seed=seed).float()
        steps.append(omega @ (omega.T @ g))
    torch.testing.assert_close(moved, sum(steps), rtol=1e-4, atol=1e-5)


def test_floras_momentum_moves_to_the_next_sketch():
    gradients = torch.randn(3, 6, 20)
    _, state = stepped(optim.Flora(3), gradients=gradients, steps=3, refresh_every=2, momentum=0.5)
    old, new = (reference.sketch_matrix(6, 3, seed=seed).float() for seed in (0, 2))
    momentum = 0.5 * old.T @ gradients[0] + old.T @ gradients[1]
    expected = 0.5 * new.T @ (old @ momentum) + new.T @ gradients[2]
    torch.testing.assert_close(state["momentum_buffer"], expected, rtol=1e-4, atol=1e-5)


# --- DCT ---


@pytest.mark.parametrize("shape", [(6, 20), (20, 6)], ids=str)
def test_dct_takes_the_columns_with_the_most_energy(shape):
    g = torch.randn(shape)
    moved, state = stepped(optim.DCT(3), gradients=g, shape=shape)
    wide = g if shape[0] < shape[1] else g.T
    energy = (dct_matrix(6).T @ wide).square().sum(1)
    left_out = energy.sort().values[:3].sum()
    torch.testing.assert_close((g - moved).square().sum(), left_out, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(energy[state["basis_columns"]].sum(), energy.sum() - left_out)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("rows", [1, 2, 7, 96, 300])
def test_dcts_matrix_has_the_precision_that_is_asked_for(rows, dtype):
    """Beside the formula in float64."""
    columns = torch.stack([torch.randperm(rows)[: (rows + 1) // 2] for _ in range(3)])
    found = optim.DCT(rows).matrix_as({"columns": columns}, rows, dtype)
    i, f = torch.arange(rows, dtype=torch.float64)[:, None], columns.double().unsqueeze(1)
    expected = torch.cos(math.pi * (2 * i + 1) * f / (2 * rows)) * (1 + (f != 0).double()).sqrt() / rows**0.5
    assert found.dtype == dtype and found.shape == (3, rows, (rows + 1) // 2)
    assert (found.double() - expected).abs().max() < 1e3 * torch.finfo(torch.float64).eps + torch.finfo(dtype).eps


def test_dct_steps_of_float64_are_float64s():
    g = torch.randn(6, 20, dtype=torch.float64)
    moved, _ = stepped(optim.DCT(FULL), gradients=g)
    torch.testing.assert_close(moved, g, rtol=1e-13, atol=1e-13)


# --- a basis of one's own ---


@dataclass(frozen=True)
class LargestRows(optim.MatrixBasis):
    rank: int

    def initial(self, matrix):
        return {"rows": torch.arange(self.size(matrix.shape[0]), device=matrix.device)}

    def refresh(self, state, g, step):
        return {"rows": g.square().sum(-1).topk(self.size(g.shape[-2])).indices}

    def matrix(self, state, rows):
        return torch.nn.functional.one_hot(state["rows"], rows).mT


def test_a_basis_in_a_few_lines():
    g = torch.randn(6, 20)
    moved, state = stepped(LargestRows(2), gradients=g)
    chosen = g.norm(dim=1).topk(2).indices
    torch.testing.assert_close(state["basis_rows"], chosen)
    expected = torch.zeros_like(g)
    expected[chosen] = g[chosen]
    torch.testing.assert_close(moved, expected)
    parameters = matrices()
    run(optim.ProjectedOptimizer(parameters, "adamw", LargestRows(2), refresh_every=2), parameters, 5)
    assert all((p - w).norm() > 1e-3 for p, w in zip(parameters, matrices(), strict=True))


def test_scale_is_of_the_matrices():
    g = torch.randn(6, 20)
    one, _ = stepped(optim.GaLore(3), gradients=g)
    quarter, _ = stepped(optim.GaLore(3), gradients=g, scale=0.25)
    torch.testing.assert_close(quarter, 0.25 * one)


def test_groups_may_have_bases_of_their_own():
    parameters = matrices()
    optimizer = optim.ProjectedOptimizer(
        [{"params": parameters[:3], "basis": optim.DCT(2)}, {"params": parameters[3:]}], "sgd", optim.GaLore(3)
    )
    run(optimizer, parameters, 2)
    assert [group["basis"] for group in optimizer.param_groups] == ["DCT(rank=2)", "GaLore(rank=3, warm=False)"]
    assert "basis_columns" in optimizer.state[parameters[0]] and "basis_projection" in optimizer.state[parameters[3]]
    assert all(optimizer.state[p]["momentum_buffer"].shape[0] == 2 for p in parameters[:3])
    assert len(SHAPES) == len(optimizer.state)
