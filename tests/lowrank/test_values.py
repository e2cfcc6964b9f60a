"""Forward values and gradients of lowrank_linear against an independent float64 answer, on every backend."""

from itertools import product

import pytest
import torch
from lowrank_cases import Case, assert_accurate, eager_linear, exact_linear, make_case

import lrkernels

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

# One line a feature; every feature runs in every dtype on every backend, forward and backward.
FEATURES = {
    "weight": dict(bias=False),
    "weight and bias": dict(),
    "pure low-rank": dict(weight=False, bias=False),
    "pure low-rank, bias": dict(weight=False),
    "base": dict(weight=False, base=True),
    "core": dict(core=True),
    "gate of one": dict(gate="one"),
    "gate a rank": dict(gate="rank"),
    "gate a token": dict(gate="token"),
    "gate a token and core": dict(gate="token", core=True),
    "dropout": dict(dropout=0.3),
    "dropout and everything": dict(dropout=0.3, gate="token", core=True),
    "dropout, pure low-rank": dict(dropout=0.5, weight=False, gate="rank"),
    "dropout 1": dict(dropout=1.0),
    "scale 0": dict(scale=0.0),
}

SHAPES = {
    "one row": dict(leading=(1,)),
    "no rows": dict(leading=(0,)),
    "a vector": dict(leading=()),
    "three leading dimensions": dict(leading=(2, 3, 2)),
    "a zero among them": dict(leading=(2, 0, 3)),
    "rank 0": dict(rank=0),
    "rank 1": dict(rank=1),
    "rank 8": dict(rank=8),
    "rank 17": dict(rank=17),
    "rank above in and out": dict(rank=70),
    "a multiple of every tile": dict(leading=(64,), in_features=64, out_features=64, rank=16),
    "one above a tile": dict(leading=(65,), in_features=65, out_features=65, rank=17),
    "one feature": dict(in_features=1, out_features=1, rank=1),
    "wide": dict(leading=(3,), in_features=300, out_features=5),
    "tall": dict(leading=(3,), in_features=5, out_features=300),
    "many rows": dict(leading=(150,), in_features=24, out_features=40, rank=4),
}


def compare(case: Case, yardstick: Case | None = None) -> None:
    """Ours against plain torch on the same inputs, or on ``yardstick``'s, both measured from the exact answer."""
    yardstick = yardstick or case
    exact_case = case.wide()
    y, y_eager, y_exact = (
        case.call(torch.ops.lrk.lowrank_linear),
        yardstick.call(eager_linear),
        exact_case.call(exact_linear),
    )
    assert y.dtype == case.x.dtype and y.is_contiguous()
    assert_accurate(y, y_eager, y_exact, "y")
    grad = torch.randn(y_exact.shape, dtype=torch.float64).to(case.x.dtype)
    ours = case.gradients(torch.ops.lrk.lowrank_linear, grad)
    eager = yardstick.gradients(eager_linear, grad)
    exact = exact_case.gradients(exact_linear, grad.double())
    for name, gradient in ours.items():
        assert gradient.dtype == getattr(case, name).dtype
        assert_accurate(gradient, eager[name], exact[name], f"gradient of {name}")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("feature", FEATURES)
def test_feature(device, dtype, feature):
    compare(make_case(device.device, dtype, **FEATURES[feature]))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_shape(device, dtype, shape):
    compare(make_case(device.device, dtype, **SHAPES[shape]))


@pytest.mark.parametrize("rows", (4, 17, 40))
@pytest.mark.parametrize("weight", (True, False), ids=("linear", "pure"))
def test_long_sums(rows, weight):
    """Sums in blocks: the error of one running sum over 16384 products is several times that of plain torch."""
    shape = dict(leading=(rows,), in_features=16384, out_features=48, rank=8, bias=False)
    errors = {"ours": 0.0, "eager": 0.0}
    for _ in range(4):  # of one draw alone the ratio is luck
        case = make_case(torch.device("cpu"), torch.float32, weight=weight, **shape)
        with lrkernels.force("lowrank_linear" if weight else "lowrank"):
            ours = case.call(torch.ops.lrk.lowrank_linear)
        exact = case.wide().call(exact_linear)
        errors["ours"] += float((ours - exact).norm() / exact.norm())
        errors["eager"] += float((case.call(eager_linear) - exact).norm() / exact.norm())
    assert errors["ours"] <= 2 * errors["eager"], errors


