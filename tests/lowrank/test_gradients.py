"""Derivatives in float64, of first and second order, and what is kept for them."""

import pytest
import torch
from lowrank_cases import exact_linear, make_case
from torch.autograd import gradcheck, gradgradcheck

import lrkernels

CPU = torch.device("cpu")
SETUPS = {
    "lora": dict(),
    "pure, gate a token, core": dict(weight=False, gate="token", core=True),
    "base, gate of one": dict(weight=False, base=True, gate="one"),
    "dropout, gate a rank": dict(dropout=0.3, gate="rank"),
}


def small(**kwargs):
    return make_case(CPU, torch.float64, (2, 2), 4, 3, 2, **kwargs)


@pytest.mark.parametrize("setup", SETUPS)
def test_gradcheck_and_gradgradcheck(setup):
    case = small(**SETUPS[setup]).differentiable()
    leaves = {n: t for n in case.TENSORS if (t := getattr(case, n)) is not None and t.requires_grad}

    def f(*values):
        tensors = {n: getattr(case, n) for n in case.TENSORS} | dict(zip(leaves, values, strict=True))
        return torch.ops.lrk.lowrank_linear(*tensors.values(), **case.scalars)

    assert gradcheck(f, tuple(leaves.values()))
    assert gradgradcheck(f, tuple(leaves.values()))


def test_gradcheck_of_the_other_ops():
    case = small(gate="token", core=True, dropout=0.3).differentiable()
    s = torch.randn(2, 2, 2, dtype=torch.float64, requires_grad=True)
    base = torch.randn(2, 2, 3, dtype=torch.float64, requires_grad=True)
    gate = torch.randn(2, dtype=torch.float64, requires_grad=True)

    def project(x, down, gate):
        return lrkernels.lowrank_project(x, down, gate, case.seed, dropout=0.3)

    def expand(s, up, base, bias):
        return lrkernels.lowrank_expand(s, up, base, bias, scale=0.7)

    def merge(weight, down, up, core, gate):
        return lrkernels.lowrank_merge(weight, down, up, core, gate, scale=0.7)

    for f, leaves in (
        (project, (case.x, case.down, case.gate)),
        (expand, (s, case.up, base, case.bias)),
        (merge, (case.weight, case.down, case.up, case.core, gate)),
        (merge, (case.weight, case.down, case.up, case.core, gate[:1].detach().requires_grad_())),
    ):
        assert gradcheck(f, leaves)
        assert gradgradcheck(f, leaves)


@pytest.mark.parametrize("dropout", (0.0, 0.1))
@pytest.mark.parametrize("dtype", (torch.float64, torch.float32), ids=str)
def test_full_blocks_staged(dtype, dropout):
    """Blocks as wide and as deep as the CPU kernels make them, staged: a stride-0 dy, or dropout on x."""
    case = make_case(CPU, dtype, (512,), 512, 256, 16, dropout=dropout, bias=False).differentiable()
    ours = torch.autograd.grad(case.call(torch.ops.lrk.lowrank_linear).sum(), (case.down, case.up))
    wide = case.wide().differentiable()
    exact = torch.autograd.grad(wide.call(exact_linear).sum(), (wide.down, wide.up))
    for a, b in zip(ours, exact, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-3)


def test_third_derivative():
    case = small().differentiable()

    def third(op):
        y = case.call(op).pow(3).sum()
        (first,) = torch.autograd.grad(y, case.down, create_graph=True)
        (second,) = torch.autograd.grad(first.pow(2).sum(), case.up, create_graph=True)
        return torch.autograd.grad(second.sum(), case.x)[0]

    torch.testing.assert_close(third(torch.ops.lrk.lowrank_linear), third(exact_linear))


@pytest.mark.parametrize("wanted", ("x", "down", "up", "weight", "bias", "core", "gate", "base"))
def test_one_gradient_alone(wanted):
    """Only what needs a gradient is computed: asking for one must not need the others."""
    case = small(weight=wanted != "base", base=wanted == "base", core=True, gate="token", dropout=0.3)
    leaf = getattr(case, wanted).requires_grad_()
    y = case.call(torch.ops.lrk.lowrank_linear)
    grad = torch.randn_like(y)
    (ours,) = torch.autograd.grad(y, leaf, grad)
    (exact,) = torch.autograd.grad(case.call(exact_linear), leaf, grad)
    torch.testing.assert_close(ours, exact)


def saved_sizes(call) -> list[tuple[int, ...]]:
    sizes = []

    def pack(tensor):
        sizes.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        call()
    return sizes


@pytest.mark.parametrize("dropout", (0.0, 0.3))
def test_what_is_saved(dropout):
    case = make_case(CPU, torch.float32, (11,), 13, 7, 3, dropout=dropout)
    case.up.requires_grad_()
    sizes = saved_sizes(lambda: case.call(torch.ops.lrk.lowrank_linear))
    assert (11, 13) not in sizes, "down is frozen, so x must not be saved"
    assert (11, 3) in sizes
    assert (7, 13) not in sizes, "x needs no gradient, so weight must not be saved"
    case.down.requires_grad_()
    sizes = saved_sizes(lambda: case.call(torch.ops.lrk.lowrank_linear))
    assert sizes.count((11, 13)) == 1, "x once, and neither a dropped copy nor a mask"
    assert (11, 7) not in sizes


def test_nothing_is_saved_without_gradients():
    case = make_case(CPU, torch.float32).differentiable()
    with torch.no_grad():
        assert saved_sizes(lambda: case.call(torch.ops.lrk.lowrank_linear)) == []
        assert not case.call(torch.ops.lrk.lowrank_linear).requires_grad


def test_frozen_inputs_get_no_gradient():
    case = make_case(CPU, torch.float32)
    case.up.requires_grad_()
    case.call(torch.ops.lrk.lowrank_linear).sum().backward()
    assert case.up.grad is not None
    assert all(t is None or t is case.up or t.grad is None for t in case.tensors)
