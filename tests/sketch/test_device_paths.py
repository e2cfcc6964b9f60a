"""Shapes at which the sketch family's CUDA kernels take one path or another, against the plain twins in float64."""

import numpy as np
import pytest
import torch
from spectra import SPECTRA, matrix, orthogonality_error

import lrkernels
from lrkernels import reference

POLAR_SHAPES = ((1, 1), (1, 9), (7, 1), (3, 40, 30), (64, 64), (2, 65, 90), (33, 150), (128, 100), (2, 140, 130))
STEPS = (
    {},
    {"method": "cubic", "steps": 2},
    {"steps": 0},
    {"steps": 2, "coefficients": [2.0, -1.5, 0.5, 1.5, -0.5, 0.0]},
)
ROUNDING = {torch.float32: 3e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}


@pytest.mark.parametrize("shape", POLAR_SHAPES, ids=str)
def test_newton_schulz(device, shape):
    """One launch for a stack of small matrices, products of the library for larger ones; any strides."""
    for dtype, kwargs in zip((torch.float32, torch.bfloat16, torch.float16, torch.float32), STEPS, strict=True):
        a = torch.randn(shape).to(dtype)
        for given in (a, a.mT.contiguous().mT):
            ours = lrkernels.polar(given.to(device.device), **kwargs)
            exact = reference.polar(a.double(), **kwargs)
            assert ours.dtype == dtype and ours.is_contiguous()
            torch.testing.assert_close(ours.cpu().double(), exact, rtol=ROUNDING[dtype], atol=ROUNDING[dtype])


@pytest.mark.parametrize("shape", ((6, 5), (140, 150)), ids=str)
def test_newton_schulz_at_any_scale(device, shape):
    a = torch.randn(shape)
    expected = reference.polar(a.double())
    for scale in (1e-35, 1e36):
        ours = lrkernels.polar((a * scale).to(device.device)).cpu().double()
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)
    assert not lrkernels.polar(torch.zeros(shape, device=device.device)).any()
    for bad in (torch.inf, torch.nan):
        a[1, 2] = bad
        assert not lrkernels.polar(a.to(device.device)).isfinite().any()


@pytest.mark.parametrize("iters", (0, 1, 6))
@pytest.mark.parametrize("shape", ((90, 70), (3, 20, 40), (300, 5), (1, 1), (130, 140)), ids=str)
def test_norm_bound(device, shape, iters):
    for exponent in (0,) if shape[0] > 100 else (-30, 0, 30):
        weight = torch.randn(shape) * 10.0**exponent
        bound = lrkernels.spectral_norm_bound(weight.to(device.device), iters=iters).cpu().double().numpy()
        norm = np.linalg.svd(weight.double().numpy(), compute_uv=False)[..., 0]
        assert (norm <= bound).all()
        most = min(shape[-2:]) ** (2.0 ** -(iters + 2)) * (1 + 1e-6)
        assert (bound <= norm * most).all()


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("shape", ((26, 18), (18, 26), (21, 21), (40, 1)), ids=str)
def test_whole_decompositions(device, shape, spectrum):
    a = matrix(*shape, SPECTRA[spectrum]).float()
    u, s, v = (factor.cpu() for factor in lrkernels.rsvd(a.to(device.device), min(shape)))
    assert max(orthogonality_error(u), orthogonality_error(v)) < 3e-6
    product = (u.double() * s.double()) @ v.double().mT
    assert torch.linalg.matrix_norm(product - a.double()) <= 3e-6 * a.double().norm()
    exact = np.linalg.svd(a.double().numpy(), compute_uv=False)
    np.testing.assert_allclose(s.double(), exact, rtol=0, atol=3e-6 * exact[0])
    assert (s.diff() <= 0).all() and (u.gather(0, u.abs().argmax(0, keepdim=True)) > 0).all()


@pytest.mark.parametrize("shape", ((20, 12), (12, 20), (2, 15, 15), (33, 1)), ids=str)
def test_exact_polar_factor(device, shape):
    for dtype, rounding in ((torch.float32, 1e-5), (torch.bfloat16, 2**-8)):
        a = torch.randn(shape).to(dtype)
        ours = lrkernels.polar(a.to(device.device), method="exact").cpu()
        u, _, vh = np.linalg.svd(a.double().numpy(), full_matrices=False)
        np.testing.assert_allclose(ours.double(), u @ vh, rtol=0, atol=rounding)
    zero = lrkernels.polar(torch.zeros(shape, device=device.device), method="exact")
    assert orthogonality_error(zero if shape[-2] >= shape[-1] else zero.mT) < 1e-5


def test_stacks_are_their_matrices(device):
    """One set of launches for all, whose matrices may lie anywhere."""
    a = torch.randn(4, 9, 6)
    for given in (a[:2], a.mT[::3]):
        matrices = [m.to(device.device) for m in given]
        for op in (
            lambda m: lrkernels.rsvd(m, 3),
            lambda m: (lrkernels.range_finder(m, 3),),
            lrkernels.orthonormalize,
            lambda m: (lrkernels.polar(m),),
            lambda m: (lrkernels.polar(m, method="exact"),),
            lambda m: (lrkernels.spectral_norm_bound(m),),
        ):
            for together, alone in zip(op(given.to(device.device)), zip(*map(op, matrices), strict=True), strict=True):
                torch.testing.assert_close(together, torch.stack(alone), rtol=0, atol=2e-5)


