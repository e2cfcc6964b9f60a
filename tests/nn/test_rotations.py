"""What each rotation is known for: Neumann's error, COFT's bound, reach, rank, kept angles, penalties; schedules."""

import math
import warnings

import dense_rotations as dense
import pytest
import torch
import torch.nn.functional as F
from rotation_cases import CASES
from torch import nn

from lrkernels import givens_apply
from lrkernels.nn import BOFTLinear, GOFTLinear, HouseholderLinear, OFTLinear, givens_schedule, project_after_steps
from lrkernels.nn.rotations import BlockRotation, ButterflyRotation, HouseholderRotation, QuasiTreeRotation
from lrkernels.nn.rotations.oft import neumann_error


def gram(weight):
    return weight @ weight.T


# --- OFT ---


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.orthogonal and name != "BOFT"])
def test_merged_rows_keep_their_lengths_and_angles(name):
    layer = CASES[name].layer()
    assert not torch.allclose(layer.weight, layer.base_layer.weight)
    torch.testing.assert_close(gram(layer.weight), gram(layer.base_layer.weight))


@pytest.mark.parametrize("method", ["exact", "neumann"])
def test_rotating_the_input_is_rotating_the_weight(method):
    rotation = BlockRotation(12, 4, method=method, dtype=torch.float64)
    nn.init.normal_(rotation.skew, std=0.3)
    weight, x = torch.randn(10, 12, dtype=torch.float64), torch.randn(5, 12, dtype=torch.float64)
    torch.testing.assert_close(F.linear(rotation(x), weight), F.linear(x, rotation.transposed(weight)))


@pytest.mark.parametrize("terms", range(1, 12))
@pytest.mark.parametrize("theta", [0.1, 0.5, 0.9, 1.0, 1.05, 1.3, 2.5])
def test_neumann_error_is_that_of_the_series(terms, theta):
    """Of Q = [[0, θ'], [−θ', 0]], whose eigenvalues are ±iθ', for all θ' up to theta."""
    turn = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
    q, identity = torch.linspace(0, theta, 201, dtype=torch.float64)[:, None, None] * turn, torch.eye(2).double()
    r, power = identity.expand_as(q), q
    if terms == 2:
        r = r + 2 * q
    elif terms > 2:
        for _ in range(max(terms, 4) - 2):
            r, power = r + 2 * power, power @ q
        r = r + power
    worst = torch.linalg.matrix_norm(r.mT @ r - identity, 2).max()
    bound = neumann_error(torch.tensor(theta, dtype=torch.float64), terms)
    assert worst - 1e-12 <= bound <= worst * 1.001 + 1e-12


def test_neumann_error_falls_geometrically_with_the_terms():
    skew = 0.05 * torch.randn(1, 28, dtype=torch.float64)
    theta = torch.linalg.matrix_norm(dense.skew(skew[0], 8), 2)
    exact = BlockRotation(8, 8, dtype=torch.float64)
    errors = []
    for terms in (4, 5, 6, 7):
        series = BlockRotation(8, 8, method="neumann", terms=terms, dtype=torch.float64)
        with torch.no_grad():
            exact.skew.copy_(skew), series.skew.copy_(skew)
        difference = torch.linalg.matrix_norm(series.matrix() - exact.matrix(), 2)
        torch.testing.assert_close(difference, theta ** (terms - 1))  # R_t − R = −R·Qᵗ⁻¹
        errors.append(difference)
    assert errors[-1] < 0.2 * errors[0]


def test_the_neumann_bound_holds_and_warns_above_three_tenths():
    layer = OFTLinear(nn.Linear(64, 16), block_size=8, method="neumann")
    nn.init.normal_(layer.rotation.skew, std=0.02)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small = layer.orthogonality_error()
        layer.merge()
        layer.unmerge()
    assert 0 < small <= layer.rotation.neumann_error_bound() + 1e-6 < 0.3
    nn.init.normal_(layer.rotation.skew, std=0.25)
    bound = layer.rotation.neumann_error_bound()
    assert bound > 0.3
    for ask in (layer.orthogonality_error, layer.merge):
        with pytest.warns(UserWarning, match="OFT: the Neumann series of 5 terms is far from orthogonal"):
            ask()
    assert layer.rotation.orthogonality_error() <= bound + 1e-6
    layer.rotation.method = "exact"
    assert layer.rotation.neumann_error_bound() == 0 and layer.orthogonality_error() < 5e-6


