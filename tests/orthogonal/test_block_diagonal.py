"""block_diagonal_apply on every backend: values and gradients against a product a block in float64, and torch's
machinery."""

import math

import numpy as np
import pytest
import torch
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.library import opcheck

import lrkernels
from lrkernels import reference, testing

op = torch.ops.lrk.block_diagonal_apply
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
# (blocks in a row, block)
SHAPES = ((1, 1), (5, 1), (4, 2), (3, 3), (7, 5), (3, 8), (2, 16), (3, 17), (4, 32), (2, 33), (1, 48), (2, 64))


def exact_product(x, blocks, transpose=False):
    """A product a block, in float64."""
    x, blocks = (t.detach().cpu().double().numpy() for t in (x, blocks))
    block, y = blocks.shape[-1], np.zeros(x.shape)
    for n in range(x.shape[-1] // block):
        matrix, columns = blocks[n % len(blocks)], slice(n * block, (n + 1) * block)
        with np.errstate(invalid="ignore"):  # Inf - Inf and 0 * Inf are what they are
            y[..., columns] = x[..., columns] @ (matrix.T if transpose else matrix)
    return y


def exact_gradient(x, grad, blocks, transpose=False):
    x, grad = (t.detach().cpu().double().numpy().reshape(-1, t.shape[-1]) for t in (x, grad))
    block, result = blocks.shape[-1], np.zeros(blocks.shape)
    for n in range(x.shape[-1] // block):
        columns = slice(n * block, (n + 1) * block)
        product = x[:, columns].T @ grad[:, columns]
        result[n % len(blocks)] += product.T if transpose else product
    return result


def make(device, dtype, shape, leading=(5,), shared=False, blocks_dtype=None):
    count, block = shape
    x = torch.randn(*leading, count * block, dtype=torch.float64).to(dtype)
    blocks = torch.randn(1 if shared else count, block, block, dtype=torch.float64) / math.sqrt(block)
    return x.to(device), blocks.to(blocks_dtype or dtype).to(device)


def tolerance(dtype, size=1.0):
    """Half inputs are summed in float32, so what is left is the result's own rounding."""
    return {torch.float32: 3e-6, torch.float64: 1e-13, torch.bfloat16: 2**-8, torch.float16: 2**-10}[dtype] * size


def assert_near(ours, exact, dtype, what, slack=1.0):
    assert ours.dtype == dtype and ours.is_contiguous(), what
    exact = torch.as_tensor(exact)
    assert ours.shape == exact.shape, what
    largest = exact.abs().amax().item() if exact.numel() else 0.0
    np.testing.assert_allclose(
        ours.detach().cpu().double().numpy(),
        exact.numpy(),
        rtol=0,
        atol=tolerance(dtype, slack * max(largest, 1.0)),
        err_msg=what,
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("transpose", (False, True))
@pytest.mark.parametrize("shared", (False, True))
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients(device, shape, shared, transpose, dtype):
    x, blocks = make(device.device, dtype, shape, (3, 7), shared)
    x.requires_grad_(), blocks.requires_grad_()
    y = op(x, blocks, transpose=transpose)
    assert_near(y, exact_product(x, blocks, transpose), dtype, "y")
    grad = torch.randn(y.shape, dtype=torch.float64).to(dtype).to(device.device)
    dx, dblocks = torch.autograd.grad(y, (x, blocks), grad)
    assert_near(dx, exact_product(grad, blocks, not transpose), dtype, "dx")
    assert_near(dblocks, exact_gradient(x, grad, blocks, transpose), dtype, "dblocks")
    for leaf, both in ((x, dx), (blocks, dblocks)):
        (alone,) = torch.autograd.grad(op(x, blocks, transpose=transpose), leaf, grad)
        torch.testing.assert_close(alone, both, rtol=0, atol=tolerance(dtype))


@pytest.mark.parametrize("block", (128, 200, 256, 257))
def test_wide_blocks(device, block):
    for dtype in (torch.float32, torch.bfloat16):
        x, blocks = make(device.device, dtype, (2, block), (19,), blocks_dtype=torch.float32)
        x.requires_grad_(), blocks.requires_grad_()
        y = op(x, blocks)
        assert_near(y, exact_product(x, blocks), dtype, "y")
        grad = torch.randn(y.shape).to(dtype).to(device.device)
        dx, dblocks = torch.autograd.grad(y, (x, blocks), grad)
        assert_near(dx, exact_product(grad, blocks, True), dtype, "dx")
        assert_near(dblocks, exact_gradient(x, grad, blocks), torch.float32, "dblocks")


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
def test_a_block_wider_than_what_a_cpu_stages(dtype):
    x, blocks = make("cpu", dtype, (2, 1030), (3,), blocks_dtype=torch.float32)
    grad = torch.randn(x.shape).to(dtype)
    for transpose in (False, True):
        leaves = x.clone().requires_grad_(), blocks.clone().requires_grad_()
        y = op(*leaves, transpose=transpose)
        dx, dblocks = torch.autograd.grad(y, leaves, grad)
        assert_near(y, exact_product(x, blocks, transpose), dtype, "y")
        assert_near(dx, exact_product(grad, blocks, not transpose), dtype, "dx")
        assert_near(dblocks, exact_gradient(x, grad, blocks, transpose), torch.float32, "dblocks")


@pytest.mark.parametrize("scale", (1.0, 1e-6, 1e6))
@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16))
def test_half_with_float32_blocks(device, dtype, scale):
    """R keeps float32's accuracy: a rounding of R to half would show in x R Rt."""
    block = 32
    rotation = torch.linalg.qr(torch.randn(3, block, block, dtype=torch.float64))[0]
    x = torch.zeros(3 * block, 3 * block, dtype=dtype, device=device.device)
    x.diagonal().fill_(1)  # rows of the identity read R out, so that only y's rounding is left
    blocks = (rotation * scale).float().to(device.device).requires_grad_()
    if scale > 1 and dtype == torch.float16:
        x *= 2**-14
    y = op(x, blocks)
    exact = torch.as_tensor(exact_product(x, blocks))
    error = (y.detach().cpu().double() - exact).abs()
    smallest = torch.finfo(dtype).tiny * torch.finfo(dtype).eps
    assert (error <= exact.abs() * torch.finfo(dtype).eps * 0.51 + smallest).all()
    (dblocks,) = torch.autograd.grad(y.float().sum(), blocks)
    assert dblocks.dtype == torch.float32


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16))
def test_sums_are_not_rounded_to_half_on_the_way(device, dtype):
    """Twice: by the matrix and back is x to one rounding of y, where a half R would lose several."""
    rotation = lrkernels.cayley(torch.randn(4, 496), 32).to(device.device)
    x = torch.randn(64, 128).to(dtype).to(device.device)
    back = op(op(x, rotation), rotation, transpose=True)
    assert (back.float() - x.float()).square().mean().sqrt() < torch.finfo(dtype).eps * 0.75


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
@pytest.mark.parametrize(
    "layout",
    {
        "transposed": lambda x: x.mT.contiguous().mT,
        "every other": lambda x: torch.stack([x, x], -1).flatten(-2)[..., ::2],
        "expanded": lambda x: x[:1].expand(x.shape),
        "rows of a wider matrix": lambda x: torch.cat([x, x], -1)[..., : x.shape[-1]],
        "odd offset": lambda x: torch.cat([x[..., :1], x], -1)[..., 1:],
        "three leading dimensions": lambda x: x.unflatten(0, (2, 1, 3)),
        "swapped leading dimensions": lambda x: x.unflatten(0, (2, 3)).transpose(0, 1),
    }.items(),
    ids=lambda layout: layout[0],
)
def test_strides_do_not_matter(device, dtype, layout):
    for shape in ((3, 24), (4, 6), (5, 7)):
        x, blocks = make(device.device, dtype, shape, (6,))
        x = layout[1](x)
        y, expected = op(x, blocks), op(x.contiguous(), blocks)
        assert torch.equal(y, expected)
        grads = []
        for leaves in ((x.detach(), blocks.clone()), (x.contiguous(), blocks.clone())):
            [leaf.requires_grad_() for leaf in leaves]
            grads.append(torch.autograd.grad(op(*leaves).sin().sum(), leaves))
        assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_strides_of_the_blocks_do_not_matter(device):
    for dtype in (torch.float32, torch.bfloat16):
        x, blocks = make(device.device, dtype, (3, 12), (6,))
        assert torch.equal(op(x, blocks.mT), op(x, blocks.mT.contiguous()))
        y = op(x, blocks.mT, transpose=True)
        torch.testing.assert_close(y, op(x, blocks), rtol=0, atol=tolerance(dtype))
        wide = torch.cat([blocks, blocks], -1)[..., :12]
        assert torch.equal(op(x, wide), op(x, blocks))
        one = blocks[:1].expand(3, 12, 12).requires_grad_()
        (dblocks,) = torch.autograd.grad(op(x, one).float().sum(), one)
        assert dblocks.shape == (3, 12, 12)


