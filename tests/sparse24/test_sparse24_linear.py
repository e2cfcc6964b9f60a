"""sparse24_linear and sparse24_linear_ste on every backend, against products of dense float64 matrices."""

import math

import pytest
import torch
from sparse24_cases import DTYPES, assert_near, exact, make, packbits, random_mask
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck

import lrkernels
from lrkernels import reference

op = torch.ops.lrk.sparse24_linear
# (rows, out, in, rank)
SHAPES = (
    (1, 4, 4, None), (1, 1, 32, 1), (2, 16, 64, 0), (3, 20, 36, 2), (5, 33, 68, 3), (8, 48, 128, 16), (17, 40, 100, 5),
    (31, 64, 32, 8), (40, 70, 96, 7), (100, 24, 200, None), (0, 8, 8, 2), (3, 0, 8, 2),
)  # fmt: skip


def packed_of(values, bitmask, packed, transposable=False):
    return lrkernels.sparse24_pack(values, bitmask, transposable=transposable) if packed else None


def exact_linear(x, weight, down, up, bias, scale):
    y = x @ weight.mT
    if down is not None:
        y = y + scale * (x @ down.mT @ up.mT)
    return y if bias is None else y + bias


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("packed", (False, True))
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients(device, shape, packed, dtype):
    rows, out, features, rank = shape
    x, weight, values, bitmask, down, up, bias = make(device.device, dtype, rows, out, features, rank)
    packing = packed_of(values, bitmask, packed)
    leaves = [t for t in (x, values, down, up, bias) if t is not None]
    [leaf.requires_grad_() for leaf in leaves]
    y = op(x, values, bitmask, packing, down, up, bias, scale=0.5)
    terms = 4 * math.sqrt(features) + 10
    wide = exact(x, weight, down, up, bias)
    assert_near(y, exact_linear(*wide, 0.5), dtype, terms, "y")
    assert y.is_contiguous()
    grad = torch.randn(y.shape, dtype=torch.float64).to(dtype).to(device.device)
    grads = dict(zip(("x", "values", "down", "up", "bias"), torch.autograd.grad(y, leaves, grad), strict=False))
    if rank is None:
        grads["bias"] = torch.autograd.grad(op(x, values, bitmask, packing, bias=bias), bias, grad)[0]
    dense = [t.requires_grad_() for t in wide if t is not None]
    expected = torch.autograd.grad(exact_linear(*wide, 0.5), dense, exact(grad)[0])
    named = dict(zip([n for n, t in zip(("x", "weight", "down", "up", "bias"), wide) if t is not None], expected))
    terms = 8 * math.sqrt(max(rows, out, features)) + 10
    assert_near(grads["x"], named["x"], dtype, terms, "dx")
    mask = reference.sparse24_positions(bitmask, features).cpu()
    assert_near(grads["values"], named["weight"][mask].reshape(values.shape), dtype, terms, "dvalues")
    if rank is not None:
        assert_near(grads["down"], named["down"], dtype, 8 * terms, "ddown")
        assert_near(grads["up"], named["up"], dtype, 8 * terms, "dup")


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16), ids=str)
def test_float32_factors_beside_half(device, dtype):
    x, weight, values, bitmask, down, up, bias = make(device.device, dtype, 6, 24, 64, 4)
    down, up, bias = down.float().requires_grad_(), up.float().requires_grad_(), bias.float()
    for packing in (None, packed_of(values, bitmask, True)):
        y = op(x, values, bitmask, packing, down, up, bias)
        assert_near(y, exact_linear(*exact(x, weight, down, up, bias), 1.0), dtype, 60.0)
        for grad in torch.autograd.grad(y.float().sum(), (down, up)):
            assert grad.dtype == torch.float32


@pytest.mark.parametrize("rows", (1, 2, 4, 5, 12, 32, 33, 200))
def test_any_number_of_rows_and_the_same_bits_again(device, rows):
    x, weight, values, bitmask, down, up, bias = make(device.device, torch.float32, rows, 1024, 1024, 8)
    packing = packed_of(values, bitmask, True)
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append(op(x, values, bitmask, packing, bias=bias))
    y = op(x, values, bitmask, packing, down, up, bias)
    assert_near(y, exact_linear(*exact(x, weight, down, up, bias), 1.0), torch.float32, 160.0)
    # More rows, the low-rank term and the plain expression are torch's products, whose sums may depend on threads.
    if rows <= 64 and device.backend == "cpu":
        assert torch.equal(*results)


