"""Plain products that torch's GEMM may compute in our place: both ways are right, and the trace says which ran."""

import contextlib

import pytest
import torch
from fresh_process import run
from lowrank_cases import make_case
from test_values import compare

import lrkernels

CPU = torch.device("cpu")
LARGE = dict(leading=(130,), in_features=96, out_features=80, rank=17)  # enough work for the library to be considered
FEATURES = {
    "weight and bias": dict(),
    "pure low-rank": dict(weight=False, bias=False),
    "pure low-rank, bias": dict(weight=False),
    "base": dict(weight=False, bias=False, base=True),
    "base and bias": dict(weight=False, base=True),
    "gate a rank and core": dict(gate="rank", core=True),
    "dropout": dict(dropout=0.3),
    "three leading dimensions": dict(leading=(5, 2, 13)),
    "few rows": dict(leading=(3,)),
    "a row of much work": dict(leading=(1,), in_features=1100, out_features=1030, rank=70, bias=False, weight=False),
    "rank 0": dict(rank=0),
}


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.bfloat16), ids=str)
@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize("name", ("library_gemm", "lowrank_"))
def test_forced_either_way(device, dtype, feature, name):
    """On a GPU the library is the default, so that is how its emulated path is tested."""
    if dtype is torch.float64 and device.backend != "cpu":
        pytest.skip("CUDA has no float64 kernels: the plain torch expression runs")
    with lrkernels.force(name):
        compare(make_case(device.device, dtype, **LARGE | FEATURES[feature]))


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
def test_strided_operands(dtype):
    case = make_case(CPU, dtype, **LARGE, bias=False)
    case.x = case.x.mT.contiguous().mT
    case.down, case.up = case.down.mT.contiguous().mT, case.up.mT.contiguous().mT
    case.weight = torch.cat([case.weight, case.weight], 1)[:, : case.weight.shape[1]]
    for name in ("library_gemm", "lowrank_"):
        with lrkernels.force(name):
            compare(case)


def test_the_trace_names_the_library():
    case = make_case(CPU, torch.float32, **LARGE, weight=False, bias=False)
    with lrkernels.force("library_gemm"), lrkernels.trace() as kernels:
        case.gradients(torch.ops.lrk.lowrank_linear, torch.ones(130, 80))
    assert kernels == ["library_gemm"] * 6  # s, y; ds, dup, ddown, dx
    with lrkernels.force("lowrank_"), lrkernels.trace() as kernels:
        case.gradients(torch.ops.lrk.lowrank_linear, torch.ones(130, 80))
    assert len(kernels) == 6 and all(kernel.startswith("lowrank_") for kernel in kernels)


def test_explain_agrees_with_the_trace():
    case = make_case(CPU, torch.float32, **LARGE, weight=False, bias=False)
    for choice in (lrkernels.force("library_gemm"), lrkernels.force("lowrank_"), contextlib.nullcontext()):
        with choice:
            plans = lrkernels.explain("lowrank_linear", *case.tensors, **case.scalars)
            with lrkernels.trace() as kernels:
                case.call(torch.ops.lrk.lowrank_linear)
        assert [plan.kernel for plan in plans] == kernels
        assert all(len(plan.rejected) == 1 for plan in plans)


def test_what_a_gemm_cannot_express_stays_with_the_kernels():
    for options in (dict(dropout=0.5), dict(gate="token")):
        case = make_case(CPU, torch.float32, **LARGE, weight=False, **options)
        with lrkernels.force("library_gemm"), lrkernels.trace() as kernels:
            case.call(torch.ops.lrk.lowrank_linear)
        assert kernels[0].startswith("lowrank_project"), kernels


def test_float64_on_cuda_runs_the_plain_expression():
    """CUDA has no float64 kernels; the emulated backend takes the same way as a GPU."""
    code = """
import torch, lrkernels, warnings
from lrkernels import testing
x, down, up = torch.randn(5, 8).double(), torch.randn(3, 8).double(), torch.randn(4, 3).double()
with testing.backend("cuda_emulated"), warnings.catch_warnings(record=True) as caught, lrkernels.trace() as kernels:
    warnings.simplefilter("always")
    for _ in range(2):
        y = torch.ops.lrk.lowrank_linear(x, down, up)
    print(lrkernels.explain("lowrank_linear", x, down, up)[0].kernel)
torch.testing.assert_close(y, x @ down.mT @ up.mT)
assert kernels == ["plain_torch"] * 2, kernels
print([str(w.message) for w in caught])
"""
    reason = lrkernels.testing.unavailable("cuda_emulated")
    if reason is not None:
        pytest.skip(reason)

    done = run(code)
    assert done.returncode == 0, done.stderr
    kernel, warned = done.stdout.splitlines()
    assert kernel == "plain_torch" and warned.count("no float64 kernels on CUDA") == 1
    strict = run(code, LRK_STRICT="1")
    assert (
        strict.returncode != 0
        and "lowrank_linear: lrkernels has no float64 kernels on CUDA (LRK_STRICT=1)" in strict.stderr
    )


@pytest.mark.parametrize("name", ("library_gemm", "lowrank_"))
def test_a_nan_is_not_lost_to_a_scale_of_zero(name):
    """BLAS does not read what it multiplies by zero."""
    s, up = torch.randn(130, 64), torch.randn(80, 64)
    s[3, 5] = torch.nan
    with lrkernels.force(name):
        y = torch.ops.lrk.lowrank_expand(s, up, scale=0.0)
        assert y[3].isnan().all() and y.nan_to_num().count_nonzero() == 0
        y = torch.ops.lrk.lowrank_linear(s, up[:17, :], torch.randn(90, 17), torch.randn(90, 64), scale=0.0)
        assert y[3].isnan().all() and y[:3].isfinite().all()