@pytest.mark.parametrize("leading", ((0,), (2, 0, 3), ()))
def test_leading_dimensions(device, leading):
    for shared in (False, True):
        x, blocks = make(device.device, torch.float32, (3, 4), leading, shared)
        x.requires_grad_(), blocks.requires_grad_()
        y = lrkernels.block_diagonal_apply(x, blocks)
        assert y.shape == x.shape
        dx, dblocks = torch.autograd.grad(y.sum(), (x, blocks))
        assert dx.shape == x.shape and (leading == () or dblocks.eq(0).all())


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
def test_one_column_of_a_transposed_matrix(device, dtype):
    """Its columns are not next to each other, and there is only one."""
    x = torch.randn(5, 4, dtype=dtype, device=device.device).T[:, :1].requires_grad_()
    blocks = torch.full((1, 1, 1), 2.0, dtype=dtype, device=device.device, requires_grad=True)
    assert x.stride() == (1, 4)
    y = op(x, blocks)
    dx, dblocks = torch.autograd.grad(y, (x, blocks), torch.ones_like(x))
    assert torch.equal(y, 2 * x) and torch.equal(dx, torch.full_like(x, 2.0))
    torch.testing.assert_close(dblocks.flatten(), x.float().sum(0).to(dtype))


@pytest.mark.parametrize("count", (0, 1))
def test_no_features(device, count):
    x, blocks = torch.zeros(3, 0, device=device.device), torch.zeros(count, 4, 4, device=device.device)
    blocks.requires_grad_()
    y = op(x, blocks)
    assert y.shape == (3, 0)
    (dblocks,) = torch.autograd.grad(y.sum(), blocks)
    assert dblocks.eq(0).all() and dblocks.shape == (count, 4, 4)