@pytest.mark.parametrize("leading", ((), (2, 3), (0,), (2, 0, 3)))
def test_leading_dimensions(device, leading):
    x, _weight, values, bitmask, down, up, bias = make(device.device, torch.float32, None, 12, 20, 3, leading)
    leaves = [t.requires_grad_() for t in (x, values, down, up, bias)]
    y = lrkernels.sparse24_linear(x, values, bitmask, None, down, up, bias)
    assert y.shape == (*leading, 12)
    grads = torch.autograd.grad(y.sum(), leaves)
    assert [g.shape for g in grads] == [t.shape for t in leaves]
    if math.prod(leading) == 0:
        assert all(not g.any() for g in grads)


def test_strides_do_not_matter(device):
    x, _, values, bitmask, down, up, bias = make(device.device, torch.bfloat16, 6, 24, 32, 4)
    packing = packed_of(values, bitmask, True)
    expected = op(x, values, bitmask, packing, down, up, bias)
    for view in (x.T.contiguous().T, torch.stack([x, x], -1)[..., 0], torch.cat([x, x], 1)[:, :32]):
        assert torch.equal(op(view, values, bitmask, packing, down, up, bias), expected)
    other = op(
        x, values.T.contiguous().T, bitmask.T.contiguous().T, packing, down.T.contiguous().T, up.T.contiguous().T, bias
    )
    assert torch.equal(other, expected)


def test_what_is_not_kept_does_not_count(device):
    """An infinite x at a column that a row does not keep leaves that row alone when W is read packed."""
    x, _weight, values, bitmask, *_ = make(device.device, torch.float32, 1, 16, 32)
    mask = reference.sparse24_positions(bitmask, 32)
    x[0, 5] = math.inf
    with lrkernels.trace() as kernels:
        y = op(x, values, bitmask, packed_of(values, bitmask, True))
    if not any("sparse24_linear_panels" in kernel for kernel in kernels):
        pytest.skip("the plain expression multiplies by the zeros of a dense matrix")
    assert torch.equal(y[0].isfinite(), ~mask[:, 5])


@pytest.mark.parametrize("special", (math.nan, math.inf))
def test_kept_values_that_are_not_finite(device, special):
    x, _weight, values, bitmask, *_ = make(device.device, torch.bfloat16, 3, 8, 32)
    values[2, 3] = special
    for packing in (None, packed_of(values, bitmask, True)):
        y = op(x, values, bitmask, packing)
        assert not y[:, 2].isfinite().any() and y[:, [0, 1, 3, 4, 5, 6, 7]].isfinite().all()


def test_a_malformed_bitmask_is_read_within_its_operands(device):
    """Trusted, so the numbers are wrong; but finite, and of the operands."""
    x, _, values, bitmask, *_ = make(device.device, torch.float32, 2, 20, 36)
    for bits in (0, 255):
        bitmask.fill_(bits)
        for rows in (x, x.expand(50, 2, 36).reshape(100, 36)):
            assert op(rows, values, bitmask).isfinite().all()


@pytest.mark.parametrize("transposable", (False, True))
def test_straight_through(device, transposable):
    for dtype in DTYPES:
        x, masked, _, bitmask, down, up, bias = make(device.device, dtype, 9, 24, 40, 4, transposable=transposable)
        mask = reference.sparse24_positions(bitmask, 40)
        weight = torch.where(mask, masked, torch.randn_like(masked))
        leaves = [t.requires_grad_() for t in (x, weight, down, up, bias)]
        y = torch.ops.lrk.sparse24_linear_ste(x, weight, mask, down, up, bias, scale=0.5, transposable=transposable)
        wide = [t.requires_grad_() for t in exact(x, masked, down, up, bias)]
        expected = exact_linear(*wide, 0.5)
        assert_near(y, expected.detach(), dtype, 60.0, "y")
        grad = torch.randn(y.shape, dtype=torch.float64).to(dtype).to(device.device)
        names = ("dx", "dweight", "ddown", "dup", "dbias")
        ours = torch.autograd.grad(y, leaves, grad)
        for name, a, b in zip(names, ours, torch.autograd.grad(expected, wide, exact(grad)[0]), strict=True):
            assert_near(a, b, dtype, 300.0, name)


def problem64(device):
    x, _, values, bitmask, down, up, bias = make(device.device, torch.float64, 3, 8, 12, 2)
    mask = reference.sparse24_positions(bitmask, 12)
    return x, values, bitmask, mask, down, up, bias


def test_gradcheck(device):
    x, values, bitmask, _mask, down, up, bias = problem64(device)
    leaves = tuple(t.requires_grad_() for t in (x, values, down, up, bias))
    f = lambda x, v, d, u, b: lrkernels.sparse24_linear(x, v, bitmask, None, d, u, b, scale=0.7)  # noqa: E731
    assert gradcheck(f, leaves) and gradgradcheck(f, leaves)


