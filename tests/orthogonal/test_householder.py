"""householder_apply on every backend: values and gradients against reflections in float64, and torch's machinery."""

import numpy as np
import pytest
import torch
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.library import opcheck

import lrkernels
from lrkernels import reference

op = torch.ops.lrk.householder_apply
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
EPSILON = {torch.float32: 2**-24, torch.float64: 2**-53, torch.bfloat16: 2**-8, torch.float16: 2**-11}
# rows, features, reflections
SHAPES = {
    "one reflection": (5, 8, 1),
    "an adapter's": (12, 96, 8),
    "as many as features": (7, 33, 33),
    "more than features": (9, 20, 50),
    "one feature": (4, 1, 3),
    "one row": (1, 40, 6),
    "no reflections": (3, 9, 0),
    "panels of few rows": (3, 24, 70),
    "panels of more rows": (70, 40, 130),
    "panels of many rows": (260, 24, 300),
}


def exact_householder(x, vectors, transpose=False):
    """One reflection after the other on NumPy rows."""
    y = x.astype(np.float64).copy()
    for v in vectors[::-1] if transpose else vectors:
        v = v.astype(np.float64)
        if v.any():
            v = v / np.abs(v).max()
            y = y - 2 / (v @ v) * np.outer(y @ v, v)
    return y


def make(device, dtype, rows, features, reflections, vector_dtype=None):
    x = torch.randn(rows, features, dtype=torch.float64).to(dtype).to(device)
    vectors = torch.randn(reflections, features, dtype=torch.float64).to(vector_dtype or dtype)
    return x, vectors.to(device)


def assert_near(ours, exact, dtype, roundings, what):
    """Within `roundings` of the largest number, which is the scale of an orthogonal map's sums."""
    assert ours.dtype == dtype and ours.is_contiguous(), what
    exact = torch.as_tensor(exact)
    largest = exact.abs().amax().item() if exact.numel() else 0.0
    np.testing.assert_allclose(
        ours.detach().cpu().double().numpy(),
        exact.numpy(),
        rtol=0,
        atol=max(EPSILON[dtype], roundings * EPSILON[torch.float32 if dtype != torch.float64 else dtype])
        * max(largest, 1.0),
        err_msg=what,
    )


@pytest.mark.parametrize("reflections", (64, 256))
def test_vectors_that_lie_close_together(device, reflections):
    """All positive, so S is ill conditioned; as near to orthogonal as one reflection after the other is."""
    x, vectors = torch.randn(300, 256), torch.rand(reflections, 256)
    exact = torch.as_tensor(exact_householder(x.numpy(), vectors.numpy()))
    ours, plain = op(x.to(device.device), vectors.to(device.device)), reference.householder_apply(x, vectors)
    ours, plain = ((y.cpu().double() - exact).norm() for y in (ours, plain))
    assert ours <= 3 * plain


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16))
@pytest.mark.parametrize("shape", [(16, 256, 64), (100, 64, 100)])
def test_gradient_of_float32_vectors_beside_few_half_rows(device, shape, dtype):
    """Nothing that leads to it is rounded to half."""
    x, vectors = make(device.device, dtype, *shape, vector_dtype=torch.float32)
    vectors.requires_grad_()
    y = op(x, vectors)
    grad = torch.randn(y.shape).to(dtype)
    (dvectors,) = torch.autograd.grad(y, vectors, grad.to(device.device))
    v64 = vectors.detach().cpu().double().requires_grad_()
    plain = reference.householder_apply(x.cpu().double(), v64)
    (exact,) = torch.autograd.grad(plain, v64, grad.double())
    assert (dvectors.cpu().double() - exact).norm() <= 2e-6 * exact.norm()


