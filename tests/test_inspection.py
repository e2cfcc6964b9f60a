"""build_info, explain, trace, force, the reference switch and what happens where there is no kernel."""

import platform
import re
import threading
from pathlib import Path

import pytest
import torch
from fresh_process import run

import lrkernels
from lrkernels import testing

x, down, up, weight = torch.randn(40, 64), torch.randn(8, 64), torch.randn(48, 8), torch.randn(48, 64)


OTHER_ISAS = [isa for isa in ("avx512", "avx2", "portable") if isa != lrkernels.build_info()["cpu_isa"]]


def test_build_info():
    info = lrkernels.build_info()
    assert info["version"] == lrkernels.__version__
    assert info["cpu_isa"] in ("avx512", "avx2", "portable")
    assert info["torch"] == torch.__version__
    assert info["cuda_reason"]
    assert bool(info["cuda_archs"]) == info["cuda"]
    if info["cuda"]:
        assert set(info["cuda_archs"]) == {"sm_80", "sm_90a"}


def test_explain_names_the_kernels_that_trace_then_sees(device):
    arguments = [t.to(device.device) for t in (x, down, up, weight)]
    plans = lrkernels.explain("lowrank_linear", *arguments)
    with lrkernels.trace() as kernels:
        torch.ops.lrk.lowrank_linear(*arguments)
    assert [plan.primitive for plan in plans][:1] == ["project"]
    assert all(plan.reason for plan in plans)
    assert [plan.kernel for plan in plans] == kernels
    assert "project" in str(plans) and "because" in str(plans)


def test_explain_prints_equal_neighbours_once():
    explanation = lrkernels.explain("cayley_rectangular", torch.randn(300, 200))
    text = str(explanation)
    assert text.count("because") < len(explanation)
    counts = [int(number) for number in re.findall(r", (\d+) times$", text, re.MULTILINE)]
    assert counts and sum(counts) + text.count("because") - len(counts) == len(explanation)


@pytest.mark.parametrize("name", ("library_gemm", "lowrank_linear", "lowrank_expand"))
def test_explain_says_what_was_forced(device, name):
    arguments = [t.to(device.device) for t in (torch.randn(200, 64), down, up, weight)]
    with lrkernels.force(name):
        plans = lrkernels.explain("lowrank_linear", *arguments)
        with lrkernels.trace() as kernels:
            torch.ops.lrk.lowrank_linear(*arguments)
    assert [plan.kernel for plan in plans] == kernels
    for plan in plans:
        assert (name in plan.kernel) == ("force" in plan.reason), plan


def test_a_forced_instruction_set_or_tile_leaves_nothing_to_the_library():
    if lrkernels.build_info()["cpu_isa"] == "portable":
        pytest.skip("there is no other instruction set")
    expected = torch.ops.lrk.lowrank_linear(torch.ones(200, 64), down, up, weight)
    for name in (lrkernels.build_info()["cpu_isa"], "x32" if lrkernels.build_info()["cpu_isa"] == "avx512" else "x16"):
        with lrkernels.force(name), lrkernels.trace() as kernels:
            y = torch.ops.lrk.lowrank_linear(torch.ones(200, 64), down, up, weight)
        assert "library_gemm" not in kernels and any(name in kernel for kernel in kernels), kernels
        torch.testing.assert_close(y, expected)


def test_explain_computes_nothing():
    with lrkernels.trace() as kernels:
        lrkernels.explain(lrkernels.lowrank_linear, x, down, up, weight)
    assert kernels == []


def test_nested_traces():
    with lrkernels.trace() as outer:
        torch.ops.lrk.lowrank_project(x, down)
        with lrkernels.trace() as inner:
            torch.ops.lrk.lowrank_expand(x[:, :8], up)
        torch.ops.lrk.lowrank_project(x, down)
    assert len(inner) == 1 and len(outer) == 3 and outer[1] == inner[0]


def test_explain_does_not_disturb_other_threads():
    expected, wrong, stop = torch.ops.lrk.lowrank_linear(x, down, up, weight), [], threading.Event()

    def compute():
        while not stop.is_set():
            if not torch.equal(torch.ops.lrk.lowrank_linear(x, down, up, weight), expected):
                wrong.append(1)

    worker = threading.Thread(target=compute)
    worker.start()
    for _ in range(200):
        lrkernels.explain("lowrank_linear", x, down, up, weight)
    stop.set()
    worker.join()
    assert not wrong


