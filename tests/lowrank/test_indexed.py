"""Values and gradients of lowrank_linear_indexed against plain loops in float64, on every backend."""

import pytest
import torch
from indexed_cases import eager_indexed, exact_indexed, make_case
from lowrank_cases import ROUNDING, assert_accurate, slack

import lrkernels

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
HALF = (torch.bfloat16, torch.float16)
op = torch.ops.lrk.lowrank_linear_indexed

# One line a feature; every feature runs in every dtype on every backend, forward and backward.
FEATURES = {
    "weight and bias": dict(),
    "weight": dict(bias=False),
    "pure low-rank": dict(weight=False, bias=False),
    "pure low-rank, bias": dict(weight=False),
    "base": dict(weight=False, base=True, bias=False),
    "base and bias": dict(weight=False, base=True),
    "no scales": dict(scales=False),
    "one rank": dict(mixed_ranks=False),
    "factors alone": dict(weight=False, bias=False, scales=False, mixed_ranks=False),
    "int32": dict(index_dtype=torch.int32),
}

SHAPES = {
    "one row": dict(leading=(1,), index=[2]),
    "one row without an adapter": dict(leading=(1,), index=[-1]),
    "no rows": dict(leading=(0,)),
    "a vector": dict(leading=(), index=[1]),
    "three leading dimensions": dict(leading=(2, 3, 2)),
    "a zero among them": dict(leading=(2, 0, 3)),
    "no adapters": dict(adapters=0, leading=(5,), index=[-1] * 5),
    "one adapter": dict(adapters=1),
    "all rows of one adapter": dict(leading=(40,), index=[2] * 40),
    "no row has an adapter": dict(leading=(9,), index=[-1] * 9),
    "every row another adapter": dict(leading=(24,), adapters=24, index=[*range(23, -1, -1)]),
    "more adapters than rows": dict(leading=(3,), adapters=50, index=[49, 0, 49]),
    "an adapter nobody uses": dict(leading=(8,), index=[0, 3, 3, 0, -1, 0, 3, 0]),
    "rank 0": dict(rank=0),
    "rank 1": dict(rank=1),
    "rank 8": dict(rank=8, in_features=40, out_features=24),
    "rank above in and out": dict(rank=70),
    "rank above 128": dict(rank=140, leading=(9,)),
    "a multiple of every tile": dict(leading=(128,), in_features=64, out_features=64, rank=16),
    "one above a tile": dict(leading=(130,), in_features=65, out_features=65, rank=17, adapters=2),
    "one feature": dict(in_features=1, out_features=1, rank=1),
    "wide": dict(leading=(30,), in_features=700, out_features=5),
    "tall": dict(leading=(30,), in_features=5, out_features=600),
    "many rows": dict(leading=(300,), in_features=24, out_features=40, rank=4),
}


def compare(case, yardstick=None) -> None:
    """Ours against plain torch on the same inputs, or on ``yardstick``'s, both measured from the exact answer."""
    exact_case, yardstick = case.wide(), yardstick or case
    y, y_exact = case.call(op), exact_case.call(exact_indexed)
    assert y.dtype == case.x.dtype and y.is_contiguous()
    assert_accurate(y, yardstick.call(eager_indexed), y_exact, "y")
    grad = torch.randn(y_exact.shape, dtype=torch.float64).to(case.x.dtype)
    ours = case.gradients(op, grad)
    eager = yardstick.gradients(eager_indexed, grad)
    exact = exact_case.gradients(exact_indexed, grad.double())
    for name, gradient in ours.items():
        assert gradient.dtype == getattr(case, name).dtype
        if name != "scales":
            assert_accurate(gradient, eager[name], exact[name], f"gradient of {name}")
            continue
        if grad.numel() == 0 or len(gradient) == 0:
            assert not gradient.any()
            continue
        # One number an adapter: how near plain torch comes is luck, so a few roundings of the rows' shares go on top.
        allowed = 2 * (eager[name].cpu().double() - exact[name]).abs()
        allowed += 4 * ROUNDING[case.x.dtype] * scale_shares(exact_case, grad.double()).norm(dim=0)
        error = (gradient.cpu().double() - exact[name]).abs()
        assert (error <= allowed + slack(exact[name], case.x.dtype)).all(), (
            f"gradient of scales: {error}, allowed {allowed}"
        )


def scale_shares(case, grad: torch.Tensor) -> torch.Tensor:
    """[rows, adapters]: what every row adds to the gradient of every scale."""
    ones = torch.ones_like(case.scales)
    term = exact_indexed(case.x, case.downs, case.ups, case.index, case.ranks, ones)
    per_row = (grad * term).reshape(case.index.numel(), -1).sum(1, keepdim=True)
    return torch.where(case.index.reshape(-1, 1) == torch.arange(len(ones)), per_row, 0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("feature", FEATURES)
def test_feature(device, dtype, feature):
    compare(make_case(device.device, dtype, **FEATURES[feature]))


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.bfloat16), ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_shape(device, dtype, shape):
    compare(make_case(device.device, dtype, **SHAPES[shape]))


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("feature", ("weight and bias", "base", "no scales"))
def test_float32_factors_with_half_activations(device, dtype, feature):
    case = make_case(device.device, dtype, factor_dtype=torch.float32, **FEATURES[feature])
    if device.backend == "cpu":
        compare(case)
    else:
        compare(case, yardstick=case.mapped(lambda t: t.to(dtype)))  # tensor cores round the factors, as autocast does