def test_straight_through_second_derivatives(device):
    """gradcheck cannot serve a gradient that is not the function's own; the second derivative is that of the first."""
    x, _values, _bitmask, mask, down, up, _ = problem64(device)
    weight = torch.randn(8, 12, dtype=torch.float64, device=device.device)
    leaves = tuple(t.requires_grad_() for t in (x, weight, down, up))
    kinds = (
        lambda *a: lrkernels.sparse24_linear_ste(*a[:2], mask, *a[2:]),
        lambda *a: reference.sparse24_linear_ste(*a[:2], mask, *a[2:]),
    )
    seconds = []
    for function in kinds:
        first = torch.autograd.grad(function(*leaves).sin().sum(), leaves, create_graph=True)
        seconds.append((*first, *torch.autograd.grad(sum(g.cos().sum() for g in first), leaves)))
    for ours, plain in zip(*seconds, strict=True):
        torch.testing.assert_close(ours, plain)


def test_opcheck(device):
    x, _, values, bitmask, down, up, bias = make(device.device, torch.float32, 3, 8, 12, 2)
    packing = packed_of(values, bitmask, True)
    mask = reference.sparse24_positions(bitmask, 12)
    opcheck(op, (x, values, bitmask))
    leaves = [t.requires_grad_() for t in (x, values, down, up, bias)]
    opcheck(op, (leaves[0], leaves[1], bitmask, packing, *leaves[2:]), {"scale": 0.5})
    weight = torch.randn(8, 12, device=device.device, requires_grad=True)
    opcheck(torch.ops.lrk.sparse24_linear_ste, (leaves[0], weight, mask, *leaves[2:]), {"scale": 0.5})


def test_compile_vmap_autocast(device):
    x, _, values, bitmask, down, up, bias = make(device.device, torch.float32, 5, 16, 32, 2)
    packing = packed_of(values, bitmask, True)
    mask = reference.sparse24_positions(bitmask, 32)
    weight = torch.randn(16, 32, device=device.device)

    def both(x, values, weight, down, up):
        y = lrkernels.sparse24_linear(x, values, bitmask, packing, down, up, bias)
        return y + lrkernels.sparse24_linear_ste(x, weight, mask, down, up)

    expected = both(x, values, weight, down, up)
    compiled = torch.compile(both, fullgraph=True, backend="aot_eager")
    leaves = [t.clone().requires_grad_() for t in (x, values, weight, down, up)]
    y = compiled(*leaves)
    torch.testing.assert_close(y, expected)
    ours = torch.autograd.grad(y.sin().sum(), leaves)
    eager = torch.autograd.grad(both(*leaves).sin().sum(), leaves)
    for a, b in zip(ours, eager, strict=True):
        torch.testing.assert_close(a, b)
    batch = torch.randn(4, 5, 32, device=device.device)
    torch.testing.assert_close(
        torch.func.vmap(lambda rows: both(rows, values, weight, down, up))(batch),
        torch.stack([both(rows, values, weight, down, up) for rows in batch]),
    )
    gradient = torch.func.grad(lambda v: both(x, v, weight, down, up).sin().sum())(values)
    torch.testing.assert_close(gradient, eager[1])
    with torch.autocast(device.device.type, dtype=torch.bfloat16):
        half = both(x, values, weight, down, up)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), expected, rtol=0.05, atol=0.3)


def test_forward_mode_is_refused(device):
    x, _, values, bitmask, *_ = make(device.device, torch.float32, 2, 8, 12)
    with pytest.raises(RuntimeError, match="forward-mode"):
        torch.func.jvp(lambda rows: lrkernels.sparse24_linear(rows, values, bitmask), (x,), (x,))


def test_the_packing_says_which_kernel_runs():
    x, _, values, bitmask, down, up, bias = make("cpu", torch.bfloat16, 2, 32, 64, 4)
    packing = packed_of(values, bitmask, True)
    for rows, packed, kernel in (
        (x, packing, "panels"),
        (x, None, "expanded"),
        (x.repeat(100, 1), packing, "expanded"),
    ):
        with lrkernels.trace() as kernels:
            lrkernels.sparse24_linear(rows, values, bitmask, packed, down, up, bias)
        assert any(f"sparse24_linear_{kernel}" in name for name in kernels), kernels
        assert f"sparse24_linear_{kernel}" in str(lrkernels.explain("sparse24_linear", rows, values, bitmask, packed))


def test_a_packing_of_something_else_is_refused():
    x, _, values, bitmask, *_ = make("cpu", torch.float32, 2, 32, 64)
    other = lrkernels.sparse24_pack(values.bfloat16(), bitmask)
    with pytest.raises(ValueError, match="sparse24_linear: packed has .* bytes, expected .*: pack these values"):
        lrkernels.sparse24_linear(x, values, bitmask, other)


