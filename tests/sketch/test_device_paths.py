"""Shapes at which the sketch family's CUDA kernels take one path or another, against the plain twins in float64."""

import numpy as np
import pytest
import torch

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


PATHS = [
    ("polar", (100, 128), "newton_schulz_sm80_shared"),
    ("polar", (129, 129), "newton_schulz_sm80_products"),
    ("polar", (8, 100000), "newton_schulz_sm80_products"),
    ("spectral_norm_bound", (4000, 90), "spectral_norm_bound_sm80_shared"),
    ("spectral_norm_bound", (130, 4000), "spectral_norm_bound_sm80_products"),
    ("orthonormalize", (500, 30), "orthonormalize_sm80_cholesky_qr"),
]


@pytest.mark.parametrize(("op", "shape", "kernel"), PATHS)
def test_plans(device, op, shape, kernel):
    if device.backend == "cpu":
        pytest.skip("the paths are those of the CUDA kernels")
    plans = lrkernels.explain(op, torch.zeros(shape, device=device.device))
    assert plans[0].kernel == kernel and plans[0].reason and not plans[0].hardware_verified
    assert all(rejected["reason"] for rejected in plans[0].rejected)