def test_force(device):
    arguments = [t.to(device.device) for t in (x, down, up, weight)]
    exact = torch.nn.functional.linear(x.double(), weight.double()) + x.double() @ down.double().T @ up.double().T
    for name in ("library_gemm", "lowrank_linear"):
        with lrkernels.force(name), lrkernels.trace() as kernels:
            y = torch.ops.lrk.lowrank_linear(*arguments)
        assert any(name in kernel for kernel in kernels), kernels
        torch.testing.assert_close(y.cpu().double(), exact, rtol=1e-4, atol=1e-3)
    with pytest.raises(ValueError, match="force: name"), lrkernels.force(""):
        pass


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.bfloat16, torch.float16), ids=str)
@pytest.mark.parametrize("rows", (1, 40, 200))
def test_every_kernel_that_runs_can_be_forced(device, dtype, rows):
    if dtype is torch.float64 and device.backend != "cpu":
        pytest.skip("CUDA has no float64 kernels: the plain torch expression runs")
    tensors = (torch.randn(rows, 64), down, up, weight, torch.randn(48))
    leaves = [t.to(device.device, dtype, copy=True).requires_grad_() for t in tensors]
    known = torch.ops.lrk._kernel_names()
    for library in (False, True):
        with lrkernels.force("library_gemm" if library else "lowrank"), lrkernels.trace() as kernels:
            lrkernels.lowrank_linear(*leaves).sum().backward()
            lrkernels.lowrank_linear(*leaves[:3]).sum().backward()
        assert len(kernels) >= 8
        assert [k for k in kernels if not any(k in name for name in known)] == []


def test_traces_may_be_nested():
    x, down, up = torch.randn(5, 64), torch.randn(3, 64), torch.randn(7, 3)
    with lrkernels.trace() as outer:
        with lrkernels.trace() as inner:
            lrkernels.lowrank_project(x, down)
        with lrkernels.trace() as nothing:
            pass
        lrkernels.lowrank_expand(x[:, :3], up)
    assert len(inner) == 1 and nothing == [] and len(outer) == 2 and outer[0] == inner[0]
    with lrkernels.trace() as after:
        pass
    assert after == [] and not lrkernels.inspection.recording()


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("lowrank_lineer", "close: lowrank_linear"),
        ("libary_gemm", "close: library_gemm"),
        ("zzz", "the kernels here:\n  library_gemm"),
        *[(isa, f"the instruction set is chosen when the process starts, .* LRK_CPU_ISA={isa}") for isa in OTHER_ISAS],
    ],
)
def test_forcing_a_kernel_that_does_not_exist_raises(name, hint):
    with lrkernels.force("library_gemm"):
        with pytest.raises(ValueError, match=f"force: no kernel's name contains '{name}'; {hint}"):
            with lrkernels.force(name):
                pass
        assert torch.ops.lrk._forced() == "library_gemm"


def test_trace_lists_the_gemm_of_the_weight_gradient():
    factor = down.clone().requires_grad_()
    with lrkernels.force("lowrank"):  # the other products are kernels of this library
        for dense, gemms in ((weight.clone().requires_grad_(), 1), (weight, 0)):
            with lrkernels.trace() as kernels:
                lrkernels.lowrank_linear(x, factor, up, dense).sum().backward()
            assert kernels.count("library_gemm") == gemms, kernels


def test_what_is_verified_on_hardware():
    assert all(plan.hardware_verified for plan in lrkernels.explain("lowrank_linear", x, down, up, weight)) == (
        platform.machine() in ("x86_64", "AMD64")
    )
    if testing.unavailable("cuda_emulated") is None:
        with testing.backend("cuda_emulated"):
            plans = lrkernels.explain("lowrank_linear", x, down, up, weight)
        assert plans and not any(plan.hardware_verified for plan in plans)


def test_bad_names():
    for name in ("lowrank_lineer", "__class__", "_stop_trace", ""):
        with pytest.raises(ValueError, match=f"no op named '{name}'; the ops are .*givens_apply, .*lowrank"):
            lrkernels.explain(name, x)
    with pytest.raises(TypeError, match="explain: op is a int"):
        lrkernels.explain(3)
    with pytest.raises(ValueError, match="testing.unavailable: backend is 'tpu'"):
        testing.unavailable("tpu")
    with pytest.raises(ValueError, match="testing.backend: name is 'tpu'"), testing.backend("tpu"):
        pass


COMPARE = """
import torch, lrkernels
torch.manual_seed(0)
x, down, up = torch.randn(5, 7, requires_grad=True), torch.randn(3, 7), torch.randn(4, 3)
with lrkernels.trace() as kernels:
    y = torch.ops.lrk.lowrank_linear(x, down, up)
    y.sum().backward()
torch.testing.assert_close(y, x @ down.T @ up.T)
torch.testing.assert_close(x.grad, torch.ones(5, 4) @ up @ down)
print(len(kernels))
"""