@pytest.mark.parametrize("transpose", (False, True))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients(device, shape, dtype, transpose):
    rows, features, reflections = SHAPES[shape]
    x, vectors = make(device.device, dtype, rows, features, reflections)
    if reflections > 2:
        vectors[1] = 0
    x.requires_grad_(), vectors.requires_grad_()
    y = op(x, vectors, transpose=transpose)
    x64, v64 = (t.detach().cpu().double().requires_grad_() for t in (x, vectors))
    exact = exact_householder(x64.detach().numpy(), v64.detach().numpy(), transpose)
    noise = 8 * max(reflections, 1) ** 0.5 + 8
    assert_near(y, exact, dtype, noise, "y")

    grad = torch.randn(y.shape, dtype=torch.float64).to(dtype)
    dx, dvectors = torch.autograd.grad(y, (x, vectors), grad.to(device.device))
    assert_near(dx, exact_householder(grad.double().numpy(), v64.detach().numpy(), not transpose), dtype, noise, "dx")
    plain = reference.householder_apply(x64, v64, transpose=transpose)
    _, expected = torch.autograd.grad(plain, (x64, v64), grad.double(), materialize_grads=True)
    # From a rounded result (more than 128 half vectors) every row brings one rounding along.
    roundings = 16 * noise + (2 * rows**0.5 * EPSILON[dtype] / EPSILON[torch.float32] if reflections > 128 else 0)
    assert_near(dvectors, expected, dtype, roundings if dtype != torch.float64 else 16 * noise, "dvectors")
    assert reflections <= 2 or not dvectors[1].any()


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16))
def test_half_with_float32_vectors(device, dtype):
    x, vectors = make(device.device, dtype, 30, 96, 6, torch.float32)
    vectors.requires_grad_()
    y = lrkernels.householder_apply(x, vectors)
    exact = exact_householder(x.cpu().double().numpy(), vectors.detach().cpu().numpy())
    assert_near(y, exact, dtype, 1, "y")  # sums are float32, so what is left is the result's own rounding
    (dvectors,) = torch.autograd.grad(y.float().square().sum(), vectors)
    assert dvectors.dtype == torch.float32
    # A reflection keeps every row's norm.
    assert dvectors.abs().max() < 96 * 2 * EPSILON[dtype] * y.float().abs().max()


@pytest.mark.parametrize("reflections", (5, 150))
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.bfloat16))
def test_transpose_undoes(device, dtype, reflections):
    x, vectors = make(device.device, dtype, 20, 90, reflections)
    back = op(op(x, vectors), vectors, transpose=True)
    atol = 4 * EPSILON[dtype] * x.abs().max().item() + 60 * EPSILON[torch.promote_types(dtype, torch.float32)]
    torch.testing.assert_close(back, x, rtol=0, atol=atol)


@pytest.mark.parametrize("draw", (torch.randn, torch.rand), ids=("apart", "close together"))
@pytest.mark.parametrize("features", (64, 200, 256))
def test_the_product_is_orthogonal(device, features, draw):
    vectors = draw(features, features).to(device.device)
    q = op(torch.eye(features, device=device.device), vectors).double()
    error = torch.linalg.matrix_norm(q.T @ q - torch.eye(features, device=q.device, dtype=q.dtype), 2)
    assert error < 5e-6
    assert torch.linalg.det(q).cpu().sign() == (-1) ** features


@pytest.mark.parametrize(
    "parallel", (lambda v: v.expand(100, -1), lambda v: torch.cat([v, -v, 1e20 * v] * 30)), ids=("equal", "parallel")
)
def test_parallel_vectors(device, parallel):
    """The worst that a triangular system can be made of: every entry of the Gram matrix is ±1."""
    v = torch.randn(1, 60, device=device.device)
    x = torch.randn(300, 60, device=device.device)
    vectors = parallel(v)
    exact = exact_householder(x.cpu().numpy(), vectors.cpu().numpy())
    assert_near(op(x, vectors), exact, torch.float32, 100, "y")


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
@pytest.mark.parametrize(
    "layout",
    {
        "transposed": lambda x: x.mT.contiguous().mT,
        "every other": lambda x: torch.stack([x, x], -1).flatten(-2)[..., ::2],
        "expanded": lambda x: x[:1].expand(x.shape),
        "rows of a wider matrix": lambda x: torch.cat([x, x], -1)[..., : x.shape[-1]],
        "odd offset": lambda x: torch.cat([x[..., :1], x], -1)[..., 1:],
    }.items(),
    ids=lambda layout: layout[0],
)
@pytest.mark.parametrize("reflections", (6, 40))
def test_strides_do_not_matter(device, dtype, layout, reflections):
    x, vectors = make(device.device, dtype, 6, 72, reflections)
    results = []
    for strided in (layout[1], lambda t: layout[1](t).contiguous()):
        leaves = [strided(t).detach().requires_grad_() for t in (x, vectors)]
        y = op(*leaves)
        results.append((y, *torch.autograd.grad(y.sin().sum(), leaves)))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=4e-5 if dtype == torch.float32 else 0.05)


