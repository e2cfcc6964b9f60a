"""Every op of the sketch family on every backend: against its plain twin in float64, and through torch's machinery."""

import pytest
import torch
from sketch_ops import OPS, as_tuple, call, comparable, names
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.library import opcheck

import lrkernels
from lrkernels import reference

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
ROUNDING = {torch.float32: 2e-5, torch.float64: 1e-10, torch.bfloat16: 2e-2, torch.float16: 3e-3}
SHAPES = ((9, 6), (6, 9), (2, 3, 8, 7))
pytestmark = pytest.mark.filterwarnings("ignore:lrkernels has no (CUDA|float64) kernel")


def spread(shape, seed=0):
    """A matrix whose singular values are far apart, so that its singular vectors are well determined."""
    generator = torch.Generator().manual_seed(seed)
    u, _, vh = torch.linalg.svd(torch.randn(shape, dtype=torch.float64, generator=generator), full_matrices=False)
    return (u * 0.6 ** torch.arange(u.shape[-1], dtype=torch.float64)) @ vh


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", names())
def test_values(device, name, shape, dtype):
    a = spread(shape).to(dtype)
    twin, plain, raw = call(name)
    if name == "sketch dct":
        raw = twin = lambda a: lrkernels.sketch(a, 2, torch.tensor([0, 3], device=a.device), kind="dct", dim=0)
        if shape[0] < 4:
            pytest.skip("it has no frequency 3")
    for function in (twin, raw):
        ours, expected = function(a.to(device.device)), plain(a.double())
        for mine, exact in zip(as_tuple(ours), as_tuple(expected), strict=True):
            assert mine.is_contiguous() and mine.shape == exact.shape
            returned = dtype if name.split()[0] in ("sketch", "unsketch", "low_rank_approx", "polar") else None
            assert mine.dtype == (returned or torch.promote_types(dtype, torch.float32))
        pairs = zip(comparable(name, a, ours), comparable(name, a, expected), strict=True)
        for mine, exact in pairs:
            torch.testing.assert_close(mine.cpu().double(), exact, rtol=0, atol=ROUNDING[dtype])


@pytest.mark.parametrize("kind", ("rademacher", "sparse_sign", "gaussian", "hadamard", "dct"))
@pytest.mark.parametrize(("features", "size"), ((300, 70), (33, 33), (1, 1), (513, 7), (5, 0)))
def test_kernels_make_the_same_matrix(device, kind, features, size):
    """The signs bit for bit; cosines and logarithms to a rounding."""
    for seed in (0, -5, 2**62 + 11):
        ours = lrkernels.sketch(torch.eye(features, device=device.device), size, kind=kind, seed=seed).cpu()
        adjoint = lrkernels.unsketch(torch.eye(size, device=device.device), features, kind=kind, seed=seed).cpu()
        expected = reference.sketch_matrix(features, size, kind=kind, seed=seed)
        for mine in (ours, adjoint.mT):
            if kind in ("gaussian", "dct"):
                torch.testing.assert_close(mine.double(), expected, rtol=0, atol=1e-6)
            else:
                assert torch.equal(mine, expected.float())


LONG = (
    ("rademacher", 3, 2000, 70),
    ("rademacher", 70, 65, 33),
    ("sparse_sign", 3, 700, 600),
    ("sparse_sign", 40, 33, 5),
)


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float16), ids=str)
@pytest.mark.parametrize(("kind", "rows", "features", "size"), LONG)
def test_sums_that_are_cut(device, kind, rows, features, size, dtype):
    """Shapes whose sums a device cuts over blocks, and tiles that end within one: to roundings of the terms."""
    a = torch.randn(2, rows, features).to(dtype)
    for op, plain, x, other in (
        (lrkernels.sketch, reference.sketch, a, size),
        (lrkernels.unsketch, reference.unsketch, a[..., :size], features + 3),
    ):
        for dim in (-1, -2):
            given = x if dim == -1 else x.mT  # strided
            ours = op(given.to(device.device), other, kind=kind, seed=7, dim=dim).cpu().double()
            exact = plain(given.double(), other, kind=kind, seed=7, dim=dim)
            terms = x.shape[-1] ** 0.5 * 2.0**-24 * x.double().norm(dim=-1, keepdim=True)  # of a sum, at most
            bound = terms + torch.finfo(dtype).eps * (exact if dim == -1 else exact.mT).abs()
            assert ((ours - exact).abs() <= (bound if dim == -1 else bound.mT)).all()


