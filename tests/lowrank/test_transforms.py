"""vmap, torch.func, forward-mode: right, or an error that says what to do."""

import pytest
import torch
from lowrank_cases import exact_linear, make_case
from torch.autograd import forward_ad

import lrkernels

CPU = torch.device("cpu")


def doubles(**kwargs):
    return make_case(CPU, torch.float64, (3,), 5, 4, 2, **kwargs)


@pytest.mark.parametrize("dim", (0, 1))
def test_vmap_over_x(dim):
    case = doubles(gate="rank", core=True)
    batch = torch.randn(3, 6, 5, dtype=torch.float64) if dim else torch.randn(6, 3, 5, dtype=torch.float64)

    def layer(x):
        return torch.ops.lrk.lowrank_linear(x, *case.tensors[1:], **case.scalars)

    ours = torch.vmap(layer, in_dims=dim)(batch)
    exact = torch.stack([exact_linear(x, *case.tensors[1:], **case.scalars) for x in batch.unbind(dim)])
    torch.testing.assert_close(ours, exact)


def test_vmap_over_rows_base_and_token_gates_is_one_call():
    case = doubles(weight=False, base=True, gate="token")
    gates, bases = torch.randn(6, 3, 2, dtype=torch.float64), torch.randn(3, 6, 4, dtype=torch.float64)

    def layer(gate, base, op=torch.ops.lrk.lowrank_linear):
        return op(case.x, case.down, case.up, None, case.bias, None, gate, base, scale=0.5, dropout=0.0)

    with lrkernels.trace() as kernels:
        ours = torch.vmap(layer, in_dims=(0, 1))(gates, bases)
    assert len(kernels) == 2, kernels
    exact = [layer(g, b, exact_linear) for g, b in zip(gates, bases.unbind(1), strict=True)]
    torch.testing.assert_close(ours, torch.stack(exact))


def test_vmap_over_factors_and_dropout():
    case = doubles(dropout=0.4)
    ups = torch.randn(6, 4, 2, dtype=torch.float64)

    def layer(up, op=torch.ops.lrk.lowrank_linear):
        return op(case.x, case.down, up, case.weight, case.bias, None, None, None, case.seed, **case.scalars)

    torch.testing.assert_close(torch.vmap(layer)(ups), torch.stack([layer(up, exact_linear) for up in ups]))


@pytest.mark.parametrize("op", ("project", "expand", "merge"))
def test_vmap_of_the_other_ops(op):
    case = doubles()
    s = torch.randn(3, 2, dtype=torch.float64)
    function, exact, value = {
        "project": (lambda x: torch.ops.lrk.lowrank_project(x, case.down), lambda x: x @ case.down.mT, case.x),
        "expand": (lambda s: torch.ops.lrk.lowrank_expand(s, case.up), lambda s: s @ case.up.mT, s),
        "merge": (
            lambda w: torch.ops.lrk.lowrank_merge(w, case.down, case.up),
            lambda w: w + case.up @ case.down,
            case.weight,
        ),
    }[op]
    batch = torch.stack([value, 2 * value])
    torch.testing.assert_close(torch.vmap(function)(batch), exact(batch))


def test_vmap_over_nothing():
    case = doubles()
    assert torch.vmap(lambda x: torch.ops.lrk.lowrank_project(x, case.down))(case.x[None][:0]).shape == (0, 3, 2)


def test_func_grad_through_the_twins():
    case = doubles(gate="rank")
    exact = torch.func.grad(lambda d: exact_linear(case.x, d, *case.tensors[2:], **case.scalars).pow(2).sum())
    ours = torch.func.grad(
        lambda d: lrkernels.lowrank_linear(case.x, d, *case.tensors[2:], **case.scalars).pow(2).sum()
    )
    torch.testing.assert_close(ours(case.down), exact(case.down))

    def two_steps(d):
        s = lrkernels.lowrank_project(case.x, d, case.gate)
        weight = lrkernels.lowrank_merge(case.weight, d, case.up)
        return (lrkernels.lowrank_expand(s, case.up, case.x @ weight.mT, case.bias)).pow(2).sum()

    def two_steps_exact(d):
        s = case.gate * (case.x @ d.mT)
        return (case.x @ (case.weight + case.up @ d).mT + s @ case.up.mT + case.bias).pow(2).sum()

    torch.testing.assert_close(torch.func.grad(two_steps)(case.down), torch.func.grad(two_steps_exact)(case.down))