def test_bitmask_of_numpy_is_read_right():
    """packbits of the tests is an independent reading of the format."""
    mask = random_mask(6, 20)
    values = torch.arange(60.0).reshape(6, 10)
    dense = lrkernels.sparse24_decompress(values, packbits(mask))
    assert torch.equal(dense[mask], values.flatten()) and not dense[~mask].any()


def test_error_does_not_grow_with_the_depth(device):
    """Against plain torch of the dense weight, in float32, where one running sum would be several times worse."""
    x, weight, values, bitmask, *_ = make(device.device, torch.float32, 3, 32, 16384)
    x, values, weight = x.abs(), values.abs(), weight.abs()  # nothing cancels: roundings of a long sum show
    y = op(x, values, bitmask, packed_of(values, bitmask, True))
    wide = exact(x)[0] @ exact(weight)[0].mT
    ours, plain = ((t.cpu().double() - wide).abs().max() for t in (y, x @ weight.mT))
    assert ours <= 2 * plain + 1e-7 * wide.max()


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
def test_several_strips(dtype):
    """Larger than what is expanded at once, in every direction."""
    features, out = 4096, 2100
    weight = torch.randn(out, features).to(dtype)
    mask = lrkernels.sparse24_mask(weight)
    values, bitmask = lrkernels.sparse24_compress(weight, mask)
    x, down, up, bias = (torch.randn(size).to(dtype) for size in ((5, features), (2, features), (out, 2), (out,)))
    leaves = [t.requires_grad_() for t in (x, values, down, up, bias)]
    y = op(x, values, bitmask, None, down, up, bias)
    wide = exact(x, torch.where(mask, weight, 0), down, up, bias)
    assert_near(y, exact_linear(*wide, 1.0), dtype, 4000.0 if dtype == torch.bfloat16 else 400.0, "y")
    grad = torch.randn(y.shape).to(dtype)
    dx, dvalues, *_ = torch.autograd.grad(y, leaves, grad)
    wide_grad = exact(grad)[0]
    assert_near(dx, wide_grad @ (wide[1] + wide[3] @ wide[2]), dtype, 400.0, "dx")
    assert_near(dvalues, (wide_grad.mT @ wide[0])[mask].reshape(values.shape), dtype, 60.0, "dvalues")


def test_autocast_with_and_without_a_packing(device):
    x, _, values, bitmask, *_ = make(device.device, torch.float32, 2, 16, 32)
    expected = op(x, values, bitmask)
    with torch.autocast(device.device.type, dtype=torch.bfloat16):
        for rest in ((), (None,), (packed_of(values, bitmask, True),)):
            for call in (op, lrkernels.sparse24_linear):
                y = call(x, values, bitmask, *rest)
                assert y.dtype == torch.bfloat16
                torch.testing.assert_close(y.float(), expected, rtol=0.05, atol=0.3)


def test_packings_that_are_views_or_of_other_matrices():
    x, _, values, bitmask, *_ = make("cpu", torch.bfloat16, 2, 32, 64)
    packing = packed_of(values, bitmask, True)
    size = packing.numel()
    for bad, message in (
        (packing[:1].expand(size), "packed has stride 0, expected what sparse24_pack returns"),
        (torch.stack([packing, packing], 1)[:, 0], "packed has stride 2, expected"),
        (torch.cat([packing[:1], packing])[1:], "packed starts at an odd address, expected"),
    ):
        with pytest.raises((ValueError, RuntimeError), match=f"sparse24_linear: {message}"):
            lrkernels.sparse24_linear(x, values, bitmask, bad)
    others = [lrkernels.sparse24_pack(values.half(), bitmask), packed_of(values, bitmask, True, transposable=True)]
    others.append(lrkernels.sparse24_pack(values[:17], bitmask[:17]))
    for other in others:
        assert other.numel() == size
        with pytest.raises(RuntimeError, match="sparse24_linear: packed is of another matrix than values and bitmask"):
            lrkernels.sparse24_linear(x, values, bitmask, other)


def test_vmap_over_values_does_not_read_a_packing_of_others(device):
    x, _, values, bitmask, *_ = make(device.device, torch.float32, 2, 16, 32)
    packing = packed_of(values, bitmask, True)
    scales = torch.tensor([1.0, 2.0], device=device.device)
    y = torch.func.vmap(lambda s: lrkernels.sparse24_linear(x, values * s, bitmask, packing))(scales)
    torch.testing.assert_close(y[1], 2 * y[0])
