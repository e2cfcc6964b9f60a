"""The plain-torch twins of the sketch family against NumPy in float64, known answers and finite differences."""

import numpy as np
import pytest
import torch
from sketch_matrices import MATRICES
from spectra import SPECTRA, best_error, matrix, orthogonality_error
from torch.autograd import gradcheck

from lrkernels import reference
from lrkernels.reference import philox_bits

KINDS = tuple(MATRICES)


def test_philox_known_answer():
    """The authors' own vector of philox4x32-10 (Random123, kat_vectors) that has neither key nor high counter words."""
    assert philox_bits(torch.tensor(0), 4).tolist() == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("features", "size"), ((5, 3), (70, 40), (33, 64), (8, 8), (1, 1), (7, 0), (0, 0)))
def test_sketch_matrix(kind, features, size):
    if kind in ("hadamard", "dct"):
        size = min(size, features)
    for seed in (0, 2**40 + 7, -3):
        ours = reference.sketch_matrix(features, size, kind=kind, seed=seed)
        expected = MATRICES[kind](features, size, seed) if features and size else np.zeros((features, size))
        exact = kind in ("rademacher", "sparse_sign", "hadamard")
        np.testing.assert_allclose(ours.numpy(), expected, rtol=0, atol=1e-16 if exact else 1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_an_embedding_keeps_lengths(kind):
    if kind == "dct":
        frame = reference.sketch_matrix(60, 20, kind=kind)
        np.testing.assert_allclose(frame.mT @ frame, np.eye(20), atol=1e-13)
        return
    mean = sum(reference.sketch_matrix(40, 24, kind=kind, seed=seed) @
               reference.sketch_matrix(40, 24, kind=kind, seed=seed).mT for seed in range(40)) / 40  # fmt: skip
    np.testing.assert_allclose(mean.diagonal(), np.ones(40), atol=0.2)
    np.testing.assert_allclose(mean - mean.diagonal().diag(), 0, atol=0.2)


def test_sparse_signs_have_eight_distinct_columns_everywhere():
    omega = reference.sketch_matrix(4000, 24, kind="sparse_sign", seed=5)
    assert ((omega != 0).sum(1) == 8).all()
    counts = (omega != 0).sum(0).double()
    assert (counts / 4000 - 8 / 24).abs().max() < 0.03  # four standard deviations


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dim", (-1, 0, 1))
def test_unsketch_is_the_adjoint(kind, dim):
    a = torch.randn(6, 12, 10, dtype=torch.float64)
    size = 5
    b = torch.randn(a.movedim(dim, -1)[..., :size].movedim(-1, dim).shape, dtype=torch.float64)
    forward = reference.sketch(a, size, kind=kind, seed=3, dim=dim)
    back = reference.unsketch(b, a.shape[dim], kind=kind, seed=3, dim=dim)
    assert forward.shape == b.shape and back.shape == a.shape
    torch.testing.assert_close((forward * b).sum(), (a * back).sum())


def test_dct_columns():
    features, kept = 64, torch.tensor([0, 3, 17, 40])
    frame = reference.sketch_matrix(features, 4, kept, kind="dct")
    a = torch.randn(9, 4, dtype=torch.float64) @ frame.mT
    assert torch.equal(reference.dct_columns(a, 4), kept)
    assert torch.equal(reference.dct_columns(a.mT, 4, dim=0), kept)
    torch.testing.assert_close(
        reference.unsketch(reference.sketch(a, 4, kept, kind="dct"), features, kept, kind="dct"), a
    )
    assert reference.dct_columns(torch.zeros(2, 6), 3).tolist() == [0, 1, 2]


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("shape", ((60, 40), (40, 60), (50, 50)), ids=str)
def test_rsvd(spectrum, shape):
    a = matrix(*shape, SPECTRA[spectrum])
    for rank in (0, 1, 10, min(shape)):
        u, s, v = reference.rsvd(a, rank)
        assert orthogonality_error(u) < 1e-13 and orthogonality_error(v) < 1e-13
        error = torch.linalg.matrix_norm(a - (u * s) @ v.mT).item()
        assert error <= 1.02 * best_error(a, rank) + 1e-13
        assert (s.diff() <= 0).all() and (u.gather(0, u.abs().argmax(0, keepdim=True)) >= 0).all() if rank else True


@pytest.mark.parametrize("shape", ((0, 4), (4, 0), (1, 7), (7, 1), (1, 1), (2, 0, 3), (0, 3, 4), (2, 3, 5, 4)), ids=str)
def test_shapes(shape):
    a = torch.randn(shape)
    size = min(shape[-2:])
    u, s, v = reference.rsvd(a, size)
    assert u.shape == (*shape[:-1], size) and s.shape == (*shape[:-2], size)
    assert v.shape == (*shape[:-2], shape[-1], size)
    torch.testing.assert_close((u * s.unsqueeze(-2)) @ v.mT, a)
    q, r = reference.orthonormalize(a)
    torch.testing.assert_close(q @ r, a)
    assert (r.diagonal(dim1=-2, dim2=-1) >= 0).all() and (r.tril(-1) == 0).all()
    assert reference.polar(a).shape == a.shape and reference.spectral_norm_bound(a).shape == shape[:-2]


def test_a_warm_start_is_one_power_step_better():
    a = matrix(80, 60, lambda i, n: 0.95**i)
    exact = np.linalg.svd(a.numpy())[0][:, :6]
    q0 = torch.from_numpy(exact + 0.01 * np.random.default_rng(0).standard_normal(exact.shape))
    cold, warm = (reference.range_finder(a, 6, q, oversample=0, power_iters=0) for q in (None, q0))
    angles = [np.linalg.svd(exact.T @ q.numpy(), compute_uv=False).min() for q in (cold, warm)]
    assert angles[1] > 0.999 > angles[0]


def test_what_is_not_finite():
    a = torch.randn(2, 6, 5)
    a[1, 2, 3] = torch.nan
    with pytest.raises(ValueError, match="a holds NaN or Inf"):
        reference.rsvd(a, 3)
    for output in reference.rsvd(a, 3, check="nan"):
        assert output[0].isfinite().all() and output[1].isnan().all()


@pytest.mark.parametrize("shape", ((9, 9), (9, 5), (5, 9), (2, 6, 4)), ids=str)
def test_polar(shape):
    a = torch.randn(shape, dtype=torch.float64)
    u, _, vh = np.linalg.svd(a.numpy(), full_matrices=False)
    np.testing.assert_allclose(reference.polar(a, method="exact"), u @ vh, atol=1e-12)
    np.testing.assert_allclose(reference.polar(a, method="cubic", steps=60), u @ vh, atol=1e-12)
    # Muon's iteration, a singular value at a time.
    values = np.linalg.svd(a.numpy(), compute_uv=False)
    values = values / np.sqrt((values**2).sum(-1, keepdims=True))
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    np.testing.assert_allclose(reference.polar(a), u * values[..., None, :] @ vh, atol=1e-11)
    twice = reference.polar(a, steps=2, coefficients=[1.5, -0.5, 0, 1.5, -0.5, 0])
    torch.testing.assert_close(twice, reference.polar(a, method="cubic", steps=2))
    assert not reference.polar(torch.zeros(3, 4)).any()


def adversaries(count):
    """Small matrices on which a bound that forgets a rounding would fall below the norm."""
    generator = np.random.default_rng(1)
    for _ in range(count):
        shape = generator.integers(1, 9, 2)
        rank = generator.integers(1, 9)
        a = generator.standard_normal((shape[0], rank)) @ generator.standard_normal((rank, shape[1]))
        yield a * 10.0 ** generator.uniform(-30, 30)
    for _ in range(count // 4):
        a = generator.standard_normal(generator.integers(1, 9, 2))
        yield a * 10.0 ** generator.uniform(-20, 20, (1, a.shape[1]))
    for size in range(1, 30):
        yield np.eye(size)
        yield np.ones((size, size)) / 3
        yield np.full((1, size), 1e-30)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
def test_the_bound_is_one(dtype):
    for a in adversaries(400):
        weight = torch.from_numpy(np.ascontiguousarray(a)).to(dtype)
        norm = np.linalg.svd(weight.double().numpy() / np.abs(a).max(), compute_uv=False)[0]
        for iters in (0, 3, 6):
            bound = reference.spectral_norm_bound(weight, iters=iters).double().item() / np.abs(a).max()
            # The singular value itself is right to a few roundings of float64.
            assert bound >= norm * (1 - 1e-14)
            assert bound <= norm * min(a.shape) ** (2.0 ** -(iters + 2)) * (1 + 1e-6), (a.shape, iters)


def test_the_bound_of_zero_is_zero():
    assert reference.spectral_norm_bound(torch.zeros(3, 4)) == 0


def test_power_iteration():
    a = matrix(30, 20, lambda i, n: 0.5**i)
    sigma, u, v = reference.power_iteration(a, iters=30)
    torch.testing.assert_close(sigma, torch.ones((), dtype=torch.float64))
    torch.testing.assert_close(a @ v, sigma * u)
    assert reference.power_iteration(torch.zeros(3, 4))[0] == 0


# --- Gradients against finite differences.


@pytest.mark.parametrize(("shape", "rank"), (((6, 4), 2), ((4, 6), 3), ((5, 5), 5), ((2, 5, 3), 1)), ids=str)
def test_gradients_of_the_truncated_decomposition(shape, rank):
    class Truncated(torch.autograd.Function):
        @staticmethod
        def forward(ctx, a):
            u, s, v = reference.rsvd(a, rank, oversample=20)
            ctx.save_for_backward(a, u, s, v)
            return (u * s.unsqueeze(-2)) @ v.mT, s, u @ u.mT, v @ v.mT

        @staticmethod
        def backward(ctx, grad_a, grad_s, grad_p, grad_r):
            a, u, s, v = ctx.saved_tensors
            through = reference.rsvd_backward(
                (grad_p + grad_p.mT) @ u, grad_s, (grad_r + grad_r.mT) @ v, a, u, s, v, broadening=1e-3
            )
            return reference.low_rank_approx_backward(grad_a, a, u, s, v) + through

    assert gradcheck(Truncated.apply, (torch.randn(shape, dtype=torch.float64, requires_grad=True),))


@pytest.mark.parametrize("name", ("zero", "identity", "repeated", "low rank"))
def test_no_gradient_is_nan(name):
    a = {
        "zero": torch.zeros(5, 4),
        "identity": torch.eye(5, 4),
        "repeated": matrix(5, 4, [2.0, 2.0, 1.0, 1.0]),
        "low rank": matrix(5, 4, [1.0, 0.0, 0.0, 0.0]),
    }[name].double()
    for rank in (1, 3):
        u, s, v = reference.rsvd(a, rank)
        grads = [torch.randn_like(t) for t in (u, s, v)]
        for broadening in (0.0, 1e-3):
            assert reference.rsvd_backward(*grads, a, u, s, v, broadening=broadening).isfinite().all()
        assert reference.low_rank_approx_backward(torch.randn_like(a), a, u, s, v).isfinite().all()
    q, r = reference.orthonormalize(a)
    assert reference.orthonormalize_backward(torch.randn_like(q), torch.randn_like(r), a, q, r).isfinite().all()
    assert reference.polar_exact_backward(torch.randn_like(a), a).isfinite().all()


@pytest.mark.parametrize("shape", ((5, 3), (4, 4), (3, 5), (2, 4, 2)), ids=str)
def test_gradients_of_the_factorisations(shape):
    class Orthonormalize(torch.autograd.Function):
        @staticmethod
        def forward(ctx, a):
            q, r = reference.orthonormalize(a)
            ctx.save_for_backward(a, q, r)
            return q, r

        @staticmethod
        def backward(ctx, grad_q, grad_r):
            return reference.orthonormalize_backward(grad_q, grad_r, *ctx.saved_tensors)

    class Polar(torch.autograd.Function):
        @staticmethod
        def forward(ctx, a):
            ctx.save_for_backward(a)
            return reference.polar(a, method="exact")

        @staticmethod
        def backward(ctx, grad):
            return reference.polar_exact_backward(grad, *ctx.saved_tensors)

    a = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    assert gradcheck(Orthonormalize.apply, (a,)) and gradcheck(Polar.apply, (a,))
    assert gradcheck(reference.polar, (a,)) and gradcheck(reference.spectral_norm_bound, (a,))
