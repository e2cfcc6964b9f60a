"""Derivatives of lowrank_linear_indexed in float64, what is kept for them, and torch's machinery around it."""

from functools import partial

import pytest
import torch
from indexed_cases import IndexedCase, exact_indexed, make_case
from torch._dynamo.testing import CompileCounterWithBackend
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.library import opcheck

import lrkernels

CPU = torch.device("cpu")
op = torch.ops.lrk.lowrank_linear_indexed
SETUPS = {
    "lora": dict(),
    "pure, one rank": dict(weight=False, bias=False, mixed_ranks=False),
    "base, no scales": dict(weight=False, base=True, scales=False),
}


def small(**kwargs) -> IndexedCase:
    index = kwargs.pop("index", [0, -1, 2, 0])
    return make_case(CPU, torch.float64, (2, 2), 4, 3, 2, 3, index=index, hidden=0.5, **kwargs)


@pytest.mark.parametrize("setup", SETUPS)
def test_gradcheck_and_gradgradcheck(setup):
    case = small(**SETUPS[setup]).differentiable()
    leaves = case.leaves()

    def f(*values):
        return IndexedCase(**vars(case) | dict(zip(leaves, values, strict=True))).call(op)

    assert gradcheck(f, tuple(leaves.values()))
    assert gradgradcheck(f, tuple(leaves.values()))


@pytest.mark.parametrize("wanted", ("x", "downs", "ups", "scales", "weight", "bias", "base"))
def test_one_gradient_alone(wanted):
    """Only what needs a gradient is computed: asking for one must not need the others."""
    case = small(weight=wanted != "base", base=wanted == "base")
    leaf = getattr(case, wanted).requires_grad_()
    y = case.call(op)
    grad = torch.randn_like(y)
    (ours,) = torch.autograd.grad(y, leaf, grad)
    (exact,) = torch.autograd.grad(case.call(exact_indexed), leaf, grad)
    torch.testing.assert_close(ours, exact)


def test_what_is_saved():
    case = make_case(CPU, torch.float32, (11,), 13, 7, 3)
    sizes = []

    def pack(tensor):
        sizes.append(tuple(tensor.shape))
        return tensor

    case.ups.requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        case.call(op)
    assert (11, 13) not in sizes, "downs is frozen, so x must not be saved"
    assert (11, 3) in sizes and (7, 13) not in sizes
    sizes.clear()
    case.downs.requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        case.call(op)
    assert sizes.count((11, 13)) == 1


@pytest.mark.parametrize("setup", SETUPS)
def test_opcheck(device, setup):
    case = make_case(device.device, torch.float32, (2, 3), hidden=0.5, **SETUPS[setup]).differentiable()
    opcheck(op.default, case.tensors)


def test_opcheck_of_the_backward(device):
    case = make_case(device.device, torch.float32, hidden=0.5)
    grad, projected = torch.randn(19, 18, device=device.device), torch.randn(19, 6, device=device.device)
    tensors = (grad, case.downs, case.ups, case.index, case.ranks, case.scales, case.x, projected, case.weight)
    for needs in (15, 1, 2, 4, 8):
        backward = torch.ops.lrk._lowrank_linear_indexed_backward.default
        opcheck(backward, tensors, {"needs": needs}, test_utils=("test_schema", "test_faketensor"))


def test_the_backward_op_checks_what_was_saved():
    """Saved tensors come back through hooks that people write; a kernel would read past their end."""
    case = make_case(CPU, torch.float32, hidden=0.5)
    grad, projected = torch.randn(19, 18), torch.randn(19, 6)
    tensors = (grad, case.downs, case.ups, case.index, case.ranks, case.scales, case.x, projected, case.weight)
    backward = torch.ops.lrk._lowrank_linear_indexed_backward
    backward(*tensors, needs=15)
    for position, tensor in enumerate(tensors):
        for wrong in (tensor[:-1], torch.cat([tensor, tensor], -1), tensor[None], tensor.bool(), tensor - 1000):
            if tensor.is_floating_point() and wrong.dtype == tensor.dtype and wrong.shape == tensor.shape:
                continue  # any numbers are right there
            changed = [*tensors[:position], wrong, *tensors[position + 1 :]]
            with pytest.raises(RuntimeError, match="lowrank_linear_indexed_backward: "):
                backward(*changed, needs=15)