def test_a_warm_start(device):
    a = matrix(60, 50, lambda i, n: 0.8**i).float()
    exact = np.linalg.svd(a.double().numpy())[0][:, :6]
    near = (torch.from_numpy(exact) + 0.02 * torch.randn(60, 6)).float().to(device.device)
    for oversample in (0, 4):
        arguments = {"oversample": oversample, "power_iters": 0}
        bases = [lrkernels.range_finder(a.to(device.device), 6, q, **arguments).cpu().double() for q in (None, near)]
        cosines = [np.linalg.svd(exact.T @ q.numpy(), compute_uv=False).min() for q in bases]
        assert cosines[1] > 0.999 > cosines[0]
        assert all(orthogonality_error(q) < 1e-6 and q.shape[1] == 6 + oversample for q in bases)


@pytest.mark.parametrize("cols", (64, 100), ids=("gaussian start", "sparse start"))
def test_matrices_as_large_as_their_norm_allows(device, cols):
    """A product with a random start may be larger than the norm, which is what float32 has to hold."""
    a = torch.full((1, cols), 2.5e38 / cols**0.5, device=device.device)
    for seed in range(12):
        _, s, v = lrkernels.rsvd(a, 1, seed=seed)
        torch.testing.assert_close(s.cpu(), torch.tensor([2.5e38]), rtol=1e-5, atol=0)
        assert orthogonality_error(v.cpu()) < 1e-5
        assert lrkernels.range_finder(a, 1, power_iters=0, seed=seed).abs().item() == pytest.approx(1)


def test_what_lies_below_the_diagonal_of_r_is_zero(device):
    a = torch.randn(7, 5)
    for poison in (0.0, torch.nan):
        a[2, 3] = poison
        r = lrkernels.orthonormalize(a.to(device.device))[1]
        assert not r.tril(-1).any() and r.triu().isnan().any() == (poison != 0)


def test_small_batches_are_their_matrices(device):
    """Side by side on the CPU, whatever the number of threads is."""
    a = matrix(40, 30, lambda i, n: 0.7**i).float() @ torch.randn(9, 30, 30)
    ops = (lambda m: lrkernels.rsvd(m, 4), lambda m: (lrkernels.range_finder(m, 4),), lrkernels.orthonormalize)
    for op in ops:
        together = op(a.to(device.device))
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            again = op(a.to(device.device))
        finally:
            torch.set_num_threads(threads)
        alone = zip(*(op(m.to(device.device)) for m in a), strict=True)
        for ours, same, matrices in zip(together, again, alone, strict=True):
            assert torch.equal(ours, same)
            torch.testing.assert_close(ours, torch.stack(matrices), rtol=0, atol=1e-4)
    bad = a.clone()
    bad[4, 2, 3] = torch.inf
    s = lrkernels.rsvd(bad.to(device.device), 4, check="nan")[1]
    assert s[4].isnan().all() and s[[0, 1, 2, 3, 5, 6, 7, 8]].isfinite().all()


def test_nobody_asks_the_device_whether_numbers_are_finite(device):
    if device.backend == "cpu":
        pytest.skip("the CPU raises")
    a = torch.randn(2, 12, 7)
    a[1, 3, 2] = torch.nan
    for factor in lrkernels.rsvd(a.to(device.device), 2):
        assert factor[0].isfinite().all() and factor[1].isnan().all()


PATHS = [
    ("polar", (100, 128), "newton_schulz_sm80_shared"),
    ("polar", (129, 129), "newton_schulz_sm80_products"),
    ("polar", (8, 100000), "newton_schulz_sm80_products"),
    ("spectral_norm_bound", (4000, 90), "spectral_norm_bound_sm80_shared"),
    ("spectral_norm_bound", (130, 4000), "spectral_norm_bound_sm80_products"),
    ("orthonormalize", (500, 30), "orthonormalize_sm80_cholesky_qr"),
    ("rsvd", (500, 300), "rsvd_sm80_jacobi"),
    ("range_finder", (500, 300), "range_finder_sm80"),
    ("sketch", (500, 300), "sketch_rademacher_sm80_32x64"),
]


def test_plans_and_traces_of_the_cpu():
    wide, narrow = torch.randn(300, 200), torch.randn(300, 60)
    for op, sizes in (("orthonormalize", ()), ("range_finder", (8,)), ("rsvd", (8,)), ("polar", ())):
        assert lrkernels.explain(op, wide, *sizes)[0].workspace_bytes > 0
    for op in ("range_finder", "rsvd"):
        assert "sparse" in lrkernels.explain(op, wide, 8)[0].reason
        assert "Gaussian" in lrkernels.explain(op, narrow, 8)[0].reason
    with lrkernels.trace() as kernels:
        lrkernels.rsvd(wide, 8)
    assert "library_eigh" in kernels


@pytest.mark.parametrize(("op", "shape", "kernel"), PATHS)
def test_plans(device, op, shape, kernel):
    if device.backend == "cpu":
        pytest.skip("the paths are those of the CUDA kernels")
    sizes = (8,) if op in ("rsvd", "range_finder", "sketch") else ()
    plans = lrkernels.explain(op, torch.zeros(shape, device=device.device), *sizes)
    assert plans[0].kernel == kernel and plans[0].reason and not plans[0].hardware_verified
    assert all(rejected["reason"] for rejected in plans[0].rejected)