@pytest.mark.parametrize("leading", ((0,), (2, 0, 3), (), (2, 1, 3)))
@pytest.mark.parametrize("reflections", (2, 40, 140))
def test_leading_dimensions(device, leading, reflections):
    x = torch.randn(*leading, 10, device=device.device)
    vectors = torch.randn(reflections, 10, device=device.device)
    swapped = x.movedim(0, -2) if x.dim() > 2 else x
    leaves = swapped.requires_grad_(), vectors.requires_grad_()
    y = lrkernels.householder_apply(*leaves)
    assert y.shape == swapped.shape
    dx, dvectors = torch.autograd.grad(y.square().sum() + y.sum(), leaves)
    assert dx.shape == swapped.shape and dvectors.shape == vectors.shape
    if swapped.numel() == 0:
        assert dvectors.eq(0).all()
    else:
        rows = swapped.detach().reshape(-1, 10).cpu().numpy()
        exact = exact_householder(rows, vectors.detach().cpu().numpy()).reshape(swapped.shape)
        assert_near(y, exact, torch.float32, 100, "y")


def test_one_column_of_a_transposed_matrix(device):
    """Its columns are not next to each other, and there is only one."""
    x, vectors = torch.randn(5, 4, device=device.device).T[:, :1], torch.randn(4, 3, device=device.device).T[:, :1]
    assert x.stride() == (1, 4)
    x, vectors = x.requires_grad_(), vectors.requires_grad_()
    y = op(x, vectors)
    torch.testing.assert_close(y, -x)
    dx, dvectors = torch.autograd.grad(y, (x, vectors), x.detach())
    torch.testing.assert_close(dx, -x)
    torch.testing.assert_close(dvectors, torch.zeros(3, 1, device=device.device), rtol=0, atol=1e-5)


def test_no_features(device):
    x = torch.ones(3, 0, device=device.device)
    assert op(x, torch.ones(2, 0, device=device.device)).shape == (3, 0)


def test_the_result_is_never_the_input(device):
    x = torch.randn(3, 6, device=device.device)
    for vectors in (torch.zeros(0, 6), torch.zeros(2, 6), torch.zeros(140, 6)):
        y = op(x, vectors.to(device.device))
        assert torch.equal(y, x) and y.data_ptr() != x.data_ptr()


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
def test_extreme_lengths(device, dtype):
    """The reflection does not depend on the vector's length: squares of these overflow or vanish."""
    info = torch.finfo(dtype)
    x, vectors = make(device.device, dtype, 4, 16, 5)
    vectors.clamp_(-4, 4)
    expected = op(x, vectors)
    lengths = torch.tensor([info.max / 8, info.tiny * 8, 1.0, info.max**0.6, info.tiny**0.6], dtype=dtype)
    scaled = (vectors * lengths.to(device.device)[:, None]).requires_grad_()
    y = op(x, scaled)
    torch.testing.assert_close(y, expected)
    (dvectors,) = torch.autograd.grad(y.sin().sum(), scaled)
    leaf = vectors.clone().requires_grad_()
    (plain,) = torch.autograd.grad(op(x, leaf).sin().sum(), leaf)
    for row in (2, 3):  # of these the gradient is a normal number too
        torch.testing.assert_close(dvectors[row] * lengths[row].item(), plain[row], rtol=1e-4, atol=1e-5)
    subnormal = torch.zeros(1, 16, dtype=dtype, device=device.device)
    subnormal[0, 3] = info.smallest_normal * 2**-20
    flipped = x.clone()
    flipped[:, 3] *= -1
    torch.testing.assert_close(op(x, subnormal), flipped)