def assert_as_in_float(y, exact, dtype):
    """NaN, Inf and its sign where float64's result rounded to dtype has them, and near it elsewhere."""
    expected = torch.as_tensor(exact).to(dtype).double()
    y = y.detach().cpu().double()
    assert torch.equal(y.isnan(), expected.isnan())
    assert torch.equal(y.isinf(), expected.isinf()) and torch.equal(y[y.isinf()], expected[y.isinf()])
    finite = expected.isfinite()
    torch.testing.assert_close(y[finite], expected[finite], rtol=torch.finfo(dtype).eps, atol=torch.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16))
@pytest.mark.parametrize("matrices", ("identity", "general", "of many sizes"))
@pytest.mark.parametrize("special", (math.inf, -math.inf, "largest"))
def test_large_rows_times_float32_blocks(device, special, matrices, dtype):
    """What an infinite x makes of every sign and zero of R, whatever R's halves are."""
    x, blocks = make(device.device, dtype, (4, 6), (9,), blocks_dtype=torch.float32)
    if matrices == "identity":
        blocks = torch.eye(6, device=device.device).expand(4, 6, 6).contiguous()
    if matrices == "of many sizes":
        blocks *= 10.0 ** torch.arange(0, -36, -6, device=device.device)
    x[2, 8] = torch.finfo(dtype).max * 0.875 if special == "largest" else special
    for transpose in (False, True):
        assert_as_in_float(op(x, blocks, transpose=transpose), exact_product(x, blocks, transpose), dtype)


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16))
@pytest.mark.parametrize("largest", (math.inf, 3.4e38, 1e33, 1e-33, 1e-41))
def test_float32_blocks_beyond_halfs_range(device, largest, dtype):
    """One element that no half number is near: rows that meet it overflow or not as they do in float."""
    blocks = torch.eye(6).expand(2, 6, 6).contiguous()
    blocks[0] *= min(largest, 1.0)
    blocks[0, 2, 3] = largest
    x = torch.zeros(3, 12, dtype=dtype)
    x[0], x[1, :2], x[2, 2] = 1.5, 1.5, 2**-10
    columns = [3, *range(6, 12)]  # the other sums have no addend near the largest
    y = op(x.to(device.device), blocks.to(device.device))[:, columns]
    assert_as_in_float(y, exact_product(x, blocks)[:, columns], dtype)


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float16))
@pytest.mark.parametrize("special", (math.nan, math.inf))
def test_what_is_not_finite_stays_in_its_row_and_block(device, dtype, special):
    x, blocks = make(device.device, dtype, (4, 6), (9,), blocks_dtype=torch.float32)
    expected = op(x, blocks)
    x[2, 8] = special
    y = op(x, blocks)
    touched = torch.zeros(9, 24, dtype=torch.bool, device=device.device)
    touched[2, 6:12] = True
    assert not y[touched].isfinite().any() and torch.equal(y[~touched], expected[~touched])
    x, blocks = make(device.device, dtype, (4, 6), (9,), blocks_dtype=torch.float32)
    expected = op(x, blocks)
    blocks[1, 2, 3] = special
    y = op(x, blocks)
    touched = torch.zeros(9, 24, dtype=torch.bool, device=device.device)
    touched[:, 9] = True
    assert not y[touched].isfinite().any() and torch.equal(y[~touched], expected[~touched])
    if special == math.inf:
        assert torch.equal(y[:, 9].sign(), x[:, 8].sign())


