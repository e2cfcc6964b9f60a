"""block_diagonal_apply on the CPU by torch's products or by our kernel: either when forced, and what explain says."""

import pytest
import torch
from test_block_diagonal import assert_near, exact_gradient, exact_product, make

import lrkernels

op = torch.ops.lrk.block_diagonal_apply
NAMES = ("library_gemm", "block_diagonal")


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
@pytest.mark.parametrize("transpose", (False, True))
@pytest.mark.parametrize("shared", (False, True))
@pytest.mark.parametrize("rows", (1, 37))
@pytest.mark.parametrize("name", NAMES)
def test_forced_either_way(dtype, transpose, shared, rows, name):
    x, blocks = make("cpu", dtype, (3, 48), (rows,), shared)
    x = torch.cat([x, x], -1)[:, : x.shape[-1]] if rows == 37 else x  # rows with a gap between them
    x, blocks, grad = x.requires_grad_(), blocks.requires_grad_(), torch.randn_like(x)
    with lrkernels.force(name), lrkernels.trace() as kernels:
        y = op(x, blocks, transpose=transpose)
        dx, dblocks = torch.autograd.grad(y, (x, blocks), grad)
    assert [kernel.startswith(name) for kernel in kernels] == [True] * (3 if name == "library_gemm" else 2), kernels
    assert_near(y, exact_product(x, blocks, transpose), dtype, "y", 2)
    assert_near(dx, exact_product(grad, blocks, not transpose), dtype, "dx", 2)
    assert_near(dblocks, exact_gradient(x, grad, blocks, transpose), dtype, "dblocks", 2)


@pytest.mark.parametrize("name", NAMES)
def test_columns_far_apart(name):
    x, blocks = make("cpu", torch.float32, (2, 20), (7,))
    with lrkernels.force(name):
        y = op(x.mT.contiguous().mT, blocks.mT.contiguous().mT)
    assert_near(y, exact_product(x, blocks), torch.float32, "y", 2)


def test_half_has_no_other_way_than_the_kernel():
    x, blocks = make("cpu", torch.bfloat16, (2, 32), blocks_dtype=torch.float32)
    with lrkernels.force("library_gemm"), lrkernels.trace() as kernels:
        op(x, blocks)
    assert len(kernels) == 1 and kernels[0].startswith("block_diagonal")


@pytest.mark.parametrize("name", ("block_diagonal_backward", "library_gemm", None))
def test_the_plan_of_the_gradient_is_what_runs(name):
    x, blocks = make("cpu", torch.float32, (2, 256))
    arguments, scalars = (torch.randn_like(x), x, blocks), {"transpose": False, "needs_dx": True}
    backward = torch.ops.lrk._block_diagonal_backward
    with lrkernels.force(name) if name else lrkernels.trace():
        (plan,) = lrkernels.explain(backward, *arguments, **scalars)
        with lrkernels.trace() as kernels:
            backward(*arguments, **scalars)
    assert {plan.kernel} == set(kernels)


@pytest.mark.parametrize("block", (32, 256))
@pytest.mark.parametrize("name", (*NAMES, None))
def test_explain_agrees_with_the_trace(block, name):
    x, blocks = make("cpu", torch.float32, (2, block))
    with lrkernels.force(name) if name else lrkernels.trace():
        (plan,) = lrkernels.explain("block_diagonal_apply", x, blocks)
        with lrkernels.trace() as kernels:
            op(x, blocks)
    assert [plan.kernel] == kernels
    assert len(plan.rejected) == 1
    if name:
        assert plan.kernel.startswith(name)


LAYOUTS = {
    "a vector": ((), lambda x: x),
    "one leading dimension": ((6,), lambda x: x),
    "two": ((2, 3), lambda x: x),
    "three": ((2, 2, 3), lambda x: x),
    "a slice": ((2, 7), lambda x: x[:, ::2]),
    "swapped, no single stride": ((2, 3, 4), lambda x: x.transpose(0, 1)),
}


@pytest.mark.parametrize("shared", (False, True))
@pytest.mark.parametrize("transpose", (False, True))
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", NAMES)
def test_leading_dimensions_either_way(name, layout, transpose, shared):
    leading, of = LAYOUTS[layout]
    x, blocks = make("cpu", torch.float32, (3, 24), leading, shared)
    grad = of(torch.randn_like(x))
    x, blocks = of(x).requires_grad_(), blocks.requires_grad_()
    with lrkernels.force(name), lrkernels.trace() as kernels:
        y = op(x, blocks, transpose=transpose)
        dx, dblocks = torch.autograd.grad(y, (x, blocks), grad)
        (alone,) = torch.autograd.grad(op(x.detach(), blocks, transpose=transpose), blocks, grad)
    assert kernels and all(kernel.startswith(name) for kernel in kernels), kernels
    assert_near(y, exact_product(x, blocks, transpose), torch.float32, "y", 2)
    assert_near(dx, exact_product(grad, blocks, not transpose), torch.float32, "dx", 2)
    expected = exact_gradient(x.detach(), grad, blocks, transpose)
    assert_near(dblocks, expected, torch.float32, "dblocks", 2)
    assert_near(alone, expected, torch.float32, "dblocks alone", 2)


@pytest.mark.parametrize("name", (*NAMES, None))
def test_a_layer_of_wide_blocks_takes_a_sequence(name):
    layer = lrkernels.nn.OFTLinear(torch.nn.Linear(512, 8), block_size=256)
    with torch.no_grad():
        layer.rotation.skew.normal_(std=0.05)
    x = torch.randn(2, 3, 512, requires_grad=True)
    with lrkernels.force(name) if name else lrkernels.trace():
        y = layer(x)
        (dx,) = torch.autograd.grad(y.square().sum(), x)
    rows = x.detach().reshape(6, 512).requires_grad_()
    flat = rows @ torch.block_diag(*lrkernels.cayley(layer.rotation.skew.detach(), 256)) @ layer.base_layer.weight.mT
    flat = flat + layer.base_layer.bias
    (expected,) = torch.autograd.grad(flat.square().sum(), rows)
    torch.testing.assert_close(y, flat.view(2, 3, 8), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(dx, expected.view(2, 3, 512), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shared", (False, True))
def test_the_plan_counts_the_librarys_copy(shared):
    x, blocks = make("cpu", torch.float32, (3, 16), (5,), shared)
    size = 0 if shared else x.numel() * x.element_size()
    backward = torch.ops.lrk._block_diagonal_backward
    with lrkernels.force("library_gemm"):
        (plan,) = lrkernels.explain("block_diagonal_apply", x, blocks)
        assert plan.workspace_bytes == size
        for needs_dx in (False, True):
            (plan,) = lrkernels.explain(backward, x, x, blocks, transpose=False, needs_dx=needs_dx)
            assert plan.workspace_bytes == (size if needs_dx else 0)