@pytest.mark.parametrize("float32", range(8))
def test_every_mix_of_factor_dtypes(device, float32):
    case = make_case(device.device, torch.bfloat16)
    for bit, name in enumerate(("downs", "ups", "scales")):
        setattr(case, name, getattr(case, name).to(torch.float32 if float32 >> bit & 1 else torch.bfloat16))
    compare(case, yardstick=case.mapped(lambda t: t.to(torch.bfloat16)))


def across(t):
    return t.mT.contiguous().mT


def every_other_column(t):
    wide = torch.zeros(*t.shape[:-1], 2 * t.shape[-1] + 1, dtype=t.dtype, device=t.device)
    view = wide[..., 1::2]
    view.copy_(t)
    return view


def every_other_matrix(t):
    wide = torch.full((2 * t.shape[0], *t.shape[1:]), float("nan"), dtype=t.dtype, device=t.device)
    wide[::2].copy_(t)
    return wide[::2]


@pytest.mark.parametrize("layout", (across, every_other_column, every_other_matrix))
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize("operand", ("x", "downs", "ups", "weight", "base"))
def test_strides(device, dtype, layout, operand):
    case = make_case(device.device, dtype, weight=operand != "base", base=operand == "base")
    setattr(case, operand, layout(getattr(case, operand)))
    compare(case)


def test_strided_numbers(device):
    case = make_case(device.device, torch.float32)
    case.scales = every_other_column(case.scales[None])[0]
    case.ranks = torch.stack((case.ranks, case.ranks), dim=1)[:, 0]
    case.index = torch.stack((case.index, case.index), dim=1)[:, 0]
    compare(case)


def test_one_index_a_sequence(device):
    """As a batch of prompts has it: [batch, 1] expanded along the tokens."""
    case = make_case(device.device, torch.float32, leading=(4, 7))
    case.index = torch.tensor([2, -1, 0, 2], device=device.device)[:, None].expand(4, 7)
    case.x = case.x.transpose(0, 1).contiguous().transpose(0, 1)
    compare(case)


def test_a_flat_index_is_the_same(device):
    case = make_case(device.device, torch.float32, leading=(3, 5))
    y = case.call(op)
    case.index = case.index.flatten()
    assert torch.equal(y, case.call(op))


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
def test_what_lies_behind_a_rank_is_out_of_reach(device, dtype):
    """NaN behind the ranks gives the bits that zeros give, and a gradient of zeros."""
    torch.manual_seed(3)
    nan = make_case(device.device, dtype)
    zero = nan.mapped(lambda t: torch.where(t.isnan(), 0, t))
    assert nan.downs.isnan().any() and nan.ups.isnan().any()
    assert torch.equal(nan.call(op), zero.call(op))
    grad = torch.randn(19, 18)
    ours, same = nan.gradients(op, grad), zero.gradients(op, grad)
    for name, gradient in ours.items():
        assert torch.equal(gradient, same[name]), name
    for i, rank in enumerate(nan.ranks.tolist()):
        assert not ours["downs"][i, rank:].any() and not ours["ups"][i, :, rank:].any()


def test_a_row_is_out_of_reach_of_other_adapters(device):
    """NaN in one row stays in that row and in its adapter's gradients."""
    case = make_case(device.device, torch.float32, leading=(12,), index=[0, 1, 2, 3, -1, 2] * 2, mixed_ranks=False)
    case.x[1] = float("nan")
    y = case.call(op)
    others = [t for t in range(12) if t != 1]
    assert y[1].isnan().all() and y[others].isfinite().all()
    grads = case.gradients(op, torch.randn(12, 18))
    assert grads["downs"][1].isnan().all() and grads["downs"][[0, 2, 3]].isfinite().all()
    case.x[1], case.downs[3] = 0.0, float("inf")
    y = case.call(op)
    hit = case.index.flatten() == 3
    assert not y[hit].isfinite().any() and y[~hit].isfinite().all()


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
def test_unused_adapters_get_zero(device, dtype):
    case = make_case(device.device, dtype, leading=(6,), index=[2, -1, 2, 0, 2, -1], mixed_ranks=False)
    case.scales[1], case.scales[3] = float("inf"), float("nan")  # whatever they are
    grads = case.gradients(op, torch.randn(6, 18))
    for name in ("downs", "ups", "scales"):
        assert not grads[name][[1, 3]].any() and grads[name][[0, 2]].abs().sum() > 0, name


def test_rows_without_an_adapter_are_the_base(device):
    case = make_case(device.device, torch.bfloat16, weight=False, bias=False, base=True, index=[-1] * 19)
    assert torch.equal(case.call(op), case.base)