@pytest.mark.parametrize("rows", (1, 7, 57, 112, 300))
def test_any_number_of_rows_and_the_same_bits_again(device, rows):
    for shared in (False, True):
        x, blocks = make(device.device, torch.float32, (5, 12), (rows,), shared)
        results = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            leaves = x.clone().requires_grad_(), blocks.clone().requires_grad_()
            y = op(*leaves)
            results.append((y, *torch.autograd.grad(y.sin().sum(), leaves)))
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
        leaves = x.clone().requires_grad_(), blocks.clone().requires_grad_()
        plain = reference.block_diagonal_apply(*leaves)
        for ours, theirs in zip(results[0], (plain, *torch.autograd.grad(plain.sin().sum(), leaves)), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=2e-5 * rows**0.5)


def test_a_wide_row_and_many_rows(device):
    """More than one range of blocks and of rows on the CPU; more than one part of the sum on CUDA."""
    x, blocks = make(device.device, torch.float32, (80, 32), (200,))
    grad = torch.randn_like(x)
    for transpose in (False, True):
        for matrices in (blocks, blocks[:1]):
            leaves = x.requires_grad_(), matrices.clone().requires_grad_()
            y = op(*leaves, transpose=transpose)
            dx, dblocks = torch.autograd.grad(y, leaves, grad)
            assert_near(y, exact_product(x, matrices, transpose), torch.float32, "y")
            assert_near(dx, exact_product(grad, matrices, not transpose), torch.float32, "dx")
            assert_near(dblocks, exact_gradient(x, grad, matrices, transpose), torch.float32, "dblocks")


def test_one_matrix_of_many_blocks(device):
    """Its gradient sums over the blocks, too: equal addends, whose roundings one long sum would all make alike."""
    x = torch.full((1, 8192), 0.7, device=device.device)
    blocks = torch.eye(2, device=device.device)[None].requires_grad_()
    (dblocks,) = torch.autograd.grad(op(x, blocks).sum(), blocks)
    assert_near(dblocks, exact_gradient(x, torch.ones_like(x), blocks), torch.float32, "dblocks")


def test_an_error_of_a_kernel_names_the_op_once():
    if (reason := testing.unavailable("cuda_emulated")) is not None:
        pytest.skip(reason)
    x = torch.zeros(1, 46337, dtype=torch.bfloat16)
    blocks = x.expand(1, 46337, 46337)
    with testing.backend("cuda_emulated"), pytest.raises(RuntimeError) as caught:
        op(x, blocks)
    first = str(caught.value).splitlines()[0]
    assert first.startswith("block_diagonal_apply: blocks of 46337 are too large"), first
    assert first.count("block_diagonal") == 1


def test_rows_that_are_split_on_cuda():
    if (reason := testing.unavailable("cuda_emulated")) is not None:
        pytest.skip(reason)
    with testing.backend("cuda_emulated"):
        for dtype in (torch.float32, torch.bfloat16):
            x, blocks = make("cpu", dtype, (2, 8), (1030,), blocks_dtype=torch.float32)
            blocks.requires_grad_()
            grad = torch.randn(x.shape).to(dtype)
            (dblocks,) = torch.autograd.grad(op(x, blocks), blocks, grad)
            assert_near(dblocks, exact_gradient(x, grad, blocks), torch.float32, "dblocks")


