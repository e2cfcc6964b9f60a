"""bench/run.py and bench/hardware.py: what they report, and that a wrong result is never given a time."""

import json
import sys

import pytest
import torch


def test_quick_run(scripts, tmp_path, capsys, monkeypatch):
    run = scripts("run")
    monkeypatch.setattr(sys.modules["compare.report"], "plot", lambda document, path: path.write_bytes(b"png"))
    assert run.main(["--quick", "--no-compile", "--seconds", "0.02", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    document = json.loads((tmp_path / "benchmark.json").read_text())
    machine = document["machine"]
    assert machine["cpu"] and machine["torch"] == torch.__version__ and machine["commit"] and machine["date"]
    assert {result["case"]["group"] for result in document["results"]} == set(sys.modules["compare.cases"].GROUPS)
    for result in document["results"]:
        assert result["failures"] == {}
        assert result["case"]["name"] in printed
        assert result["kernels"] and result["timings"]["lrkernels"]["median_us"] > 0
        assert result["times_faster"]["eager"] > 0
        assert all(target["met"] in (True, False) for target in result["targets"])
        assert result["absent"]["compile"] == "left out by --no-compile"
    markdown = (tmp_path / "benchmark.md").read_text()
    assert markdown.count("\n|") == 1 + len(document["results"])
    assert "Reproduce: `python bench/run.py --quick" in markdown


def test_plot(scripts, tmp_path):
    pytest.importorskip("matplotlib")
    report = scripts("compare.report")
    report.plot(_document("cpu"), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes()[:4] == b"\x89PNG"


def test_wrong_results_are_not_timed(scripts, monkeypatch, capsys):
    run = scripts("run")
    contenders = run.contenders

    def with_an_error(case, inputs, with_compile):
        found, absent = contenders(case, inputs, with_compile)
        right = found["lrkernels"]
        return {**found, "lrkernels": lambda i: right(i) * 1.5}, absent

    monkeypatch.setattr(run, "contenders", with_an_error)
    assert run.main(["--quick", "--no-compile", "--seconds", "0.02", "--only", "training", "dropout"]) == 1
    printed = capsys.readouterr().out
    assert printed.count("FAILED: lrkernels: y is off by 0.5 of its norm") == 3
    assert "×  " not in printed, "a ratio was printed for a wrong result"


def test_wrong_gradients_are_seen(scripts):
    contenders, verify = scripts("compare.contenders"), scripts("compare.verify")
    case = scripts("compare.cases").Case("training", 8, 12, 10, 3, "fp32", backward=True)
    inputs = contenders.make_inputs(case, "cpu")[0]
    found, _ = contenders.contenders(case, inputs, with_compile=False)
    assert verify.failure(case, "lrkernels", found["lrkernels"], inputs) is None

    class WrongGradient(torch.autograd.Function):
        @staticmethod
        def forward(ctx, y):
            return y.clone()

        @staticmethod
        def backward(ctx, grad):
            return grad * 1.01

    wrong = verify.failure(case, "lrkernels", lambda i: WrongGradient.apply(found["lrkernels"](i)), inputs)
    assert wrong.startswith("the gradient of x is off by 0.01")


def test_targets_of_the_training_shapes(scripts):
    cases, targets = scripts("compare.cases"), scripts("compare.targets")
    held = {
        (case.m, case.dtype): target.at_least
        for case in cases.cases("cpu")
        for target in targets.targets(case, "cpu")
        if case.backward and case.group == "training"
    }
    assert held == {(512, "fp32"): 1.5, (2048, "fp32"): 1.5, (512, "bf16"): 1.08, (2048, "bf16"): 1.08}
    for case in cases.cases("cpu") + cases.cases("cuda"):
        assert targets.targets(case, "cpu" if case.dtype == "fp32" else "cuda")


def test_medians(scripts):
    measure = scripts("compare.measure")
    wide = measure.summarize([float(i * 37 % 101) for i in range(101)])
    assert (wide.median_us, wide.low_us, wide.high_us, wide.settled) == (50, 40, 60, False)
    assert measure.summarize([5.0] * 9).settled and not measure.summarize([5.0] * 3).settled
    assert measure.times_faster([1.0, 2.0, 1.0], [2.0, 4.0, 9.0]) == 2.0
    order = []
    samplers = {name: lambda name=name: order.append(name) or 1.0 for name in "abc"}
    samples = measure.alternate(samplers, seconds=10)
    assert {name: len(times) for name, times in samples.items()} == {"a": 9, "b": 9, "c": 9}
    rounds = ["".join(order[i : i + 3]) for i in range(0, 27, 3)]
    assert all(set(one) == set("abc") for one in rounds)
    rotations = {"abc", "bca", "cab"}
    assert rotations & set(rounds) and set(rounds) - rotations, "rotating keeps who runs after whom"


def test_a_sample_is_taken_after_a_call_that_is_not_timed(scripts, monkeypatch):
    measure, events = scripts("compare.measure"), []
    sample = measure.cpu_sampler(lambda: events.append("call"), backward=True, sample_seconds=0.0)
    events.clear()
    clock = measure.time.perf_counter
    monkeypatch.setattr(measure.time, "perf_counter", lambda: events.append("clock") or clock())
    assert sample() > 0
    assert events[-3:] == ["clock", "call", "clock"] and events[:-3].count("call") == 1


@pytest.mark.parametrize(
    "words",
    [["--seconds", "-1"], ["--threads", "0"], ["--save", "../x"], ["--only", "nothing"], ["--device", "tpu"]],
)
def test_bad_arguments(scripts, words, capsys):
    with pytest.raises(SystemExit) as stopped:
        scripts("run").main(words)
    assert stopped.value.code == 2
    assert words[0] in capsys.readouterr().err


# --- hardware.py ------------------------------------------------------------------------------------------------------


def _document(device, **more):
    machine = {
        "cpu": "Some CPU", "threads": 2, "torch": "2.13.0", "lrkernels": "0.1.0", "commit": "abc", "date": "2025-01-01",
    }  # fmt: skip
    if device == "cuda":
        machine |= {"gpu": "Some GPU", "cuda": "13.0"}
    result = {
        "case": {"name": "a case"},
        "timings": {"lrkernels": {"median_us": 12.0, "settled": True}, "eager": {"median_us": 24.0, "settled": True}},
        "times_faster": {"eager": 2.0},
        "targets": [{"against": "eager", "at_least": 0.97, "why": "", "met": True}],
        "failures": {},
    }
    return {
        "machine": machine, "device": device, "command": "python bench/run.py", "quick": False, "absent": {},
        "results": [result], **more,
    }  # fmt: skip


def test_hardware_page_without_a_gpu(scripts, tmp_path):
    hardware = scripts("hardware")
    (tmp_path / "here.json").write_text(json.dumps(_document("cpu")))
    (tmp_path / "quick.json").write_text(json.dumps(_document("cuda", quick=True)))
    words = ["--results", str(tmp_path), "--page", str(tmp_path / "hardware.md")]
    assert hardware.main(words) == 0
    page = (tmp_path / "hardware.md").read_text()
    assert "have been verified with the emulator, not on hardware" in page
    assert "Some CPU" in page and "2.00×" in page and "Some GPU" not in page
    assert hardware.main([*words, "--check"]) == 0
    (tmp_path / "hardware.md").write_text(page + "more")
    assert hardware.main([*words, "--check"]) == 1


@pytest.mark.parametrize(
    ("pytest_counts", "verified"),
    [
        ({"passed": 900, "skipped": 3, "cuda_skipped": []}, True),
        ({"passed": 899, "failed": 1, "cuda_skipped": []}, False),
        ({"passed": 600, "skipped": 300, "cuda_skipped": ["no CUDA device is available"]}, False),
    ],
)
def test_hardware_page_with_a_gpu(scripts, pytest_counts, verified):
    document = _document("cuda", tests={"pytest": pytest_counts, "ctest": {"passed": 4, "failed": 0}})
    page = scripts("hardware").page([("h200", document)])
    assert "Some GPU" in page and f"pytest {pytest_counts['passed']} passed" in page
    assert "not on hardware" not in page
    assert ("No run below recorded" in page) is not verified


def test_tests_are_read_from_the_logs(scripts, tmp_path):
    run = scripts("run")
    assert run.test_summary(tmp_path) == {}
    (tmp_path / "tests.log").write_text(
        "....\nSKIPPED [12] tests/conftest.py:14: cuda_emulated: not built\n"
        "SKIPPED [12] tests/conftest.py:14: cuda: no CUDA device is available\n12 passed, 24 skipped in 3.10s\n"
    )
    (tmp_path / "ctest.log").write_text("75% tests passed, 1 tests failed out of 4\n")
    assert run.test_summary(tmp_path) == {
        "pytest": {"passed": 12, "skipped": 24, "cuda_skipped": ["no CUDA device is available"]},
        "ctest": {"passed": 3, "failed": 1},
    }


def test_the_page_is_up_to_date(scripts, bench_folder):
    if not (bench_folder.parent / "docs" / "hardware.md").exists():
        pytest.skip("docs/hardware.md is not written yet")
    assert scripts("hardware").main(["--check"]) == 0