def test_no_rows_and_an_expanded_gradient(device):
    for dtype in (torch.float32, torch.bfloat16):
        leaves = [t.requires_grad_() for t in make_case(device.device, dtype, (0,), 8, 6, 2).tensors[:4]]
        torch.ops.lrk.lowrank_linear(*leaves).sum().backward()
        assert all(float(leaf.grad.abs().sum()) == 0.0 for leaf in leaves)


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16), ids=str)
@pytest.mark.parametrize("feature", ("weight and bias", "base", "gate a token and core", "dropout"))
def test_float32_factors_with_half_activations(device, dtype, feature):
    case = make_case(device.device, dtype, factor_dtype=torch.float32, **FEATURES[feature])
    if device.backend == "cpu":
        compare(case)  # computes the branch in float32, as plain torch does when x is cast up
    else:
        compare(case, yardstick=case.with_factors(dtype))  # tensor cores round the factors, as autocast does


@pytest.mark.parametrize("float32", list(product((False, True), repeat=4)), ids=lambda f: "".join("01"[b] for b in f))
def test_every_mix_of_factor_dtypes(device, float32):
    case = make_case(device.device, torch.bfloat16, gate="rank", core=True)
    for name, wide in zip(("down", "up", "core", "gate"), float32, strict=True):
        setattr(case, name, getattr(case, name).to(torch.float32 if wide else torch.bfloat16))
    compare(case, yardstick=case.with_factors(torch.bfloat16))
    merged = lrkernels.lowrank_merge(case.weight, case.down, case.up, case.core, case.gate)
    assert merged.dtype == torch.bfloat16


@pytest.mark.parametrize("empty", ("in_features", "out_features", "rank"))
def test_empty_features(device, empty):
    case = make_case(device.device, torch.float32, **{empty: 0}).differentiable()
    y = case.call(torch.ops.lrk.lowrank_linear)
    exact = case.wide().call(exact_linear)
    torch.testing.assert_close(y.detach().cpu().double(), exact, rtol=1e-5, atol=1e-5)
    (first,) = torch.autograd.grad(y.pow(2).sum(), case.x, create_graph=True)
    grads = torch.autograd.grad(first.pow(2).sum(), [case.up, case.down], allow_unused=True)
    assert all(g is None or torch.isfinite(g).all() for g in grads)


def transposed(t):
    return t.mT.contiguous().mT


def every_other_column(t):
    wide = torch.zeros(*t.shape[:-1], 2 * t.shape[-1] + 1, dtype=t.dtype, device=t.device)
    view = wide[..., 1::2]
    view.copy_(t)
    return view


def offset_rows(t):
    padded = torch.zeros(t.shape[0], t.shape[1] + 3, dtype=t.dtype, device=t.device)
    padded[:, 3:].copy_(t)
    return padded[:, 3:]


@pytest.mark.parametrize("layout", (transposed, every_other_column, offset_rows))
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize("operand", ("x", "down", "up", "weight", "base", "core"))
def test_strides(device, dtype, layout, operand):
    case = make_case(device.device, dtype, weight=operand != "base", base=operand == "base", core=operand == "core")
    setattr(case, operand, layout(getattr(case, operand)))
    compare(case)


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize("sizes", ((1, 18), (23, 1), (1, 1)), ids=str)
def test_a_single_row_or_column_may_have_any_stride(device, dtype, sizes):
    """torch counts a dimension of one element as contiguous whatever its stride."""
    out, inner = sizes
    for rows in (1, 7):
        for operand in ("x", "weight", "down", "up"):
            case = make_case(device.device, dtype, leading=(rows,), in_features=inner, out_features=out)
            tensor = getattr(case, operand)
            wide = tensor.new_zeros(tensor.shape[0] * 3, tensor.shape[1] * 5)[::3, ::5]
            setattr(case, operand, wide.copy_(tensor))
            compare(case)
            case = make_case(device.device, dtype, leading=(rows,), in_features=inner, out_features=out)
            setattr(case, operand, getattr(case, operand).mT.contiguous().mT)
            compare(case)