@pytest.mark.parametrize("name", names())
def test_strides_do_not_matter(name):
    a = spread((8, 6))
    twin = call(name)[0]
    expected = as_tuple(twin(a))
    for strided in (a.mT.contiguous().mT, torch.stack([a, a], -1).flatten(-2)[:, ::2], torch.cat([a, a])[:8]):
        for mine, exact in zip(as_tuple(twin(strided)), expected, strict=True):
            torch.testing.assert_close(mine, exact, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", names())
def test_the_same_bits_again(name):
    a = torch.randn(150, 90)
    twin = call(name)[0]
    results = [as_tuple(twin(a)) for _ in range(2)]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    results.append(as_tuple(twin(a)))
    torch.set_num_threads(threads)
    assert all(torch.equal(x, y) for x, y in zip(*results[:2], strict=True))
    if not any("library" in plan.kernel for plan in lrkernels.explain("lowrank_project", a, torch.randn(40, 90))):
        assert all(torch.equal(x, y) for x, y in zip(results[0], results[2], strict=True))


@pytest.mark.parametrize("name", names())
def test_a_batch_is_its_matrices(name):
    if name == "sketch dct":
        pytest.skip("it sketches the batch's own dimension")
    a = torch.randn(3, 7, 5)
    twin = call(name)[0]
    for together, alone in zip(as_tuple(twin(a)), zip(*(as_tuple(twin(m)) for m in a), strict=True), strict=True):
        torch.testing.assert_close(together, torch.stack(alone))


EMPTY = ((0, 4), (4, 0), (0, 0), (0, 5, 4), (2, 0, 3))


@pytest.mark.parametrize("shape", EMPTY, ids=str)
def test_empty(device, shape):
    a = torch.ones(shape, device=device.device)
    size = min(shape[-2:])
    assert lrkernels.sketch(a, 3).shape == (*shape[:-1], 3)
    assert lrkernels.unsketch(a, 6).shape == (*shape[:-1], 6) and not lrkernels.unsketch(a, 6).any()
    q, r = lrkernels.orthonormalize(a)
    assert q.shape == (*shape[:-1], size) and r.shape == (*shape[:-2], size, shape[-1])
    u, s, v = lrkernels.rsvd(a, size)
    assert u.shape == (*shape[:-1], size) and s.shape == (*shape[:-2], size)
    assert v.shape == (*shape[:-2], shape[-1], size)
    assert lrkernels.range_finder(a, size).shape == (*shape[:-1], size)
    for op in (lrkernels.polar, lambda a: lrkernels.polar(a, method="exact")):
        assert op(a).shape == a.shape
    assert lrkernels.low_rank_approx(a, size).shape == a.shape
    assert not lrkernels.spectral_norm_bound(a).any()


# --- Gradients.

DIFFERENTIABLE = tuple(name for name in names() if name not in ("range_finder", "rsvd"))


@pytest.mark.parametrize("shape", ((5, 4), (4, 6), (2, 4, 4)), ids=str)
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradcheck(name, shape):
    if name == "sketch dct" and shape[0] < 4:
        pytest.skip("it has no frequency 3")
    a = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    twin, _, raw = call(name)
    assert gradcheck(raw, (a,)) and gradcheck(twin, (a,))
    if name in ("low_rank_approx", "polar exact"):
        (grad,) = torch.autograd.grad(raw(a).square().sum() * a.sum(), a, create_graph=True)
        with pytest.raises(RuntimeError, match="it has no second derivative"):
            grad.sum().backward()
    elif shape == (5, 4):
        assert gradgradcheck(raw, (a,))


@pytest.mark.parametrize("shape", ((6, 5), (5, 6), (2, 4, 4)), ids=str)
def test_gradients_of_singular_values_and_projectors(shape):
    a = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda a: torch.ops.lrk.rsvd(a, 2)[1], (a,))

    def projectors(a):
        u, _, v = lrkernels.rsvd(a, 2, broadening=1e-3)
        return u @ u.mT, v @ v.mT

    assert gradcheck(projectors, (a,))


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float16, torch.float64), ids=str)
@pytest.mark.parametrize("shape", ((20, 12), (12, 20), (12, 12)), ids=str)
def test_no_gradient_goes_across_what_rounding_leaves(shape, dtype):
    """Of singular values that coincide or vanish in exact arithmetic, but not in rounded: small, not just finite."""
    size = min(shape)
    column = torch.randn(shape[0], 1, dtype=torch.float64)
    cases = {
        "polar": (
            torch.ones(shape),
            column.expand(shape).clone(),
            torch.outer(column[:, 0], column[0].new_tensor(range(1, 1 + shape[1]))),
        ),
        "low_rank_approx": (torch.eye(*shape), torch.linalg.qr(torch.randn(max(shape), size, dtype=torch.float64))[0]),
    }
    for name, matrices in cases.items():
        for matrix in matrices:
            if name == "low_rank_approx" and matrix.shape != shape:
                matrix = matrix.mT
            a = matrix.to(dtype).requires_grad_()
            y = lrkernels.polar(a, method="exact") if name == "polar" else lrkernels.low_rank_approx(a, 3)
            weight = torch.randn(shape).to(y.dtype)
            (grad,) = torch.autograd.grad((y * weight).sum(), a)
            assert grad.isfinite().all(), (name, dtype)
            if dtype in (torch.float32, torch.float64):  # halves of a column are of full rank by their rounding
                assert grad.abs().max() < 1e3, (name, grad.abs().max())