def test_not_a_number_is_passed_on(device):
    x, vectors = make(device.device, torch.float32, 4, 8, 3)
    x[2, 3] = float("nan")
    y = op(x, vectors)
    assert y[2].isnan().all() and y[[0, 1, 3]].isfinite().all()
    x[2, 3] = 0
    one = torch.zeros(8)
    one[5] = float("inf")
    for vector in (torch.full((8,), float("nan")), torch.tensor([1.0, float("inf")] * 4), one):
        vectors[1] = vector.to(device.device)
        assert op(x, vectors).isnan().all()


def test_zero_vectors_have_zero_gradients(device):
    x = torch.randn(5, 12, device=device.device, requires_grad=True)
    vectors = torch.zeros(3, 12, device=device.device, requires_grad=True)
    y = op(x, vectors)
    dx, dvectors = torch.autograd.grad(y.square().sum(), (x, vectors))
    assert torch.equal(y, x) and torch.equal(dx, 2 * x) and not dvectors.any()


@pytest.mark.parametrize("transpose", (False, True))
@pytest.mark.parametrize("kind", ("triangular", "reversed", "a band", "a zero panel"))
def test_columns_of_zeros(device, kind, transpose):
    """Columns that a panel of vectors does not use are passed over: same results, and gradients there too."""
    full = torch.randn(150, 150, dtype=torch.float64)
    vectors = {
        "triangular": full.triu(),
        "reversed": full.triu().flip(-1),
        "a band": full.triu().tril(30),
        "a zero panel": torch.cat([full[:20], torch.zeros(110, 150), full[130:]]),
    }[kind].float()
    x = torch.randn(40, 150)
    leaves = [t.to(device.device).requires_grad_() for t in (x, vectors)]
    y = op(*leaves, transpose=transpose)
    grad = torch.randn_like(x)
    dx, dvectors = torch.autograd.grad(y, leaves, grad.to(device.device))
    wide = [t.double().requires_grad_() for t in (x, vectors)]
    plain = reference.householder_apply(*wide, transpose=transpose)
    expected = torch.autograd.grad(plain, wide, grad.double())
    assert_near(y, plain.detach(), torch.float32, 100, "y")
    assert_near(dx, expected[0], torch.float32, 100, "dx")
    nonzero = vectors.any(-1)
    scale = vectors[nonzero].norm(dim=-1, keepdim=True)
    ours, theirs = (t.cpu().double()[nonzero] * scale for t in (dvectors, expected[1]))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5 * theirs.abs().max().item())
    assert not dvectors.cpu()[~nonzero].any()


@pytest.mark.parametrize("rows", (1, 16, 63, 64, 65, 255, 256, 300))
def test_any_number_of_rows_and_the_same_bits_again(device, rows):
    x, vectors = make(device.device, torch.float32, rows, 24, 40)
    results = []
    for _ in range(2):
        leaves = x.clone().requires_grad_(), vectors.clone().requires_grad_()
        y = op(*leaves)
        results.append((y, *torch.autograd.grad(y.sin().sum(), leaves)))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    leaves = x.clone().requires_grad_(), vectors.clone().requires_grad_()
    plain = reference.householder_apply(*leaves)
    for ours, theirs in zip(results[0], (plain, *torch.autograd.grad(plain.sin().sum(), leaves)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=3e-5 * rows**0.5)


# --- What runs.


def test_products_are_low_rank_ones(device):
    x, vectors = make(device.device, torch.float32, 40, 64, 6)
    with lrkernels.trace() as kernels:
        op(x, vectors)
    assert any("unit_rows" in k for k in kernels)
    assert any("lowrank" in k or k == "library_gemm" for k in kernels)
    plans = lrkernels.explain("householder_apply", x, vectors)
    inverse = ["project", "mirror_sum", "invert"] if device.backend == "cpu" else ["panel_inverses"]
    assert [plan.primitive for plan in plans] == ["unit_rows", *inverse, "project", "project", "linear"]
    assert [plan.kernel for plan in plans] == list(kernels)


def test_forced_products(device):
    x, vectors = make(device.device, torch.float32, 300, 80, 8)
    expected = op(x, vectors)
    rejected = [r["kernel"] for r in lrkernels.explain("householder_apply", x, vectors)[-1].rejected]
    forced = next(kernel for kernel in rejected if device.backend == "cpu" or "simt" in kernel)
    with lrkernels.force(forced), lrkernels.trace() as kernels:
        y = op(x, vectors)
    assert forced in kernels
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)