def test_blocks_of_rows_dtype_are_one_half():
    """A block in x's own dtype has no low half to be multiplied by."""
    if (reason := testing.unavailable("cuda_emulated")) is not None:
        pytest.skip(reason)
    with testing.backend("cuda_emulated"):
        x, blocks = make("cpu", torch.bfloat16, (3, 40), (5,))
        (one,) = lrkernels.explain("block_diagonal_apply", x, blocks)
        (two,) = lrkernels.explain("block_diagonal_apply", x, blocks.float())
        lines = 3 * 2 * 32 * 40 * 2  # of two column tiles, in bytes
        assert (one.workspace_bytes, two.workspace_bytes) == (lines + 256, 2 * lines + 256)
        assert torch.equal(op(x, blocks), op(x, blocks.float()))


# --- Derivatives of every order, and what is kept for them.


@pytest.mark.parametrize("transpose", (False, True))
@pytest.mark.parametrize("shared", (False, True))
def test_gradcheck_and_gradgradcheck(shared, transpose):
    x, blocks = make("cpu", torch.float64, (3, 3), (2, 2), shared)
    x.requires_grad_(), blocks.requires_grad_()
    apply = lambda x, blocks: op(x, blocks, transpose=transpose)  # noqa: E731
    assert gradcheck(apply, (x, blocks)) and gradgradcheck(apply, (x, blocks))
    assert gradcheck(lambda x: apply(x, blocks.detach()), (x,))
    assert gradgradcheck(lambda x: apply(x, blocks.detach()), (x,))
    assert gradcheck(lambda blocks: apply(x.detach(), blocks), (blocks,))


@pytest.mark.parametrize(("trains", "kept"), (("x", [(2, 4, 4)]), ("blocks", [(2, 4, 4), (5, 8)])))
def test_what_is_saved(trains, kept):
    x, blocks = make("cpu", torch.float32, (2, 4))
    (x if trains == "x" else blocks).requires_grad_()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(tuple(t.shape)) or t, lambda t: t):
        lrkernels.block_diagonal_apply(x, blocks)
    assert sorted(saved) == kept


def test_forward_mode_raises():
    x, blocks = make("cpu", torch.float32, (2, 4))
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match="block_diagonal_apply: forward-mode"):
        lrkernels.block_diagonal_apply(forward_ad.make_dual(x, x), blocks)


# --- torch's machinery.


def test_opcheck(device):
    for dtype, blocks_dtype in ((torch.float32, None), (torch.bfloat16, torch.float32)):
        for shared in (False, True):
            x, blocks = make(device.device, dtype, (3, 4), (2, 3), shared, blocks_dtype)
            leaves = (x.clone().requires_grad_(), blocks.clone().requires_grad_())
            opcheck(op.default, leaves, {"transpose": shared}, atol=0.02, rtol=0.02)
            for needs_dx in (False, True):
                opcheck(
                    torch.ops.lrk._block_diagonal_backward.default,
                    (x, x, blocks),
                    {"transpose": False, "needs_dx": needs_dx},
                    test_utils=("test_schema", "test_faketensor"),
                )


def test_compile():
    def layer(x, skew):
        rotation = lrkernels.cayley(skew, 4)
        y = lrkernels.block_diagonal_apply(x, rotation)
        return lrkernels.block_diagonal_apply(y.relu(), rotation, transpose=True)

    x, _ = make("cpu", torch.float32, (3, 4))
    x, skew = x.requires_grad_(), torch.randn(3, 6, requires_grad=True)
    results = [torch.compile(layer, fullgraph=True)(x, skew), layer(x, skew)]
    torch.testing.assert_close(*results)
    for ours, eager in zip(*(torch.autograd.grad(y.sum(), (x, skew)) for y in results), strict=True):
        torch.testing.assert_close(ours, eager)


def test_compile_does_not_recompile_for_other_rows():
    compiled = torch.compile(lambda x, blocks: lrkernels.block_diagonal_apply(x, blocks), fullgraph=True, dynamic=True)
    _, blocks = make("cpu", torch.float32, (3, 4))
    with torch._dynamo.config.patch(error_on_recompile=True):
        for rows in (5, 6, 9):
            x = torch.randn(rows, 12)
            torch.testing.assert_close(compiled(x, blocks), op(x, blocks))


