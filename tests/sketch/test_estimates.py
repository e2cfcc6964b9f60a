"""power_iteration and rsvd_error: values by NumPy, bounds, gradients, warm starts, refusals."""

import numpy as np
import pytest
import torch
from spectra import matrix, noise

import lrkernels


def norm(a):
    return np.linalg.svd(a.detach().double().numpy(), compute_uv=False)[0]


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.bfloat16, torch.float16), ids=str)
@pytest.mark.parametrize("iters", (0, 1, 8))
def test_it_never_exceeds_the_norm(dtype, iters):
    rounding = 1e-14 if dtype == torch.float64 else 1e-6
    for seed in range(100):
        a = noise(1 + seed % 9, 1 + seed % 7, seed).to(dtype)
        sigma, u, v = lrkernels.power_iteration(a, iters=iters, seed=seed)
        assert sigma <= norm(a) * (1 + rounding) and sigma >= 0
        wide = a.to(v.dtype)
        np.testing.assert_allclose(sigma, (wide @ v).norm(), rtol=10 * rounding)
        np.testing.assert_allclose([u.norm(), v.norm()], 1.0, rtol=10 * rounding)


def test_it_converges_to_the_leading_triplet():
    a = matrix(30, 20, lambda i, n: 0.5**i)
    errors = []
    for iters in (4, 5, 6, 12):
        sigma, u, v = lrkernels.power_iteration(a, iters=iters)
        errors.append(1 - sigma.item())
    assert errors[1] < errors[0] / 10 and errors[2] < errors[1] / 10 and abs(errors[3]) < 1e-12
    torch.testing.assert_close(a @ v, sigma * u)
    torch.testing.assert_close(a.mT @ u, sigma * v, atol=1e-4, rtol=0)


def test_the_vector_of_the_step_before_follows_a_weight_that_moves():
    a, v = noise(40, 30), None
    for step in range(60):
        a = a + 1e-3 * noise(40, 30, step + 1)
        sigma, _, v = lrkernels.power_iteration(a, v, iters=1)
    cold = lrkernels.power_iteration(a, iters=1)[0]
    assert abs(sigma - norm(a)) < 0.02 * norm(a) < norm(a) - cold


def test_batches_zeros_and_empty_matrices():
    stack = torch.stack([noise(6, 5, seed) for seed in range(3)])[:, None]
    sigma, u, v = lrkernels.power_iteration(stack, iters=3)
    assert sigma.shape == (3, 1) and u.shape == (3, 1, 6) and v.shape == (3, 1, 5)
    for i in range(3):
        one = lrkernels.power_iteration(stack[i, 0], iters=3)
        torch.testing.assert_close([sigma[i, 0], u[i, 0], v[i, 0]], list(one))
    again = lrkernels.power_iteration(stack, v, iters=30)[0]
    np.testing.assert_allclose(again[:, 0], [norm(a) for a in stack[:, 0]], rtol=1e-3)
    for shape in ((3, 4), (0, 4), (3, 0), (2, 0, 0)):
        sigma, u, v = lrkernels.power_iteration(torch.zeros(shape))
        assert (sigma == 0).all() and u.isfinite().all() and v.isfinite().all()
    assert lrkernels.power_iteration(torch.full((3, 4), float("nan")))[0].isnan()


def test_the_gradient_is_that_of_the_norm():
    a = matrix(9, 7, lambda i, n: 0.5**i).requires_grad_()
    sigma, u, v = lrkernels.power_iteration(a, iters=40)
    assert not u.requires_grad and not v.requires_grad
    (gradient,) = torch.autograd.grad(sigma, a)
    torch.testing.assert_close(gradient, torch.outer(u, v))
    expected = torch.autograd.grad(torch.linalg.matrix_norm(a, 2), a)[0]
    torch.testing.assert_close(gradient, expected)
    half = a.detach().bfloat16().requires_grad_()
    lrkernels.power_iteration(half)[0].backward()
    assert half.grad.dtype == torch.bfloat16 and half.grad.any()


def test_it_compiles_whole():
    a, v = noise(12, 8).float(), torch.randn(8)
    compiled = torch.compile(lrkernels.power_iteration, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(a, v, iters=2), lrkernels.power_iteration(a, v, iters=2))