# --- Derivatives of every order, and what is kept for them.


@pytest.mark.parametrize("transpose", (False, True))
def test_gradcheck_and_gradgradcheck(transpose):
    x, vectors = (t.requires_grad_() for t in make("cpu", torch.float64, 4, 5, 3))
    apply = lambda x, vectors: op(x.view(2, 2, 5), vectors, transpose=transpose)  # noqa: E731
    assert gradcheck(apply, (x, vectors)) and gradgradcheck(apply, (x, vectors))
    alone = lambda x: apply(x, vectors.detach())  # noqa: E731
    assert gradcheck(alone, (x,)) and gradgradcheck(alone, (x,))


def test_gradcheck_through_the_result(monkeypatch):
    """What happens above 128 vectors, with fewer: the second derivative goes through the saved result too."""
    from lrkernels.ops.orthogonal import householder

    monkeypatch.setattr(householder, "_REFLECTIONS_OF_ONE_PRODUCT", 2)
    x, vectors = (t.requires_grad_() for t in make("cpu", torch.float64, 3, 5, 3))
    for transpose in (False, True):
        apply = lambda x, vectors: op(x, vectors, transpose=transpose)  # noqa: B023, E731
        assert gradcheck(apply, (x, vectors)) and gradgradcheck(apply, (x, vectors))


def test_second_derivatives_of_a_vector():
    x, vectors = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in ((8,), (3, 8)))
    for transpose in (False, True):
        apply = lambda x, vectors: op(x, vectors, transpose=transpose)  # noqa: B023, E731
        assert gradcheck(apply, (x, vectors)) and gradgradcheck(apply, (x, vectors))


@pytest.mark.parametrize("of_result", (False, True))
@pytest.mark.parametrize("transpose", (False, True))
@pytest.mark.parametrize("reflections", (3, 40, 133))
def test_backward_op(device, reflections, transpose, of_result):
    """From x and from the result, in one panel and in several."""
    x, vectors = make(device.device, torch.float32, 20, 50, reflections)
    grad = torch.randn(20, 50).to(device.device)
    rows = op(x, vectors, transpose=transpose) if of_result else x
    scalars = {"transpose": transpose, "of_result": of_result}
    ours = torch.ops.lrk._householder_backward(grad, rows, vectors, **scalars)
    exact = reference.householder_backward(*(t.cpu().double() for t in (grad, rows, vectors)), **scalars)
    for mine, theirs in zip(ours, exact, strict=True):
        assert_near(mine, theirs, torch.float32, 300, str(scalars))


@pytest.mark.parametrize(
    ("trains", "reflections", "kept"),
    [("x", 3, [(3, 8)]), ("vectors", 3, [(3, 8), (5, 8)]), ("vectors", 130, [(5, 8), (130, 8)])],
)
def test_what_is_saved(trains, reflections, kept):
    x, vectors = make("cpu", torch.float32, 5, 8, reflections)
    (x if trains == "x" else vectors).requires_grad_()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        y = lrkernels.householder_apply(x, vectors)
    assert sorted(tuple(t.shape) for t in saved) == kept
    of_x = any(t.data_ptr() == x.data_ptr() for t in saved)
    of_result = any(t.data_ptr() == y.data_ptr() for t in saved)
    assert (of_x, of_result) == (trains == "vectors" and reflections <= 128, reflections > 128)


def test_forward_mode_raises():
    x, vectors = make("cpu", torch.float32, 5, 8, 2)
    with forward_ad.dual_level():
        with pytest.raises(RuntimeError, match="householder_apply: forward-mode"):
            lrkernels.householder_apply(forward_ad.make_dual(x, x), vectors)


# --- torch's machinery.


def test_opcheck(device):
    for dtype, vector_dtype in ((torch.float32, None), (torch.bfloat16, torch.float32)):
        x, vectors = make(device.device, dtype, 6, 9, 4, vector_dtype)
        for transpose in (False, True):
            leaves = (x.view(2, 3, 9).clone().requires_grad_(), vectors.clone().requires_grad_())
            opcheck(op.default, leaves, {"transpose": transpose}, atol=0.05, rtol=0.05)
    opcheck(
        torch.ops.lrk._householder_backward.default,
        (x, x, vectors),
        {"transpose": False, "of_result": True},
        test_utils=("test_schema", "test_faketensor"),
    )


