"""What the sketch family's kernels promise: orthogonality, distance to the optimum, a bound that is one. By NumPy."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from spectra import SPECTRA, best_error, matrix, noise, orthogonality_error
from test_sketch_reference import adversaries

import lrkernels

pytestmark = pytest.mark.filterwarnings("ignore:lrkernels has no (CUDA|float64) kernel")

DECAYS = {
    "exponential": lambda i, n: 0.97**i,
    "polynomial": lambda i, n: 1 / (1 + i),
    "steep": lambda i, n: 0.5**i,
}


def approximation_error(a, u, s, v):
    return torch.linalg.matrix_norm(a - (u.double() * s.double()) @ v.double().mT).item()


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.bfloat16), ids=str)
@pytest.mark.parametrize("decay", (*DECAYS, "flat"))
@pytest.mark.parametrize("rank", (4, 32))
def test_rsvd_is_nearly_optimal(device, decay, dtype, rank):
    """1.02 times the best error where singular values decay, 1.03 where they do not."""
    if device.backend == "cuda_emulated" and rank == 32 and dtype == torch.bfloat16:
        pytest.skip("takes seconds in the emulator, and float32 has been through it")
    a = noise(400, 300) if decay == "flat" else matrix(400, 300, DECAYS[decay])
    a = a.to(dtype)
    u, s, v = (factor.cpu() for factor in lrkernels.rsvd(a.to(device.device), rank))
    assert max(orthogonality_error(u), orthogonality_error(v)) < 1e-6
    rounding = 0 if dtype == torch.float64 else 1e-6 * a.double().norm()
    allowed = 1.03 if decay == "flat" else 1.02
    assert approximation_error(a.double(), u, s, v) <= allowed * best_error(a, rank) + rounding


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("shape", ((90, 60), (60, 90), (70, 70), (300, 20)), ids=str)
def test_full_rank_is_the_whole_decomposition(shape, spectrum):
    for dtype, rounding in ((torch.float32, 3e-6), (torch.float64, 1e-13)):
        a = matrix(*shape, SPECTRA[spectrum]).to(dtype)
        u, s, v = lrkernels.rsvd(a, min(shape))
        assert max(orthogonality_error(u), orthogonality_error(v)) < rounding
        assert approximation_error(a.double(), u, s, v) <= rounding * a.double().norm()
        exact = np.linalg.svd(a.double().numpy(), compute_uv=False)
        np.testing.assert_allclose(s.double(), exact, rtol=0, atol=rounding * exact[0])
        assert (s.diff() <= 0).all() and (u.gather(0, u.abs().argmax(0, keepdim=True)) > 0).all()


def test_no_direction_is_lost_where_there_are_none_to_spare():
    a = torch.randn(200, 100, generator=torch.Generator().manual_seed(0))
    for seed in (0, 63, 82, 129):  # of sparse signs three of these have an empty column
        for power_iters in (0, 1):
            u, s, v = lrkernels.rsvd(a, 100, seed=seed, power_iters=power_iters)
            assert approximation_error(a.double(), u, s, v) <= 1e-5 * a.double().norm()


@pytest.mark.parametrize("scale", (1e-36, 1e-33, 1e-30, 1e30), ids=str)
@pytest.mark.parametrize("rank", (3, 100))
def test_every_scale_of_float32(scale, rank):
    generator = torch.Generator().manual_seed(1)
    a = torch.randn(300, rank, generator=generator) @ torch.randn(rank, 120, generator=generator) * scale
    u, s, v = lrkernels.rsvd(a, 3 if rank == 3 else 30)
    expected = np.linalg.svd(a.double().numpy(), compute_uv=False)[: s.numel()]
    assert max(orthogonality_error(u), orthogonality_error(v)) < 1e-5
    np.testing.assert_allclose(s.double(), expected, rtol=2e-5 if rank == 3 else 0.1)
    q = lrkernels.range_finder(a, 10)
    assert orthogonality_error(q) < 1e-5


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
@pytest.mark.parametrize("condition", (1.0, 1e3, 1e6, 1e9, 1e12, 1e30))
@pytest.mark.parametrize("shape", ((700, 40), (45, 40), (40, 40), (64, 1), (30, 50)), ids=str)
def test_orthonormalize(device, shape, condition, dtype):
    values = np.logspace(0, -np.log10(condition), min(shape))
    a = matrix(*shape, values).to(dtype)
    q, r = (factor.cpu() for factor in lrkernels.orthonormalize(a.to(device.device)))
    rounding = 1e-6 if dtype == torch.float32 else 1e-14
    assert orthogonality_error(q) < rounding * 10
    assert torch.linalg.matrix_norm(q.double() @ r.double() - a.double()) <= 10 * rounding * a.double().norm()
    assert (r.tril(-1) == 0).all() and (r.diagonal() >= 0).all()


def awkward(name):
    generator = torch.Generator().manual_seed(3)
    a = torch.randn(500, 24, generator=generator)
    return {
        "zero": torch.zeros(500, 24),
        "a zero column": torch.where(torch.arange(24) == 5, 0, a),
        "equal columns": a[:, :3].repeat(1, 8),
        "ones": torch.ones(500, 24),
        "scales": a * 10.0 ** torch.linspace(-36, 36, 24),
        "tiny": a * 1e-36,
        "huge": a * 1e36,
        "Läuchli": torch.cat([torch.ones(1, 24), 1e-7 * torch.eye(24), torch.zeros(475, 24)]),
        "one row": torch.eye(500, 24) * 0 + torch.nn.functional.pad(a[:1], (0, 0, 0, 499)),
    }[name]


AWKWARD = ("zero", "a zero column", "equal columns", "ones", "scales", "tiny", "huge", "Läuchli", "one row")


@pytest.mark.parametrize("name", AWKWARD)
def test_any_rank_and_any_scale(device, name):
    for a in (awkward(name), awkward(name)[:30], awkward(name)[:24], awkward(name)[:10]):
        q, r = (factor.cpu() for factor in lrkernels.orthonormalize(a.to(device.device)))
        assert orthogonality_error(q) < 1e-5
        # Column by column: a small column next to a large one keeps its digits.
        errors = (q.double() @ r.double() - a.double()).norm(dim=0)
        assert (errors <= 3e-6 * a.double().norm(dim=0)).all(), errors
        for rank in (1, 7):
            u, s, v = (factor.cpu() for factor in lrkernels.rsvd(a.to(device.device), rank))
            assert max(orthogonality_error(u), orthogonality_error(v)) < 1e-5
            assert s.isfinite().all() and (s >= 0).all()


@pytest.mark.parametrize("shape", ((60, 40), (40, 60), (50, 50), (33, 1)), ids=str)
def test_exact_polar_factor(shape):
    for dtype, rounding in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        a = matrix(*shape, lambda i, n: 0.8**i).to(dtype)
        q = lrkernels.polar(a, method="exact")
        tall = q if shape[0] >= shape[1] else q.mT
        assert orthogonality_error(tall) < rounding
        h = q.double().mT @ a.double() if shape[0] >= shape[1] else a.double() @ q.double().mT
        assert (h - h.mT).abs().max() < rounding and np.linalg.eigvalsh(h.numpy()).min() > -rounding


def test_the_cubic_iteration_converges():
    a = matrix(40, 30, lambda i, n: 0.9**i).float()
    q = lrkernels.polar(a, method="cubic", steps=40)
    assert orthogonality_error(q) < 1e-5
    torch.testing.assert_close(q, lrkernels.polar(a, method="exact"), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
def test_the_bound_is_never_below_the_norm(device, dtype):
    for a in adversaries(4000 if device.backend == "cpu" else 400):
        weight = torch.from_numpy(np.ascontiguousarray(a)).to(dtype)
        largest = float(weight.abs().max())
        if largest == 0:
            continue
        norm = np.linalg.svd(weight.double().numpy() / largest, compute_uv=False)[0]
        bound = torch.ops.lrk.spectral_norm_bound(weight.to(device.device), iters=6).double().item() / largest
        assert norm * (1 - 1e-14) <= bound <= norm * min(a.shape) ** 2.0**-8 * (1 + 1e-6), a.shape


# Powers of two, so that nothing but the dtype rounds.
SCALES = {
    torch.float32: (2.0**-100, 1.0, 2.0**100),
    torch.float64: (2.0**-1000, 2.0**-100, 1.0, 2.0**100, 2.0**1000),
    torch.bfloat16: (2.0**-100, 1.0, 2.0**100),
    torch.float16: (2.0**-12, 1.0, 2.0**10),
}


@pytest.mark.parametrize(("dtype", "scale"), [(d, s) for d, scales in SCALES.items() for s in scales], ids=str)
def test_the_bound_of_ten_thousand_random_matrices(device, dtype, scale):
    """In stacks: Gaussian ones, and of rank one, where rounding alone lifts the bound above the norm."""
    generator, count = np.random.default_rng(2), 2000 if device.backend == "cpu" else 100
    for rows, cols, rank in ((8, 8, 8), (6, 6, 1), (3, 20, 1), (12, 5, 5), (1, 6, 1)):
        factors = [generator.standard_normal((count, *shape)) for shape in ((rows, rank), (rank, cols))]
        a = torch.from_numpy((factors[0] @ factors[1]) * scale).to(dtype)
        norms = np.linalg.svd(a.double().numpy() / scale, compute_uv=False)[:, 0]
        bounds = lrkernels.spectral_norm_bound(a.to(device.device)).cpu().double().numpy() / scale
        assert bounds.shape == (count,) and (bounds >= norms * (1 - 1e-14)).all()
        above = 2.0**-7 if dtype == torch.bfloat16 else 2.0**-10 if dtype == torch.float16 else 1e-6
        assert (bounds <= norms * min(rows, cols) ** 2.0**-8 * (1 + above)).all()


@pytest.mark.parametrize("iters", (0, 1, 6, 12))
def test_the_bound_of_larger_matrices(iters):
    for seed in range(20):
        a = noise(90, 70, seed).float() * 10.0 ** (3 * seed - 30)
        norm = np.linalg.svd(a.double().numpy(), compute_uv=False)[0]
        assert (
            norm
            <= lrkernels.spectral_norm_bound(a, iters=iters).item()
            <= norm * 70 ** (2.0 ** -(iters + 2)) * (1 + 1e-6)
        )


def test_a_warm_start_follows_a_subspace():
    a = matrix(200, 150, lambda i, n: 0.9**i).float()
    exact = np.linalg.svd(a.double().numpy())[0][:, :8]
    basis = torch.from_numpy(exact).float()
    perturbed = basis + 0.02 * torch.randn(basis.shape)
    cold, warm = (lrkernels.range_finder(a, 8, q, oversample=0, power_iters=0) for q in (None, perturbed))
    cosines = [np.linalg.svd(exact.T @ q.double().numpy(), compute_uv=False).min() for q in (cold, warm)]
    assert cosines[1] > 0.999 > cosines[0]


def test_more_power_steps_are_better():
    a = matrix(200, 200, lambda i, n: 1 / (1 + i) ** 0.5)
    errors = [approximation_error(a, *lrkernels.rsvd(a, 10, power_iters=q, oversample=4)) for q in (0, 1, 2)]
    assert errors[0] > errors[1] > errors[2] >= best_error(a, 10)


def hidden_dependence(rows, distance):
    """Two columns that nearly coincide, before one that needs what they differ by."""
    q = torch.linalg.qr(torch.randn(rows, 3, dtype=torch.float64))[0]
    return torch.stack([q[:, 0], q[:, 0] + distance * q[:, 1], q[:, 1] + q[:, 2]], 1)


def chain(rows, cols):
    """Columns of length 1 that each lean on the one before: pivots of 0.26, a condition number of 1.7^cols."""
    q = torch.linalg.qr(torch.randn(rows, cols, dtype=torch.float64))[0]
    return torch.cat([q[:, :1], 0.86 * q[:, :-1] + 0.51 * q[:, 1:]], 1)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
@pytest.mark.parametrize("rows", (30, 500))
@pytest.mark.parametrize("name", ("1e-3", "1e-5", "1e-8", "1e-10", "1e-14", "chain"))
def test_orthonormalize_solves_rather_than_inverts(device, name, rows, dtype):
    a = (chain(rows, 28) if name == "chain" else hidden_dependence(rows, float(name))).to(dtype)
    q, r = (factor.cpu() for factor in lrkernels.orthonormalize(a.to(device.device)))
    rounding = torch.finfo(dtype).eps
    assert orthogonality_error(q) <= 40 * rounding
    assert torch.linalg.matrix_norm(q.double() @ r.double() - a.double()) <= 40 * rounding * a.double().norm()


@pytest.mark.parametrize("bad", (np.inf, -np.inf, np.nan))
@pytest.mark.parametrize("shape", ((100, 1), (100, 4), (6, 4), (4, 9)), ids=str)
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.bfloat16), ids=str)
def test_nan_and_inf_are_passed_on(device, dtype, shape, bad):
    if device.backend != "cpu" and dtype == torch.float64:
        pytest.skip("float64 has no CUDA kernels, and LAPACK refuses NaN")
    a = torch.randn(shape).to(dtype)
    a[1, 0] = bad
    a = a.to(device.device)
    for results in (
        lrkernels.orthonormalize(a),
        [lrkernels.polar(a)],
        [lrkernels.polar(a, method="exact")],
        [lrkernels.range_finder(a, 1)],
        lrkernels.rsvd(a, 1, check="ignore"),
        [lrkernels.spectral_norm_bound(a)],
    ):
        assert not any(result.isfinite().all() for result in results)


@pytest.mark.parametrize("scale", (1e-25, 1e-12, 1e10, 1e20))
def test_gradients_do_not_depend_on_scale(scale):
    """That of A_k is the same, that of U and V is divided by the scale."""
    a, grad = torch.randn(9, 7), torch.randn(9, 7)
    gu, gv = torch.randn(9, 2), torch.randn(7, 2)

    def gradients(a):
        a = a.clone().requires_grad_()
        (of_product,) = torch.autograd.grad(lrkernels.low_rank_approx(a, 2), a, grad)
        u, _, v = lrkernels.rsvd(a, 2, broadening=1e-3)
        return of_product, torch.autograd.grad((u, v), a, (gu, gv))[0]

    expected, scaled = gradients(a), gradients(a * scale)
    torch.testing.assert_close(scaled[0], expected[0], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(scaled[1].double() * scale, expected[1].double(), rtol=1e-3, atol=1e-3)


def test_a_short_column_has_its_gradient():
    a = torch.randn(20000, 2) * torch.tensor([1.0, 0.01])
    grads = torch.randn(20000, 2), torch.randn(2, 2)

    def gradient(a):
        a = a.clone().requires_grad_()
        return torch.autograd.grad(lrkernels.orthonormalize(a), a, [g.to(a.dtype) for g in grads])[0]

    exact = gradient(a.double())
    assert exact[:, 1].norm() > 1
    torch.testing.assert_close(gradient(a).double(), exact, rtol=1e-3, atol=1e-3 * exact.abs().max().item())


def test_the_bound_at_zero_and_among_subnormal_numbers():
    weight = torch.zeros(3, 4, 4).index_fill_(0, torch.tensor([1]), 1.0).requires_grad_()
    bound = lrkernels.spectral_norm_bound(weight)
    assert (bound[[0, 2]] == 0).all()
    assert torch.autograd.grad(bound.sum(), weight)[0].isfinite().all()
    least = 5e-324
    for count in (2, 3, 10):  # sqrt(count) times the least, which rounds down
        assert lrkernels.spectral_norm_bound(torch.full((1, count), least, dtype=torch.float64)) >= 2 * least


def test_the_bound_of_integers_is_one():
    """‖u·vᵀ‖² = ‖u‖²‖v‖² is an integer here, and so is compared exactly."""
    for _ in range(200):
        u, v = (np.random.randint(-50, 51, size) for size in np.random.randint(1, 9, 2))
        square = int((u * u).sum()) * int((v * v).sum())
        for dtype in (torch.float32, torch.float64):
            bound = lrkernels.spectral_norm_bound(torch.as_tensor(np.outer(u, v)).to(dtype)).item()
            assert Fraction(bound) ** 2 >= square


def test_nothing_of_rank_zero_has_a_gradient():
    a = torch.randn(5, 4, requires_grad=True)
    u, s, v = lrkernels.rsvd(a, 0, broadening=1e-3)
    assert (torch.autograd.grad(u.sum() + s.sum() + v.sum(), a)[0] == 0).all()
