"""The plain-torch twins of the orthogonal ops against NumPy in float64 and, where others have them, their formulas."""

import numpy as np
import pytest
import torch
from fresh_process import run

from lrkernels import reference


def givens_matrix(features, angles, strides):
    """The product of the rounds as a matrix M, y = M·x, from one plane rotation after the other."""
    whole = np.eye(features)
    for angle, stride in zip(angles, strides, strict=True):
        pairs = [i for i in range(features) if (i // stride) % 2 == 0 and i + stride < features]
        for pair, i in enumerate(pairs):
            plane, j = np.eye(features), i + stride
            plane[i, i] = plane[j, j] = np.cos(angle[pair])
            plane[i, j], plane[j, i] = -np.sin(angle[pair]), np.sin(angle[pair])
            whole = plane @ whole
    return whole


@pytest.mark.parametrize(
    ("features", "strides"),
    [(8, (1, 2, 4)), (7, (1, 2, 4)), (12, (3, 1, 5, 6)), (5, (4, 4)), (6, (6, 9)), (1, (1,)), (10, ())],
)
def test_givens(features, strides):
    x = torch.randn(3, 2, features, dtype=torch.float64)
    angles = torch.randn(len(strides), features // 2, dtype=torch.float64)
    matrix = givens_matrix(features, angles.numpy(), strides)
    y = reference.givens_apply(x, angles, strides)
    np.testing.assert_allclose(y.numpy(), x.numpy() @ matrix.T, atol=1e-13)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(features), atol=1e-13)
    back = reference.givens_apply(y, angles, strides, inverse=True)
    np.testing.assert_allclose(back.numpy(), x.numpy(), atol=1e-13)


def test_givens_gradients():
    angles = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    x = torch.randn(2, 9, dtype=torch.float64, requires_grad=True)
    for inverse in (False, True):
        apply = lambda x, angles: reference.givens_apply(x, angles, (1, 3, 4), inverse=inverse)  # noqa: B023, E731
        assert torch.autograd.gradcheck(apply, (x, angles)) and torch.autograd.gradgradcheck(apply, (x, angles))


def skew(block, values):
    q = np.zeros((block, block))
    q[np.triu_indices(block, 1)] = values
    return q - q.T


@pytest.mark.parametrize("block", (1, 2, 3, 8))
def test_cayley_exact(block):
    values = torch.randn(3, block * (block - 1) // 2, dtype=torch.float64) * 2
    r = reference.cayley(values, block).numpy()
    for index, row in enumerate(values.numpy()):
        q, identity = skew(block, row), np.eye(block)
        np.testing.assert_allclose(r[index], (identity + q) @ np.linalg.inv(identity - q), atol=1e-12)
        np.testing.assert_allclose(r[index] @ r[index].T, identity, atol=1e-12)


@pytest.mark.parametrize("terms", (1, 2, 3, 4, 5, 7))
def test_cayley_neumann(terms):
    values = torch.randn(2, 6, dtype=torch.float64)
    r = reference.cayley(values, 4, method="neumann", terms=terms).numpy()
    counted = 4 if terms == 3 else terms
    for index, row in enumerate(values.numpy()):
        q = skew(4, row)
        powers = [np.linalg.matrix_power(q, k) for k in range(counted)]
        # (I + Q) times the geometric series up to Q^(t-2); of two terms PEFT has I + 2Q instead.
        series = np.eye(4) + 2 * q if terms == 2 else (np.eye(4) + q) @ sum(powers[:-1]) if terms > 2 else np.eye(4)
        np.testing.assert_allclose(r[index], series, atol=1e-12)


@pytest.mark.parametrize("neumann", (False, True))
def test_cayley_is_pefts(neumann):
    layer = pytest.importorskip("peft.tuners.oft.layer")
    values = torch.randn(3, 28, dtype=torch.float64) / 10
    module = layer.OFTRotationModule(3, 28, 8, 24, use_cayley_neumann=neumann, num_cayley_neumann_terms=5)
    theirs = module._cayley_batch(values, 8, neumann, 5)
    ours = reference.cayley(values, 8, method="neumann" if neumann else "exact")
    torch.testing.assert_close(ours, theirs if neumann else theirs.mT)  # their exact map is the inverse rotation


@pytest.mark.parametrize("shared", (False, True))
def test_block_diagonal(shared):
    x, blocks = torch.randn(5, 3, 12, dtype=torch.float64), torch.randn(1 if shared else 3, 4, 4, dtype=torch.float64)
    whole = np.zeros((12, 12))
    for index in range(3):
        whole[4 * index : 4 * index + 4, 4 * index : 4 * index + 4] = blocks[0 if shared else index].numpy()
    for transpose, matrix in ((False, whole), (True, whole.T)):
        y = reference.block_diagonal_apply(x, blocks, transpose=transpose)
        np.testing.assert_allclose(y.numpy(), x.numpy() @ matrix, atol=1e-13)


def test_householder():
    vectors, x = torch.randn(4, 7, dtype=torch.float64), torch.randn(2, 3, 7, dtype=torch.float64)
    vectors[2] = 0
    vectors[1] *= 1e-200  # its square is zero
    whole = np.eye(7)
    for v in vectors.numpy():
        if v.any():
            unit = v / np.abs(v).max()
            unit = unit / np.linalg.norm(unit)
            whole = whole @ (np.eye(7) - 2 * np.outer(unit, unit))
    np.testing.assert_allclose(reference.householder_apply(x, vectors).numpy(), x.numpy() @ whole, atol=1e-13)
    y = reference.householder_apply(x, vectors, transpose=True)
    np.testing.assert_allclose(y.numpy(), x.numpy() @ whole.T, atol=1e-13)


def test_householder_gradients():
    vectors = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    x = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(reference.householder_apply, (x, vectors))
    with torch.no_grad():
        vectors[1] = 0
    x_grad, v_grad = torch.autograd.grad(reference.householder_apply(x, vectors).square().sum(), (x, vectors))
    assert x_grad.isfinite().all() and v_grad.isfinite().all() and not v_grad[1].any()


@pytest.mark.parametrize("of_result", (False, True))
@pytest.mark.parametrize("transpose", (False, True))
def test_householder_backward(transpose, of_result):
    vectors = torch.randn(5, 6, dtype=torch.float64)
    vectors[1], vectors[3] = vectors[1] * 1e-170, 0
    vectors.requires_grad_()
    x = torch.randn(3, 2, 6, dtype=torch.float64, requires_grad=True)
    y = reference.householder_apply(x, vectors, transpose=transpose)
    grad = torch.randn_like(y)
    ours = reference.householder_backward(
        grad, (y if of_result else x).detach(), vectors.detach(), transpose=transpose, of_result=of_result
    )
    for mine, automatic in zip(ours, torch.autograd.grad(y, (x, vectors), grad), strict=True):
        torch.testing.assert_close(mine, automatic)
    assert not ours[1][3].any() and ours[1][1].abs().max() > 1e160


@pytest.mark.parametrize("shape", ((6, 4), (4, 6), (5, 5), (1, 1), (7, 1)))
def test_cayley_rectangular(shape):
    weight = torch.randn(shape, dtype=torch.float64) * 3
    q = reference.cayley_rectangular(weight)
    assert q.shape == shape
    tall, source = (q, weight) if shape[0] >= shape[1] else (q.mT, weight.mT)
    cols = tall.shape[1]
    torch.testing.assert_close(tall.mT @ tall, torch.eye(cols, dtype=torch.float64))
    u, v = source[:cols].numpy(), source[cols:].numpy()
    a, identity = u - u.T + v.T @ v, np.eye(cols)
    np.testing.assert_allclose(tall[:cols].numpy(), np.linalg.solve(identity + a, identity - a), atol=1e-12)
    np.testing.assert_allclose(tall[cols:].numpy(), -2 * v @ np.linalg.inv(identity + a), atol=1e-12)


@pytest.mark.parametrize("shape", ((6, 4), (2, 4, 6), (3, 5, 5), (7, 1), (3, 0), (0, 3, 2)))
def test_cayley_rectangular_backward(shape):
    weight = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    q, inverse = reference.cayley_rectangular_saving(weight)
    grad = torch.randn(shape, dtype=torch.float64)
    (automatic,) = torch.autograd.grad(q, weight, grad)
    torch.testing.assert_close(reference.cayley_rectangular_backward(grad, weight.detach(), inverse), automatic)


def test_cayley_rectangular_of_a_square_is_torchs_parametrization():
    layer = torch.nn.utils.parametrizations.orthogonal(
        torch.nn.Linear(6, 6, bias=False, dtype=torch.float64), orthogonal_map="cayley", use_trivialization=False
    )
    with torch.no_grad():
        layer.parametrizations.weight.original.normal_()
    lower = layer.parametrizations.weight.original.detach().tril()
    # theirs is (I - A/2)⁻¹(I + A/2) with A = L - Lᵀ
    torch.testing.assert_close(reference.cayley_rectangular(-lower / 2), layer.weight.detach())


# --- A vector is one row.


@pytest.mark.parametrize("inverse", (False, True))
def test_givens_backward_of_a_vector(inverse):
    grad, y, angles = (torch.randn(shape, dtype=torch.float64) for shape in ((8,), (8,), (3, 4)))
    scalars = {"strides": (1, 2, 4), "inverse": inverse}
    dx, dangles = reference.givens_backward(grad, y, angles, **scalars)
    rows, expected = reference.givens_backward(grad[None], y[None], angles, **scalars)
    assert dx.shape == (8,) and dangles.abs().min() > 0
    torch.testing.assert_close(dx, rows[0])
    torch.testing.assert_close(dangles, expected)


@pytest.mark.parametrize("of_result", (False, True))
@pytest.mark.parametrize("transpose", (False, True))
def test_householder_backward_of_a_vector(transpose, of_result):
    grad, y, vectors = (torch.randn(shape, dtype=torch.float64) for shape in ((8,), (8,), (3, 8)))
    scalars = {"transpose": transpose, "of_result": of_result}
    dx, dvectors = reference.householder_backward(grad, y, vectors, **scalars)
    rows, expected = reference.householder_backward(grad[None], y[None], vectors, **scalars)
    assert dx.shape == (8,) and dvectors.abs().max() > 0
    torch.testing.assert_close(dx, rows[0])
    torch.testing.assert_close(dvectors, expected)


OF_A_VECTOR = """
import torch, lrkernels
torch.manual_seed(0)
cases = {
    "givens": (lambda x, angles: lrkernels.givens_apply(x, angles, (1, 2, 4)), (3, 4)),
    "householder": (lrkernels.householder_apply, (3, 8)),
    "blocks": (lrkernels.block_diagonal_apply, (2, 4, 4)),
}
for name, (apply, shape) in cases.items():
    x, factor = torch.randn(8, requires_grad=True), torch.randn(shape, requires_grad=True)
    one_row = apply(x[None], factor)[0]
    expected = torch.autograd.grad(one_row.sin().sum(), (x, factor))
    for run in (apply, torch.compile(apply, fullgraph=True)):
        y = run(x, factor)
        torch.testing.assert_close(y, one_row)
        torch.testing.assert_close(torch.autograd.grad(y.sin().sum(), (x, factor)), expected)
    print(name)
"""


@pytest.mark.parametrize("reference_only", ("0", "1"))
def test_a_vector_with_and_without_kernels(reference_only):
    result = run(OF_A_VECTOR, LRK_REFERENCE=reference_only)
    assert result.stdout.split() == ["givens", "householder", "blocks"], result.stderr