def test_gradient_of_each_sample():
    case = doubles()

    def loss(op, down, x):
        return op(x, down, case.up, case.weight, scale=0.5, dropout=0.0).pow(2).sum()

    ours = torch.vmap(torch.func.grad(lambda d, x: loss(lrkernels.lowrank_linear, d, x)), in_dims=(None, 0))
    exact = torch.vmap(torch.func.grad(lambda d, x: loss(exact_linear, d, x)), in_dims=(None, 0))
    torch.testing.assert_close(ours(case.down, case.x), exact(case.down, case.x))


def test_second_derivative_through_func():
    case = doubles()

    def second(op):
        def loss(d):
            return op(case.x, d, case.up, case.weight, scale=0.5, dropout=0.0).pow(3).sum()

        return torch.func.grad(lambda d: torch.func.grad(loss)(d).pow(2).sum())(case.down)

    torch.testing.assert_close(second(lrkernels.lowrank_linear), second(exact_linear))


def test_the_raw_op_under_func_says_what_to_call():
    case = doubles()
    with pytest.raises(RuntimeError, match="no gradient under torch.func; call lrkernels.lowrank_linear"):
        torch.func.grad(lambda d: torch.ops.lrk.lowrank_linear(case.x, d, case.up).sum())(case.down)


def test_forward_mode_raises():
    case = doubles()
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(case.x, torch.ones_like(case.x))
        for call in (
            lambda: torch.ops.lrk.lowrank_linear(dual, case.down, case.up),
            lambda: torch.ops.lrk.lowrank_linear(case.x, case.down, case.up, base=forward_ad.make_dual(
                torch.zeros(3, 4, dtype=torch.float64), torch.ones(3, 4, dtype=torch.float64))),
            lambda: lrkernels.lowrank_project(dual, case.down),
            lambda: lrkernels.lowrank_expand(dual, torch.ones(4, 5, dtype=torch.float64)),
        ):  # fmt: skip
            with pytest.raises(RuntimeError, match="forward-mode"):
                call()


def by_jvp(f, x):
    return torch.func.jvp(f, (x,), (torch.ones_like(x),))


@pytest.mark.parametrize(
    "transform",
    (
        by_jvp,
        lambda f, x: torch.func.jacfwd(f)(x),
        lambda f, x: torch.func.hessian(lambda x: f(x).sum())(x),
        lambda f, x: torch.vmap(lambda x: by_jvp(f, x))(x[None]),
        lambda f, x: torch.func.grad(lambda x: by_jvp(f, x)[1].sum())(x),
        lambda f, x: torch.func.linearize(f, x),
    ),
    ids=("jvp", "jacfwd", "hessian", "vmap of jvp", "grad of jvp", "linearize"),
)
@pytest.mark.parametrize("op", ("linear", "project", "expand", "merge"))
def test_forward_mode_through_the_twins_raises(op, transform):
    case = doubles()
    function, value = {
        "linear": (lambda x: lrkernels.lowrank_linear(x, case.down, case.up), case.x),
        "project": (lambda x: lrkernels.lowrank_project(x, case.down), case.x),
        "expand": (lambda s: lrkernels.lowrank_expand(s, case.up), torch.randn(3, 2, dtype=torch.float64)),
        "merge": (lambda w: lrkernels.lowrank_merge(w, case.down, case.up), case.weight),
    }[op]
    with pytest.raises(RuntimeError, match=f"^lowrank_{op}: forward-mode automatic differentiation .* not supported"):
        transform(function, value)