def test_compiled_once_for_every_index_and_two_row_counts():
    counter = CompileCounterWithBackend("aot_eager")

    @torch.compile(fullgraph=True, backend=counter)
    def layer(x, downs, ups, index, ranks, scales, weight, bias):
        return op(x, downs, ups, index, ranks, scales, weight, bias)

    for trial in range(8):
        case = make_case(CPU, torch.float32, (5 + 3 * trial,), hidden=0.5).differentiable()
        tensors = case.tensors[:8]
        y, expected = layer(*tensors), exact_indexed(*tensors)
        torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
        leaves = list(case.leaves().values())
        ours = torch.autograd.grad(y.pow(2).sum(), leaves)
        for a, b in zip(ours, torch.autograd.grad(expected.pow(2).sum(), leaves), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    assert counter.frame_count <= 2, "one compilation, and one more when the number of rows turns dynamic"


def test_the_twin_compiles_too():
    case = make_case(CPU, torch.float32, hidden=0.5)
    layer = torch.compile(lrkernels.lowrank_linear_indexed, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(layer(*case.tensors), case.call(exact_indexed), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dim", (0, 1))
def test_vmap_over_rows_and_index_is_one_call(dim):
    case = make_case(CPU, torch.float64, (3,), hidden=0.5)
    xs, indices = torch.randn(3, 6, 33, dtype=torch.float64), torch.randint(-1, 4, (6, 3))
    if dim == 0:
        xs = xs.transpose(0, 1)

    def layer(x, index, function=op):
        return function(x, case.downs, case.ups, index, case.ranks, case.scales, case.weight, case.bias)

    with lrkernels.trace() as kernels:
        ours = torch.vmap(layer, in_dims=(dim, 0))(xs, indices)
    assert sum("project" in name for name in kernels) == 1, kernels
    exact = [layer(x, index, exact_indexed) for x, index in zip(xs.unbind(dim), indices, strict=True)]
    torch.testing.assert_close(ours, torch.stack(exact))
    shared = torch.vmap(lambda x: layer(x, indices[0]), in_dims=dim)(xs)
    torch.testing.assert_close(shared[2], layer(xs.select(dim, 2), indices[0], exact_indexed))


def test_vmap_of_the_twin_over_rows_index_and_ranks():
    """The twin looks at what index and ranks hold before any work, under vmap too."""
    case = make_case(CPU, torch.float64, (5,), hidden=0.5)
    xs, indices = torch.randn(3, 5, 33, dtype=torch.float64), torch.randint(-1, 4, (3, 5))
    ranks = torch.stack([case.ranks, torch.zeros_like(case.ranks), case.ranks.clamp(max=1)])

    def loss(x, index, rank, function=lrkernels.lowrank_linear_indexed):
        return function(x, case.downs, case.ups, index, rank, case.scales).square().sum()

    for of_one in (loss, torch.func.grad(loss)):
        exact = partial(of_one, function=exact_indexed)
        samples = [exact(*each) for each in zip(xs, indices, ranks, strict=True)]
        torch.testing.assert_close(torch.vmap(of_one)(xs, indices, ranks), torch.stack(samples))
    with pytest.raises(ValueError, match="index holds 4 for row"):
        torch.vmap(loss)(xs, indices.clamp(min=0) * 0 + 4, ranks)
    with pytest.raises(ValueError, match="ranks holds -1 for adapter"):
        torch.vmap(loss)(xs, indices, ranks * 0 - 1)


def test_vmap_over_factors():
    case = make_case(CPU, torch.float64, (5,), hidden=0.5)
    ups = torch.randn(3, *case.ups.shape, dtype=torch.float64)

    def layer(up, function=op):
        return function(case.x, case.downs, up, case.index, case.ranks)

    torch.testing.assert_close(torch.vmap(layer)(ups), torch.stack([layer(up, exact_indexed) for up in ups]))


def test_func_grad_through_the_twin():
    case = small()

    def loss(function, downs):
        return function(case.x, downs, *case.tensors[2:]).pow(2).sum()

    for transform in (lambda f: torch.func.grad(f), lambda f: torch.func.jacrev(torch.func.grad(f))):
        ours = transform(lambda d: loss(lrkernels.lowrank_linear_indexed, d))(case.downs)
        torch.testing.assert_close(ours, transform(lambda d: loss(exact_indexed, d))(case.downs))


def test_forward_mode_raises():
    case = small()
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match="^lowrank_linear_indexed: forward-mode"):
        op(forward_ad.make_dual(case.x, torch.ones_like(case.x)), *case.tensors[1:])


def test_autocast(device):
    """Activations are cast, factors, scales and bias are not; gradients come back in the leaves' dtypes."""
    if device.backend == "cuda_emulated":
        pytest.skip("the tensors are the CPU's, and so is autocast")
    case = make_case(device.device, torch.float32, hidden=0.5).differentiable()
    with torch.autocast(device.device.type, dtype=torch.bfloat16):
        for function in (op, lrkernels.lowrank_linear_indexed):
            y = case.call(function)
            assert y.dtype == torch.bfloat16
    exact = case.wide().call(exact_indexed)
    assert (y.detach().cpu().double() - exact).abs().max() <= 0.02 * exact.abs().max()
    y.float().sum().backward()
    assert all(leaf.grad.dtype == torch.float32 for leaf in case.leaves().values())


def test_checkpointing():
    case = make_case(CPU, torch.float32, hidden=0.5).differentiable()
    leaves = list(case.leaves().values())
    plain = torch.autograd.grad(case.call(op).pow(2).sum(), leaves)
    y = torch.utils.checkpoint.checkpoint(op, *case.tensors, use_reentrant=False)
    for a, b in zip(plain, torch.autograd.grad(y.pow(2).sum(), leaves), strict=True):
        assert torch.equal(a, b)