def test_transforms():
    x, blocks = make("cpu", torch.float64, (2, 4), (5,))
    apply = lrkernels.block_diagonal_apply
    many = blocks + torch.arange(3.0, dtype=torch.float64)[:, None, None, None]
    for in_dims, arguments in (((0, None), (x[None].repeat(3, 1, 1), blocks)), ((1, None), (x.mT, blocks))):
        expected = torch.stack([apply(v, blocks) for v in arguments[0].unbind(in_dims[0])])
        torch.testing.assert_close(torch.vmap(apply, in_dims)(*arguments), expected)
    torch.testing.assert_close(torch.vmap(apply, (None, 0))(x, many), torch.stack([apply(x, b) for b in many]))
    loss = lambda blocks, x: apply(x, blocks).sin().sum()  # noqa: E731
    per_sample = torch.vmap(torch.func.grad(loss), (None, 0))(blocks, x)
    torch.testing.assert_close(per_sample, torch.stack([torch.func.grad(loss)(blocks, row) for row in x]))
    hessian = torch.func.jacrev(torch.func.jacrev(loss))(blocks, x)
    torch.testing.assert_close(hessian, hessian.permute(3, 4, 5, 0, 1, 2))


def test_autocast(device):
    x, blocks = make(device.device, torch.float32, (2, 8))
    with torch.autocast(device.device.type, torch.bfloat16):
        y = lrkernels.block_diagonal_apply(x, blocks)
    assert y.dtype == torch.bfloat16 and torch.equal(y, op(x.bfloat16(), blocks))


def test_explain(device):
    for dtype in (torch.float32, torch.bfloat16):
        x, blocks = make(device.device, dtype, (2, 8))
        plans = lrkernels.explain("block_diagonal_apply", x, blocks)
        assert [plan.primitive for plan in plans] == ["block_diagonal"] and plans[0].workspace_bytes >= 0
        with lrkernels.force(plans[0].kernel), lrkernels.trace() as kernels:
            op(x, blocks)
        assert kernels == [plans[0].kernel]


# --- Arguments.

x8, blocks4 = torch.ones(3, 8), torch.ones(2, 4, 4)
BAD = [
    ((None, blocks4), {}, TypeError, "x is a NoneType, expected a torch.Tensor"),
    ((x8, None), {}, TypeError, "blocks is a NoneType, expected a torch.Tensor"),
    ((x8.int(), blocks4), {}, TypeError, "x has dtype torch.int32, expected torch.float32"),
    ((torch.tensor(1.0), blocks4), {}, ValueError, "x has no dimensions, expected (..., features)"),
    ((x8, blocks4[0]), {}, ValueError, "blocks has shape (4, 4), expected (features / block or 1, block, block)"),
    ((x8, blocks4[..., :3]), {}, ValueError, "blocks has shape (2, 4, 3), expected (features / block or 1, block"),
    ((x8, torch.ones(2, 0, 0)), {}, ValueError, "blocks has shape (2, 0, 0), expected (features / block or 1, block"),
    (
        (x8[:, :6], blocks4),
        {},
        ValueError,
        "blocks has shape (2, 4, 4), expected a block that divides 6 because x is (3, 6)",
    ),
    (
        (torch.ones(3, 12), blocks4),
        {},
        ValueError,
        "blocks has shape (2, 4, 4), expected (3, 4, 4) or (1, 4, 4) because x is (3, 12)",
    ),
    ((x8, blocks4.double()), {}, TypeError, "blocks has dtype torch.float64, expected torch.float32 because x"),
    ((x8.half(), blocks4.bfloat16()), {}, TypeError, "blocks has dtype torch.bfloat16, expected torch.float16"),
]


@pytest.mark.parametrize(("arguments", "scalars", "kind", "message"), BAD, ids=[b[3][:40] for b in BAD])
def test_wrong_arguments(arguments, scalars, kind, message):
    with pytest.raises(kind) as caught:
        lrkernels.block_diagonal_apply(*arguments, **scalars)
    assert f"block_diagonal_apply: {message}" in str(caught.value)
    with pytest.raises(RuntimeError) as caught:
        op(*arguments, **scalars)
    assert message in str(caught.value) or ("NoneType" in message and "NoneType" in str(caught.value))