def test_gradients_of_bases_raise():
    a = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    u, s, v = lrkernels.rsvd(a, 2)
    for output in (u, v):
        with pytest.raises(RuntimeError, match="rsvd: a gradient through U or V"):
            output.sum().backward(retain_graph=True)
    (grad,) = torch.autograd.grad(s.sum(), a)
    torch.testing.assert_close(grad, (u @ v.mT).detach())
    with pytest.raises(RuntimeError, match="range_finder: a basis has no gradient"):
        lrkernels.range_finder(a, 2).sum().backward()


@pytest.mark.parametrize("name", ("zero", "identity", "low rank"))
def test_no_gradient_is_nan(name):
    a = {"zero": torch.zeros(7, 5), "identity": torch.eye(7, 5), "low rank": torch.ones(7, 5)}[name].requires_grad_()
    for rank in (1, 3, 5):
        u, s, v = lrkernels.rsvd(a, rank, broadening=1e-3)
        loss = u.sin().sum() + s.sum() + v.cos().sum() + lrkernels.low_rank_approx(a, rank).square().sum()
        assert torch.autograd.grad(loss, a)[0].isfinite().all()
    for op in (lrkernels.orthonormalize, lrkernels.polar, lambda a: lrkernels.polar(a, method="exact")):
        outputs = as_tuple(op(a))
        assert all(output.isfinite().all() for output in outputs)
        assert torch.autograd.grad(sum(output.sin().sum() for output in outputs), a)[0].isfinite().all()


@pytest.mark.parametrize("name", names())
def test_forward_mode_raises(name):
    a = torch.randn(5, 4)
    with forward_ad.dual_level():
        with pytest.raises(RuntimeError, match="forward-mode"):
            call(name)[0](forward_ad.make_dual(a, a))


# --- torch's machinery.