def test_reference_switch_runs_no_kernel():
    assert run(COMPARE).stdout.strip() != "0"
    result = run(COMPARE, LRK_REFERENCE="1")
    assert result.returncode == 0 and result.stderr == "", result.stderr
    assert result.stdout.strip() == "0"


FORCED_REFERENCE = """
import torch, lrkernels
x, weight = torch.randn(5, 7), torch.randn(4, 7, requires_grad=True)
print(lrkernels.explain("lowrank_linear", x, torch.ones(3, 7), torch.ones(4, 3)))
with lrkernels.trace() as kernels:
    lrkernels.lowrank_linear(x, torch.ones(3, 7), torch.ones(4, 3), weight).sum().backward()
print(list(kernels))
with lrkernels.force("library_gemm"):
    pass
"""


def test_with_the_reference_there_is_nothing_to_force_and_explain_says_so():
    result = run(FORCED_REFERENCE, LRK_REFERENCE="1")
    explanation, kernels = result.stdout.strip().splitlines()
    assert "LRK_REFERENCE=1" in explanation and kernels == "[]"
    assert "RuntimeError: force: there is no kernel" in result.stderr


@pytest.mark.parametrize(
    ("file", "which"),
    [
        ("test_errors.py", "not memory and not backward_ops and not hook"),
        ("test_values.py", "cpu and (feature or strides or merge or compose)"),
    ],
)
def test_the_reference_gives_the_answers_and_errors_of_the_kernels(file, which):
    path = Path(__file__).parent / "lowrank" / file
    result = run(
        f"import pytest; raise SystemExit(int(pytest.main([{str(path)!r}, '-k', {which!r}])))", LRK_REFERENCE="1"
    )
    assert result.returncode == 0, result.stdout


def test_log_switch_names_the_kernels():
    result = run(COMPARE, LRK_LOG="dispatch")
    assert result.stderr.count("lrk dispatch: ") >= 2, result.stderr


def test_unknown_values_of_the_switches_are_said_once():
    result = run(COMPARE, LRK_LOG="dispach")
    assert result.returncode == 0
    assert result.stderr == "lrk: LRK_LOG has no 'dispach'; accepted values: dispatch\n"
    result = run(COMPARE, LRK_LOG="nonsense,dispatch")
    assert result.stderr.count("LRK_LOG has no 'nonsense'") == 1 and result.stderr.count("lrk dispatch: ") >= 2
    result = run(COMPARE, LRK_CPU_ISA="sse")
    assert result.stderr == "lrk: LRK_CPU_ISA has no 'sse'; accepted values: avx512, avx2, portable\n"


FALLBACK = """
import warnings, torch
from lrkernels.ops import _registration
from lrkernels import reference
library = torch.library.Library("lrk", "FRAGMENT")
library.define("orphan(Tensor x) -> Tensor")
_registration.register_fallback("orphan", lambda x: x + 1, lambda x: None)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(3):
        print(torch.ops.lrk.orphan(torch.zeros(1)).item())
print([str(w.message) for w in caught])
"""


def test_a_device_without_a_kernel_gets_the_plain_expression_and_one_warning():
    result = run(FALLBACK)
    assert result.returncode == 0, result.stderr
    values = result.stdout.splitlines()
    assert values[:3] == ["1.0"] * 3
    assert values[3].count("no kernel for orphan on cpu") == 1
    strict = run(FALLBACK, LRK_STRICT="1")
    assert strict.returncode != 0 and "LRK_STRICT=1" in strict.stderr


def test_a_device_says_why_the_kernels_cannot_run_on_it():
    beyond_the_last = lrkernels._kernels.cuda_device_problem(torch.cuda.device_count())
    info = lrkernels.build_info()
    assert beyond_the_last.startswith("cudaSetDevice: " if info["cuda"] else info["cuda_reason"])
    assert len(info["gpus"]) == torch.cuda.device_count()
    assert all(gpu.endswith(": the kernels run on it") for gpu in info["gpus"])


@pytest.mark.parametrize("isa", ("avx2", "portable"))
def test_older_processors(isa):
    if isa == "avx2" and "avx2" not in lrkernels.build_info()["cpu_features"]:
        pytest.skip("this CPU has no AVX2")
    code = "print(lrkernels.build_info()['cpu_isa'], *lrkernels.explain('lowrank_linear', torch.ones(40, 7), down, up,"
    result = run(COMPARE + code + " torch.ones(4, 7)), sep='\\n')", LRK_CPU_ISA=isa)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[1] == isa
    if isa == "portable":
        assert "the portable kernels are tuned for no CPU" in result.stdout
        assert "fast" not in result.stdout, "nobody has measured torch on this CPU's behalf"
