"""cayley on every backend: values, orthogonality and gradients against float64 linear algebra, torch's machinery."""

import math

import numpy as np
import pytest
import torch
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.library import opcheck

import lrkernels
from lrkernels import reference, testing

op = torch.ops.lrk.cayley
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
METHODS = {"exact": ("exact", 5)} | {f"{n} terms": ("neumann", n) for n in (1, 2, 3, 4, 5, 8)}
BLOCKS = (1, 2, 3, 4, 5, 8, 15, 16, 17, 31, 32, 33, 48, 64)
WIDE_BLOCKS = (100, 128, 129, 256)


def skew_matrix(block, values):
    q = np.zeros((block, block))
    q[np.triu_indices(block, 1)] = values
    return q - q.T


def exact_cayley(skew, block, method="exact", terms=5):
    """Every block by NumPy in float64."""
    matrices, identity = [], np.eye(block)
    for row in skew.detach().cpu().double().numpy():
        q = skew_matrix(block, row)
        if method == "exact":
            matrices.append(np.linalg.solve((identity - q).T, (identity + q).T).T)
            continue
        terms = 4 if terms == 3 else terms
        factors = [1.0] + [2.0] * (terms - 1)
        if terms > 2:
            factors[-1] = 1.0
        matrices.append(sum(f * np.linalg.matrix_power(q, k) for k, f in enumerate(factors)))
    return np.stack(matrices) if matrices else np.zeros((0, block, block))