# --- rsvd_error ---


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.bfloat16), ids=str)
@pytest.mark.parametrize("decay", (lambda i, n: 0.8**i, lambda i, n: 0.3**i, lambda i, n: 1.0 + 0 * i))
def test_the_error_of_a_basis_and_of_a_decomposition(dtype, decay):
    a = matrix(60, 50, decay).to(dtype)
    u, s, v = lrkernels.rsvd(a, 12)
    exact, basis = a.double(), lrkernels.range_finder(a, 12)
    for q, difference in (
        (u, exact - (u.double() * s) @ v.double().mT),
        (basis, exact - basis.double() @ (basis.double().mT @ exact)),
    ):
        error = lrkernels.rsvd_error(a, q)
        assert error.dtype == torch.float64
        allowed = 1e-7 if dtype == torch.float64 else 1e-6  # of S and V, in float32
        np.testing.assert_allclose(error, difference.norm(), rtol=1e-4, atol=allowed * exact.norm())


def test_the_error_holds_for_any_factor_and_any_width():
    a, q = noise(20, 2500), noise(20, 6)
    np.testing.assert_allclose(lrkernels.rsvd_error(a, q), (a - q @ (q.mT @ a)).norm(), rtol=1e-12)
    q = torch.linalg.qr(q)[0]
    np.testing.assert_allclose(
        lrkernels.rsvd_error(a, q).square(), a.square().sum() - (q.mT @ a).square().sum(), rtol=1e-12
    )
    stack = torch.stack([a, 2 * a])
    torch.testing.assert_close(lrkernels.rsvd_error(stack, q.expand(2, -1, -1))[1], 2 * lrkernels.rsvd_error(a, q))
    torch.testing.assert_close(lrkernels.rsvd_error(a, torch.zeros(20, 0)), a.norm())
    assert lrkernels.rsvd_error(a, torch.eye(20)) < 1e-7 * a.norm()
    assert lrkernels.rsvd_error(torch.zeros(4, 0), torch.zeros(4, 2)) == 0


@pytest.mark.parametrize("scale", (2.0**-100, 1.0, 2.0**100))
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.bfloat16), ids=str)
def test_the_error_of_a_thousand_matrices_at_any_scale(dtype, scale):
    generator = np.random.default_rng(3)
    for rows, cols in ((9, 7), (4, 16), (12, 12)):
        a = torch.from_numpy(generator.standard_normal((350, rows, cols)) * scale).to(dtype)
        q = torch.from_numpy(np.linalg.qr(generator.standard_normal((350, rows, 3)))[0]).to(
            torch.promote_types(dtype, torch.float32)
        )
        exact, basis = a.double().numpy() / scale, q.double().numpy()
        expected = np.linalg.norm(exact - basis @ (basis.swapaxes(1, 2) @ exact), axis=(1, 2))
        np.testing.assert_allclose(lrkernels.rsvd_error(a, q).numpy() / scale, expected, rtol=1e-12)


A = torch.ones(6, 4)


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "error", "message"),
    [
        ("power_iteration", (A[0],), {}, ValueError, r"weight has shape \(4,\), expected \(..., rows, cols\)"),
        ("power_iteration", (A.int(),), {}, TypeError, "weight has dtype torch.int32"),
        ("power_iteration", (A, A[:, 0]), {}, ValueError, r"v0 has shape \(6,\), expected \(4,\)"),
        ("power_iteration", (A,), {"iters": -1}, ValueError, "iters is -1, expected at least 0"),
        ("power_iteration", (A,), {"iters": 1.0}, TypeError, "iters is a float, expected an int"),
        ("rsvd_error", (A, A[:4]), {}, ValueError, r"q has shape \(4, 4\), expected a's but for the columns"),
        ("rsvd_error", (A, None), {}, TypeError, "q is a NoneType, expected a torch.Tensor"),
    ],
)
def test_wrong_arguments(function, args, kwargs, error, message):
    with pytest.raises(error, match=f"{function}: {message}"):
        getattr(lrkernels, function)(*args, **kwargs)


def test_power_iteration_keeps_its_dtype_under_autocast():
    weight = torch.randn(50, 40, requires_grad=True)
    expected = lrkernels.power_iteration(weight, iters=3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = lrkernels.power_iteration(weight, iters=3)
    for ours, plain in zip(found, expected, strict=True):
        assert ours.dtype == torch.float32 and torch.equal(ours, plain)