@pytest.mark.parametrize("share", [False, True])
def test_coft_stays_within_its_bound(share):
    rotation = BlockRotation(12, 4, coft_eps=0.3, block_share=share, dtype=torch.float64)
    rows = 1 if share else 3
    bound = 0.3 / math.sqrt(rows)
    nn.init.normal_(rotation.skew)
    with torch.no_grad():
        rotation.skew[0] *= 1e-3  # inside the bound
        raw = [dense.skew(row, 4) for row in rotation.skew]
        norms = [float(q.norm()) for q in raw]
    assert norms[0] < bound and (share or min(norms[1:]) > bound)
    scaled = torch.stack([row if n <= bound else row * bound / n for row, n in zip(rotation.skew, norms, strict=True)])
    expected = dense.block_diagonal(scaled.detach(), 4, 12)
    torch.testing.assert_close(rotation.matrix(), expected)
    x, cotangent = torch.randn(5, 12, dtype=torch.float64), torch.randn(5, 12, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(rotation(x), rotation.skew, cotangent)
    rotation.project_()
    torch.testing.assert_close(rotation.skew.detach(), scaled.detach())
    once = rotation.skew.detach().clone()
    rotation.project_()
    assert torch.equal(rotation.skew, once)
    torch.testing.assert_close(rotation.matrix(), expected)
    (projected,) = torch.autograd.grad(rotation(x), rotation.skew, cotangent)
    torch.testing.assert_close(gradient, projected)  # the gradient is the one at the projection
    plain = once.clone().requires_grad_()
    (exact,) = torch.autograd.grad(x @ dense.block_diagonal(plain, 4, 12), plain, cotangent)
    torch.testing.assert_close(projected, exact)


def test_coft_projects_after_every_step():
    model = nn.Sequential(OFTLinear(nn.Linear(12, 12), 4, coft_eps=0.05), OFTLinear(nn.Linear(12, 12), 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=10.0)
    handle = project_after_steps(optimizer, model)
    for _ in range(3):
        model(torch.randn(8, 12)).square().sum().backward()
        optimizer.step()
        norms = [[float(dense.skew(row, 4).norm()) for row in m.rotation.skew.detach()] for m in model]
        assert max(norms[0]) <= 0.05 / math.sqrt(3) * (1 + 1e-5) and max(norms[1]) > 0.1
    handle.remove()
    nn.init.ones_(model[0].rotation.skew)
    optimizer.step()
    assert model[0].rotation.skew.max() > 0.5
    with pytest.raises(ValueError, match="project_after_steps: the model has no OFT rotation with coft_eps"):
        project_after_steps(optimizer, nn.Linear(4, 4))


def test_the_cayley_map_cannot_reach_minus_one_and_givens_can():
    rotation = BlockRotation(2, 2, dtype=torch.float64)
    nn.init.constant_(rotation.skew, 1e3)
    assert rotation.matrix()[0, 0] > -1
    layer = CASES["Givens"].layer(2, 2)
    nn.init.constant_(layer.rotation.angles, math.pi)
    torch.testing.assert_close(layer.rotation.matrix(), -torch.eye(2, dtype=torch.float64))


# --- BOFT ---


@pytest.mark.parametrize(("features", "block", "factors"), [(16, 2, 4), (24, 6, 3), (8, 8, 1), (48, 4, 3)])
def test_butterfly_factors_against_dense_permutations_and_their_reach(features, block, factors):
    rotation = ButterflyRotation(features, block, factors, dtype=torch.float64)
    nn.init.normal_(rotation.skew, std=0.5)
    r = rotation.matrix()
    torch.testing.assert_close(r, dense.butterfly(rotation.skew, block, features))
    connected = (r.abs() > 1e-12).sum(dim=1)
    assert (connected == min(features, block * 2 ** (factors - 1))).all()


def test_boft_scales_outputs_and_leaves_the_bias():
    layer = BOFTLinear(nn.Linear(8, 3, dtype=torch.float64), 2, 2)
    with torch.no_grad():
        layer.scale.copy_(torch.tensor([0.0, 1.0, 2.0]))
    x = torch.randn(5, 8, dtype=torch.float64)
    torch.testing.assert_close(layer(x), layer.scale * F.linear(x, layer.base_layer.weight) + layer.bias)


# --- HRA ---


def test_hra_starts_with_pairs_that_cancel_and_stays_low_rank():
    layer = HouseholderLinear(nn.Linear(12, 10, dtype=torch.float64), r=4)
    v = layer.rotation.vectors
    assert torch.equal(v[0], v[1]) and torch.equal(v[2], v[3]) and not torch.equal(v[0], v[2])
    torch.testing.assert_close(layer.rotation.matrix(), torch.eye(12, dtype=torch.float64))
    layer(torch.randn(5, 12, dtype=torch.float64)).square().sum().backward()
    assert v.grad.any() and not torch.allclose(v.grad[0], v.grad[1]), "the pairs come apart"
    nn.init.normal_(v)
    singular = torch.linalg.svdvals(layer.weight - layer.base_layer.weight)
    assert (singular > 1e-10).sum() == 4


def test_the_length_of_a_reflection_vector_does_not_matter():
    rotation = HouseholderRotation(12, 2, dtype=torch.float64)
    nn.init.normal_(rotation.vectors)
    before = rotation.matrix()
    with torch.no_grad():
        rotation.vectors[0] *= 1e-200
    torch.testing.assert_close(rotation.matrix(), before)


# --- GOFT, schedules ---


@pytest.mark.parametrize("features", [1, 2, 3, 7, 8, 13, 16, 100])
def test_butterfly_strides_connect_everything(features):
    strides = givens_schedule.butterfly(features)
    assert len(strides) == math.ceil(math.log2(features))
    angles = torch.full((len(strides), features // 2), 0.5, dtype=torch.float64)
    reach = givens_apply(torch.eye(features, dtype=torch.float64), angles, strides)
    if features & (features - 1) == 0:
        assert (reach != 0).all()
    else:  # the last feature of an odd size rests in some rounds, but the first reaches all
        assert (reach[0] != 0).all()


@pytest.mark.parametrize("features", [1, 2, 3, 7, 8, 13, 16, 100])
def test_the_tree_takes_any_vector_to_the_first_axis(features):
    x = torch.randn(features, dtype=torch.float64)
    strides = givens_schedule.butterfly(features)
    angles = givens_schedule.angles_to_first(x)
    assert angles.shape == (len(strides), features // 2) and int((angles != 0).sum()) == features - 1
    expected = torch.zeros(features, dtype=torch.float64)
    expected[0] = x.norm() if features > 1 else x[0]
    torch.testing.assert_close(givens_apply(x, angles, strides), expected)
    values = givens_schedule.tree_to_first(x)
    assert torch.equal(givens_schedule.tree(values, features), angles)
    blocks = torch.stack([dense.turn(a) for a in values]) if features > 1 else torch.zeros(0, 2, 2).double()
    torch.testing.assert_close(x @ dense.tree(blocks), expected)


def test_the_tree_handles_zeros_and_half_precision():
    x = torch.zeros(8)
    assert not givens_schedule.tree_to_first(x).any()
    x[5] = -2.0
    angles = givens_schedule.angles_to_first(x.bfloat16())
    assert angles.dtype == torch.float32
    first = torch.zeros(8)
    first[0] = 2.0
    torch.testing.assert_close(givens_apply(x, angles, givens_schedule.butterfly(8)), first)


def test_schedules_refuse():
    with pytest.raises(ValueError, match="givens_schedule.butterfly: features is 0"):
        givens_schedule.butterfly(0)
    with pytest.raises(ValueError, match=r"givens_schedule.tree: angles has shape \(8,\), expected \(7,\)"):
        givens_schedule.tree(torch.zeros(8), 8)
    with pytest.raises(ValueError, match=r"givens_schedule.tree_to_first: x has shape \(2, 8\), expected"):
        givens_schedule.tree_to_first(torch.zeros(2, 8))


@pytest.mark.parametrize("features", [13, 16])
def test_goft_turns_a_row_of_the_weight_to_the_first_axis(features):
    linear = nn.Linear(features, 4, dtype=torch.float64)
    layer = GOFTLinear(linear)
    assert layer.rotation.angles.numel() == features - 1
    with torch.no_grad():
        layer.rotation.angles.copy_(givens_schedule.tree_to_first(linear.weight[2]))
    expected = torch.zeros(features, dtype=torch.float64)
    expected[0] = linear.weight[2].norm()
    torch.testing.assert_close(layer.weight[2], expected)
    assert layer.orthogonality_error() < 1e-14


@pytest.mark.parametrize("features", [1, 2, 13, 16])
def test_qgoft_of_rotations_is_goft(features):
    strict, quasi = (CASES[name].layer(features, 3) for name in ("GOFT", "qGOFT"))
    with torch.no_grad():
        if features > 1:
            quasi.rotation.matrices.copy_(torch.stack([dense.turn(a) for a in strict.rotation.angles]))
    x = torch.randn(5, features, dtype=torch.float64)
    for call in ("forward", "transposed", "inverse"):
        torch.testing.assert_close(getattr(quasi.rotation, call)(x), getattr(strict.rotation, call)(x))
    torch.testing.assert_close(quasi.rotation.penalty(), torch.zeros((), dtype=torch.float64))


def test_the_qgoft_penalty_leaves_lengths_free():
    rotation = QuasiTreeRotation(3, dtype=torch.float64)
    with torch.no_grad():
        rotation.matrices[0] = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    assert rotation.penalty() == 0 and rotation.orthogonality_error() > 1
    with torch.no_grad():
        rotation.matrices[1] = torch.tensor([[1.0, 2.0], [3.0, 4.0]])  # ⟨(1, 3), (2, 4)⟩ = 14
    assert rotation.penalty() == 14.0**2