def test_leading_dimensions_that_do_not_collapse(device):
    case = make_case(device.device, torch.float32, leading=(3, 4))
    case.x = case.x.transpose(0, 1).contiguous().transpose(0, 1)
    compare(case)


def test_expanded_x(device):
    case = make_case(device.device, torch.float32, leading=(5,))
    case.x = case.x[:1].expand(5, -1)
    compare(case)


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
def test_expanded_incoming_gradient(device, dtype):
    case = make_case(device.device, dtype).differentiable()
    case.call(torch.ops.lrk.lowrank_linear).sum().backward()  # sum() hands back a stride-0 gradient
    exact = case.wide().gradients(exact_linear, torch.ones(7, 18, dtype=torch.float64))
    eager = case.gradients(eager_linear, torch.ones(7, 18))
    for name in ("x", "down", "up", "weight", "bias"):
        assert_accurate(getattr(case, name).grad, eager[name], exact[name], name)


def test_not_a_number_passes_through(device):
    case = make_case(device.device, torch.float32)
    case.x[2, 3] = float("nan")
    case.x[4, 1] = float("inf")
    y = case.call(torch.ops.lrk.lowrank_linear)
    assert y[2].isnan().all()
    assert not y[4].isfinite().any()
    assert y[[0, 1, 3, 5, 6]].isfinite().all()


def test_same_bits_run_to_run_and_for_any_number_of_threads(device):
    case = make_case(device.device, torch.float32, leading=(130,), in_features=257, out_features=96, rank=9)
    grad = torch.randn(130, 96)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (threads, 1, threads):
            torch.set_num_threads(count)
            with lrkernels.force("lowrank"):  # the kernels of this library; a library GEMM makes no such promise
                gradients = case.gradients(torch.ops.lrk.lowrank_linear, grad.to(device.device))
                results.append([case.call(torch.ops.lrk.lowrank_linear)])
            results[-1] += [gradients[name] for name in ("x", "down", "up", "bias")]
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_project_and_expand_compose_to_linear(device, dtype):
    case = make_case(device.device, dtype, weight=False, base=True, gate="token", dropout=0.25)
    s = lrkernels.lowrank_project(case.x, case.down, case.gate, case.seed, dropout=case.dropout)
    y = lrkernels.lowrank_expand(s, case.up, case.base, case.bias, scale=case.scale)
    assert_accurate(y, case.call(eager_linear), case.wide().call(exact_linear))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("core", (False, True))
@pytest.mark.parametrize("gate", (None, "one", "rank"))
def test_merged_weight_gives_the_same_layer(device, dtype, core, gate):
    case = make_case(device.device, dtype, core=core, gate=gate)
    merged = lrkernels.lowrank_merge(case.weight, case.down, case.up, case.core, case.gate, scale=case.scale)
    wide = case.wide()
    left = wide.up if core is False else wide.up @ wide.core
    exact = wide.weight + case.scale * ((left if gate is None else left * wide.gate) @ wide.down)
    assert_accurate(merged, exact.to(dtype), exact)
    torch.testing.assert_close(wide.x @ exact.T + wide.bias, wide.call(exact_linear))  # the two yardsticks agree


@pytest.mark.parametrize("factor_dtype", (torch.float32, torch.bfloat16), ids=str)
def test_merge_into_a_half_weight_rounds_once(device, factor_dtype):
    case = make_case(device.device, torch.bfloat16, factor_dtype=factor_dtype, out_features=70, in_features=90, rank=9)
    case.weight = transposed(case.weight)
    merged = lrkernels.lowrank_merge(case.weight, case.down, case.up, scale=case.scale)
    assert merged.is_contiguous()
    wide = case.wide()
    exact = wide.weight + case.scale * wide.up @ wide.down
    assert_accurate(merged, exact.to(torch.bfloat16), exact)