@pytest.mark.parametrize("reflections", (3, 130))
def test_compile(reflections):
    def layer(x, vectors, back):
        y = lrkernels.householder_apply(x, vectors)
        return lrkernels.householder_apply(y.relu(), vectors, transpose=back)

    x, vectors = (t.requires_grad_() for t in make("cpu", torch.float32, 5, 8, reflections))
    compiled = torch.compile(layer, fullgraph=True)
    y, expected = compiled(x, vectors, True), layer(x, vectors, True)
    torch.testing.assert_close(y, expected)
    for ours, eager in zip(*(torch.autograd.grad(v.sum(), (x, vectors)) for v in (y, expected)), strict=True):
        torch.testing.assert_close(ours, eager)


def test_transforms():
    x, vectors = make("cpu", torch.float64, 5, 6, 2)
    apply = lrkernels.householder_apply
    many = vectors + torch.arange(3.0, dtype=torch.float64)[:, None, None]
    for in_dims, arguments in (((0, None), (x[None].repeat(3, 1, 1), vectors)), ((1, None), (x.mT, vectors))):
        expected = torch.stack([apply(v, vectors) for v in arguments[0].unbind(in_dims[0])])
        torch.testing.assert_close(torch.vmap(apply, in_dims)(*arguments), expected)
    torch.testing.assert_close(torch.vmap(apply, (None, 0))(x, many), torch.stack([apply(x, v) for v in many]))
    loss = lambda vectors, x: apply(x, vectors).sin().sum()  # noqa: E731
    per_sample = torch.vmap(torch.func.grad(loss), (None, 0))(vectors, x)
    expected = torch.stack([torch.func.grad(loss)(vectors, row) for row in x])
    torch.testing.assert_close(per_sample, expected)
    hessian = torch.func.jacrev(torch.func.jacrev(loss))(vectors, x)
    torch.testing.assert_close(hessian, hessian.permute(2, 3, 0, 1))


def test_autocast(device):
    x, vectors = make(device.device, torch.float32, 6, 16, 2)
    with torch.autocast(device.device.type, torch.bfloat16):
        y = lrkernels.householder_apply(x, vectors)
    assert y.dtype == torch.bfloat16 and torch.equal(y, op(x.bfloat16(), vectors))


# --- Arguments.

x8, vectors2 = torch.ones(3, 8), torch.ones(2, 8)
BAD = [
    ((None, vectors2), TypeError, "x is a NoneType, expected a torch.Tensor"),
    ((x8, None), TypeError, "vectors is a NoneType, expected a torch.Tensor"),
    ((x8.int(), vectors2), TypeError, "x has dtype torch.int32, expected torch.float32"),
    ((torch.tensor(1.0), vectors2), ValueError, "x has no dimensions, expected (..., features)"),
    ((x8, vectors2[0]), ValueError, "vectors has shape (8,), expected (reflections, features)"),
    ((x8[:, :6], vectors2), ValueError, "vectors has shape (2, 8), expected (reflections, 6) because x is (3, 6)"),
    ((x8, vectors2.double()), TypeError, "vectors has dtype torch.float64, expected torch.float32 because x is"),
    ((x8.half(), vectors2.bfloat16()), TypeError, "vectors has dtype torch.bfloat16, expected torch.float16 or"),
    ((x8.to("meta"), vectors2), ValueError, "vectors is on cpu, but x is on meta"),
]


@pytest.mark.parametrize(("arguments", "kind", "message"), BAD, ids=[b[2][:40] for b in BAD])
def test_wrong_arguments(arguments, kind, message):
    with pytest.raises(kind) as caught:
        lrkernels.householder_apply(*arguments)
    assert f"householder_apply: {message}" in str(caught.value)
    if "meta" in message:
        return  # torch asks the fake, which is the twin's check
    with pytest.raises(RuntimeError) as caught:
        op(*arguments)
    assert message in str(caught.value) or ("NoneType" in message and "NoneType" in str(caught.value))