@pytest.mark.parametrize("wrong", (4, -2, 2**40, -(2**40)))
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
def test_an_index_out_of_range_on_a_device_is_nan(device, dtype, wrong):
    """The CPU raises (test_indexed_errors.py); a device cannot, so what it must not compute is not a number."""
    if device.backend == "cpu":
        pytest.skip("raises on the CPU")
    case = make_case(device.device, dtype, mixed_ranks=False)
    right = case.call(op)
    grads = case.gradients(op, torch.ones(19, 18))
    case.index[[3, 7]] = wrong
    y = case.call(op)
    others = [t for t in range(19) if t not in (3, 7)]
    assert y[[3, 7]].isnan().all() and torch.equal(y[others], right[others])
    wrong_grads = case.gradients(op, torch.ones(19, 18))
    assert wrong_grads["x"][[3, 7]].isnan().all() and torch.equal(wrong_grads["x"][others], grads["x"][others])
    assert all(wrong_grads[name].isfinite().all() for name in ("downs", "ups", "scales"))


def test_ranks_out_of_range_on_a_device_are_clamped(device):
    if device.backend == "cpu":
        pytest.skip("raises on the CPU")
    case = make_case(device.device, torch.float32, hidden=0.5)
    case.ranks = torch.tensor([9, 2**40, -3, -(2**40)], device=device.device)
    y = case.call(op)
    case.ranks = torch.tensor([6, 6, 0, 0], device=device.device)
    assert torch.equal(y, case.call(op))


def test_half_is_rounded_once(device):
    """x·weightᵀ and the low-rank term meet in float32: no sum is off by more than half a rounding step."""
    if device.backend == "cuda":
        pytest.skip("torch's GEMM rounds x·weightᵀ there")
    case = make_case(device.device, torch.bfloat16, leading=(64,), in_features=64, out_features=96, rank=8)
    y, wide = case.call(op).double(), case.wide()
    exact = wide.call(exact_indexed)
    slack = torch.full_like(exact, 1e-5)
    if device.backend != "cpu":
        # Tensor cores take s in bfloat16: what half a rounding step of each of its elements can do, and no more.
        for row, adapter in enumerate(case.index.tolist()):
            if adapter >= 0:
                rank = int(case.ranks[adapter])
                s = wide.scales[adapter] * (wide.downs[adapter, :rank] @ wide.x[row])
                slack[row] += 2.0**-8 * (wide.ups[adapter, :, :rank].abs() @ s.abs())
    steps = 2.0 ** (exact.abs().clamp(min=2**-20).log2().floor() - 7)
    assert ((y - exact).abs() <= 0.5 * steps + slack).all()
    twice = (y.float() + 2.0**-8 * y.abs().float()).bfloat16().double()  # another rounding step is too much
    assert not ((twice - exact).abs() <= 0.5 * steps + slack).all()


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
def test_same_bits_run_to_run_and_for_any_number_of_threads(device, dtype):
    case = make_case(device.device, dtype, leading=(230,), in_features=257, out_features=96, rank=9, weight=False)
    grad = torch.randn(230, 96)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (threads, 1, threads):
            torch.set_num_threads(count)
            gradients = case.gradients(op, grad)
            results.append([case.call(op)] + [gradients[name] for name in ("x", "downs", "ups")])
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert torch.equal(a.nan_to_num(), b.nan_to_num())


def test_one_adapter_is_lowrank_linear(device):
    case = make_case(device.device, torch.float32, leading=(40,), index=[1] * 40, mixed_ranks=False)
    one = lrkernels.lowrank_linear(
        case.x, case.downs[1], case.ups[1], case.weight, case.bias, scale=float(case.scales[1])
    )
    torch.testing.assert_close(case.call(op), one)


def test_the_reference_is_right(device):
    case = make_case(device.device, torch.float64)
    grad = torch.randn(19, 18, dtype=torch.float64)
    torch.testing.assert_close(
        case.call(lrkernels.reference.lowrank_linear_indexed).cpu(), case.wide().call(exact_indexed)
    )
    ours = case.gradients(lrkernels.reference.lowrank_linear_indexed, grad)
    for name, exact in case.wide().gradients(exact_indexed, grad).items():
        torch.testing.assert_close(ours[name].cpu(), exact)


def test_explain_and_trace_name_the_kernels(device):
    case = make_case(device.device, torch.float32, weight=False).differentiable()
    plans = lrkernels.explain("lowrank_linear_indexed", *case.tensors)
    assert [plan.primitive for plan in plans] == ["project", "linear"]
    assert all(plan.kernel.startswith("lowrank_indexed_") for plan in plans)
    with lrkernels.trace() as kernels:
        case.call(lrkernels.lowrank_linear_indexed).sum().backward()
    assert [plan.kernel for plan in plans] == [name for name in kernels if "route" not in name][:2]
    assert sum("factor_grad" in name for name in kernels) == 3  # of downs, ups and scales