def make(device, dtype, count, block, norm=0.7):
    """Rows of skew whose matrices have about the spectral norm asked for."""
    skew = torch.randn(count, block * (block - 1) // 2, dtype=torch.float64)
    if block > 1:
        matrices = np.stack([skew_matrix(block, row) for row in skew.numpy()]) if count else np.zeros((0, 1, 1))
        skew *= norm / torch.as_tensor(np.linalg.norm(matrices, 2, (1, 2)))[:, None]
    return skew.to(dtype).to(device)


def tolerance(dtype, size=1.0):
    return {torch.float32: 2e-6, torch.float64: 1e-13, torch.bfloat16: 2**-8, torch.float16: 2**-10}[dtype] * size


def assert_near(ours, exact, dtype, what, slack=1.0):
    assert ours.dtype == dtype and ours.is_contiguous(), what
    exact = torch.as_tensor(np.asarray(exact))
    assert ours.shape == exact.shape, what
    largest = exact.abs().amax().item() if exact.numel() else 0.0
    atol = tolerance(dtype, slack * max(largest, 1.0))
    np.testing.assert_allclose(ours.detach().cpu().double().numpy(), exact.numpy(), rtol=0, atol=atol, err_msg=what)


def orthogonality_error(rotation):
    matrices = rotation.detach().cpu().double()
    return torch.linalg.matrix_norm(matrices.mT @ matrices - torch.eye(matrices.shape[-1]), 2).max().item()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("block", BLOCKS)
def test_values_and_gradients(device, block, method, dtype):
    name, terms = METHODS[method]
    skew = make(device.device, dtype, 3, block).requires_grad_()
    rotation = op(skew, block, method=name, terms=terms)
    assert_near(rotation, exact_cayley(skew, block, name, terms), dtype, "rotation")

    grad = torch.randn(rotation.shape, dtype=torch.float64).to(dtype)
    (dskew,) = torch.autograd.grad(rotation, skew, grad.to(device.device))
    wide = skew.detach().cpu().double().requires_grad_()
    plain = reference.cayley(wide, block, method=name, terms=terms) + 0 * wide.sum()  # one term is I, whatever Q is
    (expected,) = torch.autograd.grad(plain, wide, grad.double())
    assert_near(dskew, expected.numpy(), dtype, "dskew", 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("norm", [1, 100, 1000])
def test_gradient_of_half_skew_is_as_accurate_as_plain_torch(device, dtype, norm):
    """R + I is about 2 / |Q|: of a half R nothing would be left."""
    skew = make(device.device, torch.float32, 2, 32)
    spectral = torch.linalg.matrix_norm(reference.skew_matrices(skew.cpu(), 32), 2).amax().item()
    skew = (skew * (norm / spectral)).to(dtype).requires_grad_()
    grad = torch.randn(2, 32, 32, dtype=torch.float64)
    gradients = {}
    for name, function, leaf in (
        ("ours", op, skew),
        ("plain", reference.cayley, skew.detach().cpu().requires_grad_()),
        ("exact", reference.cayley, skew.detach().cpu().double().requires_grad_()),
    ):
        (found,) = torch.autograd.grad(function(leaf, 32), leaf, grad.to(leaf))
        gradients[name] = found.cpu().double()
    ours, plain = ((gradients[name] - gradients["exact"]).norm() for name in ("ours", "plain"))
    assert ours <= 1.5 * plain


def test_a_block_beyond_shared_memory(device):
    """Not even what the inverse works in fits into a block's shared memory (of sm_80, from 645 on)."""
    skew = make(device.device, torch.float32, 1, 660)
    assert_near(op(skew, 660), exact_cayley(skew, 660), torch.float32, "rotation")


@pytest.mark.parametrize("block", WIDE_BLOCKS)
def test_wide_blocks(device, block):
    skew = make(device.device, torch.float32, 1, block).requires_grad_()
    for method in ("exact", "neumann"):
        rotation = op(skew, block, method=method)
        assert_near(rotation, exact_cayley(skew, block, method), torch.float32, method)
        grad = torch.randn(rotation.shape)
        (dskew,) = torch.autograd.grad(rotation, skew, grad.to(device.device))
        wide = skew.detach().cpu().double().requires_grad_()
        plain = reference.cayley(wide, block, method=method)
        (expected,) = torch.autograd.grad(plain, wide, grad.double())
        assert_near(dskew, expected.numpy(), torch.float32, "dskew", 2)


@pytest.mark.parametrize("block", (2, 3, 8, 31, 32, 33, 65))
def test_orthogonal_at_every_norm(device, block):
    """And R is right, not only orthogonal: with odd blocks Q has an eigenvalue 0 beside those of any size."""
    for norm in (0.01, 0.5, 1, 10, 100, 1000, 1e4):
        skew = make(device.device, torch.float32, 2, block, norm)
        rotation = op(skew, block)
        assert orthogonality_error(rotation) <= 5e-6, norm
        assert_near(rotation, exact_cayley(skew, block), torch.float32, f"norm {norm}")


def test_widest_block_is_orthogonal(device):
    for norm in (0.01, 1000):
        assert orthogonality_error(op(make(device.device, torch.float32, 1, 255, norm), 255)) <= 5e-6


def test_float64_is_orthogonal_to_float64():
    for norm in (1, 1000):
        assert orthogonality_error(op(make("cpu", torch.float64, 2, 33, norm), 33)) < 1e-9


@pytest.mark.parametrize("theta", (0.1, 0.5, 0.9, 1.3))
def test_the_series_distance_from_a_rotation(device, theta):
    """Of five terms the singular values are |1 - theta^4|."""
    skew = make(device.device, torch.float32, 2, 2, theta)
    singular = torch.linalg.svdvals(op(skew, 2, method="neumann").cpu().double())
    np.testing.assert_allclose(singular, abs(1 - theta**4), atol=1e-5)


def test_of_nothing_is_the_identity(device):
    for method in ("exact", "neumann"):
        rotation = op(torch.zeros(4, 28, device=device.device), 8, method=method)
        assert torch.equal(rotation.cpu(), torch.eye(8).expand(4, 8, 8))


@pytest.mark.parametrize("method", ("exact", "neumann"))
@pytest.mark.parametrize("special", (math.nan, math.inf, -math.inf))
def test_what_is_not_finite_stays_in_its_block(device, method, special):
    skew = make(device.device, torch.float32, 3, 8)
    expected = op(skew, 8, method=method)
    skew[1, 3] = special
    rotation = op(skew, 8, method=method)
    assert torch.equal(rotation[[0, 2]], expected[[0, 2]])
    assert not rotation[1].isfinite().all()
    backward = torch.ops.lrk._cayley_backward(
        expected, rotation if method == "exact" else skew, block=8, method=method, terms=5
    )
    assert backward[[0, 2]].isfinite().all()


@pytest.mark.parametrize(("count", "block"), ((0, 4), (0, 1), (5, 1), (1, 2)))
def test_few_blocks(device, count, block):
    skew = make(device.device, torch.float32, count, block).requires_grad_()
    rotation = lrkernels.cayley(skew, block)
    assert rotation.shape == (count, block, block)
    (dskew,) = torch.autograd.grad(rotation.sum(), skew)
    assert dskew.shape == skew.shape


@pytest.mark.parametrize(
    "layout",
    {
        "transposed": lambda t: t.mT.contiguous().mT,
        "every other": lambda t: torch.stack([t, t], -1).flatten(-2)[..., ::2],
        "expanded": lambda t: t[:1].expand(t.shape),
        "odd offset": lambda t: torch.cat([t[:, :1], t], -1)[:, 1:],
    }.items(),
    ids=lambda layout: layout[0],
)
def test_strides_do_not_matter(device, layout):
    for dtype in (torch.float32, torch.bfloat16):
        skew = layout[1](make(device.device, dtype, 4, 6))
        for method in ("exact", "neumann"):
            assert torch.equal(op(skew, 6, method=method), op(skew.contiguous(), 6, method=method))
            grads = []
            for leaf in (skew.detach(), skew.contiguous()):
                leaf.requires_grad_()
                grads.append(torch.autograd.grad(op(leaf, 6, method=method).mT[:, ::2].sin().sum(), leaf)[0])
            assert torch.equal(*grads)


def test_the_same_bits_again(device):
    skew = make(device.device, torch.float32, 40, 16).requires_grad_()
    for method in ("exact", "neumann"):
        runs = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            rotation = op(skew, 16, method=method)
            runs.append((rotation, *torch.autograd.grad(rotation.sin().sum(), skew)))
        assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_cuda_matrices_that_shared_memory_cannot_hold():
    if (reason := testing.unavailable("cuda_emulated")) is not None:
        pytest.skip(reason)
    with testing.backend("cuda_emulated"):
        for block, place in ((128, "shared"), (200, "global")):
            with lrkernels.trace() as kernels:
                op(torch.zeros(1, block * (block - 1) // 2), block)
            assert kernels == [f"cayley_inverse_sm80_{place}"]


# --- Derivatives of every order, and what is kept for them.


@pytest.mark.parametrize("method", ("exact", "2 terms", "3 terms", "5 terms"))
def test_gradcheck_and_gradgradcheck(method):
    name, terms = METHODS[method]
    for block in (1, 4, 5):
        skew = make("cpu", torch.float64, 2, block).requires_grad_()
        apply = lambda skew: op(skew, block, method=name, terms=terms)  # noqa: B023, E731
        assert gradcheck(apply, (skew,)) and gradgradcheck(apply, (skew,))


@pytest.mark.parametrize(("method", "kept"), (("exact", (3, 4, 4)), ("neumann", (3, 6))))
def test_what_is_saved(method, kept):
    skew = make("cpu", torch.float32, 3, 4).requires_grad_()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(tuple(t.shape)) or t, lambda t: t):
        lrkernels.cayley(skew, 4, method=method)
    assert saved == [kept]


def test_forward_mode_raises():
    skew = make("cpu", torch.float32, 3, 4)
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match="cayley: forward-mode"):
        lrkernels.cayley(forward_ad.make_dual(skew, skew), 4)


def test_an_output_changed_in_place_raises():
    rotation = lrkernels.cayley(make("cpu", torch.float32, 3, 4).requires_grad_(), 4)
    rotation.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        rotation.sum().backward()


# --- torch's machinery.


def test_opcheck(device):
    for dtype in (torch.float32, torch.bfloat16):
        for method in ("exact", "neumann"):
            skew = make(device.device, dtype, 3, 4)
            opcheck(op.default, (skew.clone().requires_grad_(), 4), {"method": method}, atol=0.02, rtol=0.02)
            rotation = op(skew, 4, method=method)
            opcheck(
                torch.ops.lrk._cayley_backward.default,
                (rotation, rotation if method == "exact" else skew),
                {"block": 4, "method": method, "terms": 5},
                test_utils=("test_schema", "test_faketensor"),
            )


@pytest.mark.parametrize("method", ("exact", "neumann"))
def test_compile(method):
    layer = lambda skew: lrkernels.cayley(skew, 4, method=method).relu()  # noqa: E731
    skew = make("cpu", torch.float32, 3, 4).requires_grad_()
    results = [torch.compile(layer, fullgraph=True)(skew), layer(skew)]
    torch.testing.assert_close(*results)
    torch.testing.assert_close(*(torch.autograd.grad(y.sum(), skew)[0] for y in results))


def test_transforms():
    skew = make("cpu", torch.float64, 6, 4).view(3, 2, 6)
    apply = lambda skew: lrkernels.cayley(skew, 4)  # noqa: E731
    torch.testing.assert_close(torch.vmap(apply)(skew), torch.stack([apply(s) for s in skew]))
    loss = lambda skew: apply(skew).sin().sum()  # noqa: E731
    expected = torch.stack([torch.func.grad(loss)(s) for s in skew])
    torch.testing.assert_close(torch.vmap(torch.func.grad(loss))(skew), expected)
    hessian = torch.func.jacrev(torch.func.jacrev(loss))(skew[0])
    torch.testing.assert_close(hessian, hessian.permute(2, 3, 0, 1))


def test_autocast_leaves_it_alone(device):
    skew = make(device.device, torch.float32, 3, 4)
    with torch.autocast(device.device.type, torch.bfloat16):
        rotation = lrkernels.cayley(skew, 4)
    assert torch.equal(rotation, op(skew, 4))


def test_explain(device):
    plans = lrkernels.explain("cayley", make(device.device, torch.float32, 3, 4), 4)
    assert [plan.primitive for plan in plans] == ["cayley"] and plans[0].kernel.startswith("cayley_inverse_")
    with lrkernels.force(plans[0].kernel), lrkernels.trace() as kernels:
        op(make(device.device, torch.float32, 3, 4), 4)
    assert kernels == [plans[0].kernel]


# --- Arguments.

skew6 = torch.ones(3, 6)
BAD = [
    ((None, 4), {}, TypeError, "skew is a NoneType, expected a torch.Tensor"),
    ((skew6.int(), 4), {}, TypeError, "skew has dtype torch.int32, expected torch.float32"),
    ((torch.tensor(1.0), 4), {}, ValueError, "skew has shape (), expected (blocks, block * (block - 1) / 2)"),
    ((skew6[0], 4), {}, ValueError, "skew has shape (6,), expected (blocks, block * (block - 1) / 2)"),
    ((skew6, 5), {}, ValueError, "skew has shape (3, 6), expected (blocks, 10) because block is 5"),
    ((skew6, 0), {}, ValueError, "block is 0, expected at least 1"),
    ((skew6, -4), {}, ValueError, "block is -4, expected at least 1"),
    ((skew6, 4), {"method": "newton"}, ValueError, "method is 'newton', expected 'exact' or 'neumann'"),
    ((skew6, 4), {"terms": 0}, ValueError, "terms is 0, expected at least 1"),
]


@pytest.mark.parametrize(("arguments", "scalars", "kind", "message"), BAD, ids=[b[3][:40] for b in BAD])
def test_wrong_arguments(arguments, scalars, kind, message):
    with pytest.raises(kind) as caught:
        lrkernels.cayley(*arguments, **scalars)
    assert f"cayley: {message}" in str(caught.value)
    with pytest.raises(RuntimeError) as caught:
        op(*arguments, **scalars)
    assert message in str(caught.value) or ("NoneType" in message and "NoneType" in str(caught.value))


def test_wrong_arguments_of_the_twin_alone():
    for arguments, scalars, message in (
        ((skew6, 4.0), {}, "block is a float, expected an int"),
        ((skew6, True), {}, "block is a bool, expected an int"),
        ((skew6, 4), {"terms": 2.5}, "terms is a float, expected an int"),
        ((skew6, 4), {"method": None}, "method is a NoneType, expected 'exact' or 'neumann'"),
    ):
        with pytest.raises(TypeError, match=f"cayley: {message}"):
            lrkernels.cayley(*arguments, **scalars)