@pytest.mark.parametrize("name", names())
def test_opcheck(name):
    """With what the fallbacks share, so on the CPU alone."""
    _, _, args, kwargs = OPS[name]
    op = getattr(torch.ops.lrk, OPS[name][0].__name__).default
    needs_grad = name not in ("range_finder", "rsvd")  # whose gradients are meant to raise
    dtype = torch.bfloat16 if name == "polar exact" else torch.float32
    opcheck(op, (spread((6, 5)).to(dtype).requires_grad_(needs_grad), *args), kwargs, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("name", names())
def test_compile(name):
    torch._dynamo.reset()
    twin = call(name)[0]
    a = spread((6, 5)).float()

    def program(a):
        return tuple(output + 1 for output in as_tuple(twin(a * 2)))

    backend = "inductor" if name in ("sketch", "polar") else "aot_eager"  # what it generates around them is all alike
    compiled = torch.compile(program, fullgraph=True, backend=backend)
    for mine, expected in zip(compiled(a), program(a), strict=True):
        torch.testing.assert_close(mine, expected)
    if name in ("range_finder", "rsvd"):
        return
    leaf = a.clone().requires_grad_()
    grads = [torch.autograd.grad(sum(x.sin().sum() for x in f(leaf)), leaf)[0]
             for f in (compiled, program)]  # fmt: skip
    torch.testing.assert_close(*grads)


def test_compile_does_not_recompile_for_a_seed_or_a_rank():
    testing = pytest.importorskip("torch._dynamo.testing")
    torch._dynamo.reset()
    counter = testing.CompileCounterWithBackend("aot_eager")

    @torch.compile(backend=counter, fullgraph=True, dynamic=True)
    def program(a, rank, seed):
        return lrkernels.rsvd(a, rank, seed=seed)[1]

    a, counts = torch.randn(12, 10), []
    for rank, seed in ((3, 5), (4, 6), (5, 7)):
        torch.testing.assert_close(program(a, rank, seed), lrkernels.rsvd(a, rank, seed=seed)[1])
        counts.append(counter.frame_count)
    assert counts[0] == counts[-1] > 0


@pytest.mark.parametrize("name", names())
def test_vmap(name):
    a = torch.randn(3, 6, 5, dtype=torch.float64)
    twin = call(name)[0]
    expected = [torch.stack(outputs) for outputs in zip(*(as_tuple(twin(m)) for m in a), strict=True)]
    for batched in (torch.vmap(twin)(a), torch.vmap(twin, 2)(a.movedim(0, 2))):
        for mine, exact in zip(as_tuple(batched), expected, strict=True):
            torch.testing.assert_close(mine, exact)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_per_sample_gradients(name):
    a = torch.randn(3, 5, 4, dtype=torch.float64)
    twin = call(name)[0]
    loss = lambda m: sum(output.sin().sum() for output in as_tuple(twin(m)))  # noqa: E731
    leaf = a.clone().requires_grad_()
    expected = torch.stack([torch.autograd.grad(loss(m), m)[0] for m in leaf.detach().unbind() for m in
                            [m.clone().requires_grad_()]])  # fmt: skip
    torch.testing.assert_close(torch.vmap(torch.func.grad(loss))(a), expected)


def test_singular_values_have_a_gradient_under_torch_func():
    a = torch.randn(5, 4, dtype=torch.float64)
    u, _, v = lrkernels.rsvd(a, 2)
    grad = torch.func.grad(lambda a: lrkernels.rsvd(a, 2)[1].sum())(a)
    torch.testing.assert_close(grad, u @ v.mT)


@pytest.mark.parametrize("name", names())
def test_autocast_keeps_the_dtype(name):
    a = torch.randn(6, 5)
    twin = call(name)[0]
    with torch.autocast("cpu", torch.bfloat16):
        outputs = as_tuple(twin(a))
    for mine, expected in zip(outputs, as_tuple(twin(a)), strict=True):
        assert torch.equal(mine, expected)


@pytest.mark.parametrize("name", names())
def test_explain_and_trace(name):
    a = torch.randn(9, 8)
    op = OPS[name][0].__name__
    plans = lrkernels.explain(op, a, *OPS[name][2], **OPS[name][3])
    with lrkernels.trace() as kernels:
        call(name)[0](a)
    assert plans and plans[0].kernel in kernels and plans[0].reason
    known = [*torch.ops.lrk._kernel_names(), "library_eigh"]  # which nobody chooses, so it is no plan's
    assert [kernel for kernel in kernels if not any(kernel in name for name in known)] == []
