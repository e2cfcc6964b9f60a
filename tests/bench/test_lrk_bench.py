"""The C++ benchmark from outside: its commands, its formats, its errors."""

import csv
import io
import json

import pytest

TINY = ("--m", "17", "--n", "40", "--k", "24", "--rank", "3", "--seconds", "0.01", "--threads", "2")
OPERATIONS = ("lowrank_linear", "lowrank_project", "lowrank_expand", "factor_grad", "lowrank_linear_backward")


def _isa(lrk_bench) -> str:
    line = next(line for line in lrk_bench("list").stdout.splitlines() if line.strip().startswith("cpu "))
    return line.split(", ")[-2]


def test_list(lrk_bench):
    listed = lrk_bench("list")
    assert listed.returncode == 0
    for word in (*OPERATIONS, "givens_apply", "cpu", "cuda", "cuda_emulated", "llama3-8b", "cuBLASLt"):
        assert word in listed.stdout
    for line in listed.stdout.splitlines():
        if line.strip().startswith("cuda ") and "not available" in line:
            assert line.split("not available:")[1].strip(), "the reason is missing"


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("mode", ["cold", "batch"])
def test_json(lrk_bench, operation, mode):
    ran = lrk_bench("run", operation, *TINY, "--mode", mode, "--dtype", "fp32,bf16", "--format", "json")
    assert ran.returncode == 0, ran.stderr
    document = json.loads(ran.stdout)
    assert document["machine"]["device"] == "cpu"
    assert document["roofline"]["gbytes_per_s"] > 0
    assert {name for name, peak in document["roofline"]["peaks"].items() if peak["gflops"] > 0} == {"fp32", "bf16"}
    assert [case["dtype"] for case in document["cases"]] == ["fp32", "bf16"]
    for case in document["cases"]:
        assert (case["m"], case["n"], case["k"], case["rank"], case["mode"]) == (17, 40, 24, 3, mode)
        ours = case["contenders"][0]
        assert ours["name"] == "lrkernels" and ours["kernels"]
        for contender in case["contenders"]:
            assert contender["status"] == "ok"
            assert contender["checked"] == contender["total"] > 0
            assert contender["us_low"] <= contender["us"] <= contender["us_high"]
            assert contender["gflops"] == pytest.approx(case["flops"] / contender["us"] * 1e-3, rel=0.01, abs=0.01)
            assert contender["roofline_percent"] >= 0  # rounds to 0.0 for a tiny case on a busy machine
            assert contender["times_ours"] == pytest.approx(contender["us"] / ours["us"], rel=0.01)


def test_arithmetic_of_linear(lrk_bench):
    ran = lrk_bench("run", "lowrank_linear", *TINY, "--format", "json", "--dropout", "0.25", "--bias")
    case = json.loads(ran.stdout)["cases"][0]
    assert case["flops"] == 2 * (17 * 40 * 24 + 17 * 3 * 24 + 17 * 3 * 40)
    assert case["bytes"] == 4 * (17 * 24 + 40 * 24 + 3 * 24 + 40 * 3 + 17 * 40 + 40)
    assert (case["dropout"], case["bias"]) == (0.25, True)
    assert [c["name"] for c in case["contenders"]] == ["lrkernels", "unfused"]


def _orthogonal_cases(lrk_bench, operation, *sizes):
    words = (*sizes, "--seconds", "0.01", "--format", "json")
    cases = json.loads(lrk_bench("run", operation, *words).stdout)["cases"]
    for case in cases:
        assert "n" not in case and "rank" not in case
        assert all(contender["status"] == "ok" for contender in case["contenders"])
    return cases


@pytest.mark.parametrize("operation", ["givens_apply", "givens_backward"])
def test_givens(lrk_bench, operation):
    backward = operation == "givens_backward"
    cases = _orthogonal_cases(lrk_bench, operation, "--m", "17", "--k", "30", "--rounds", "3,5")
    assert [(case["m"], case["k"], case["rounds"]) for case in cases] == [(17, 30, 3), (17, 30, 5)]
    for case in cases:
        pairs = case["rounds"] * 15
        assert case["flops"] == (16 if backward else 6) * 17 * pairs
        assert case["bytes"] == 4 * (17 * 30 * (3 if backward else 2) + (2 if backward else 1) * pairs)
        names = [contender["name"] for contender in case["contenders"]]
        assert names == (["lrkernels"] if backward else ["lrkernels", "round_by_round", "copy"])


@pytest.mark.parametrize("operation", ["block_diagonal_apply", "block_diagonal_backward"])
def test_block_diagonal(lrk_bench, operation):
    times = 2 if operation == "block_diagonal_backward" else 1
    cases = _orthogonal_cases(lrk_bench, operation, "--m", "17", "--k", "30", "--block", "3,10")
    assert [(case["m"], case["k"], case["block"]) for case in cases] == [(17, 30, 3), (17, 30, 10)]
    for case in cases:
        assert case["flops"] == times * 2 * 17 * 30 * case["block"]
        assert case["bytes"] == 4 * ((1 + times) * 17 * 30 + times * 30 * case["block"])


def test_cayley(lrk_bench):
    (case,) = _orthogonal_cases(lrk_bench, "cayley", "--k", "30", "--block", "5")
    assert (case["k"], case["block"], "m" in case) == (30, 5, False)
    assert case["flops"] == 6 * 2 * 5**3 and case["bytes"] == 4 * 6 * (10 + 25)


def test_csv(lrk_bench):
    ran = lrk_bench("run", "lowrank_linear", *TINY, "--dtype", "fp64", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(ran.stdout)))
    assert [row["contender"] for row in rows] == ["lrkernels", "unfused"]
    for row in rows:
        assert None not in row and None not in row.values(), "a row and the header differ in length"
        assert row["status"] == "ok" and row["dtype"] == "fp64" and float(row["us"]) > 0
    assert float(rows[0]["times_ours"]) == 1


def test_table_and_file(lrk_bench, tmp_path):
    out = tmp_path / "result.json"
    ran = lrk_bench("run", "lowrank_project", *TINY, "--format", "json", "--out", str(out))
    assert ran.returncode == 0
    assert "lowrank_project m 17" in ran.stdout and "GFLOP/s" in ran.stdout
    assert json.loads(out.read_text())["cases"]
    unwritable = lrk_bench("run", "lowrank_project", *TINY, "--out", str(tmp_path / "missing" / "x"))
    assert unwritable.returncode == 1 and "--out" in unwritable.stderr


def test_kernel_is_pinned(lrk_bench):
    wide = ("--m", "200", "--n", "40", "--k", "24", "--seconds", "0.01", "--format", "json")
    free, pinned = (
        json.loads(lrk_bench("run", "lowrank_linear", *wide, *more).stdout)["cases"][0]["contenders"][0]["kernels"]
        for more in ((), ("--kernel", "linear_" + _isa(lrk_bench) + "_dot"))
    )
    assert "_dot" not in free.split(" ; ")[-1]
    assert "_dot" in pinned.split(" ; ")[-1]


def test_preset(lrk_bench):
    arguments = ("--preset", "llama3-8b", "--tokens", "1", "--dtype", "bf16", "--seconds", "0.001", "--format", "json")
    cases = json.loads(lrk_bench("run", "lowrank_expand", *arguments).stdout)["cases"]
    shapes = {case["layers"]: (case["n"], case["k"]) for case in cases}
    assert shapes == {
        "q, o": (4096, 4096),
        "k, v": (1024, 4096),
        "gate, up": (14336, 4096),
        "down": (4096, 14336),
    }
    # The reference is sampled on results as large as these only where it must be.
    assert all(contender["checked"] > 1000 for case in cases for contender in case["contenders"])


def test_emulator_shows_no_time(lrk_bench):
    ran = lrk_bench("run", "lowrank_linear", *TINY, "--dtype", "bf16", "--device", "cuda_emulated", "--format", "json")
    if "not available" in ran.stderr:
        pytest.skip("lrk_bench was built without the emulator")
    assert ran.returncode == 0
    for contender in json.loads(ran.stdout)["cases"][0]["contenders"]:
        assert contender["status"] == "ok" and "us" not in contender


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "no command"),
        (("fly",), "'fly', expected one of list, run"),
        (("run",), "no operation"),
        (("run", "gemm"), "'gemm', expected one of lowrank_linear"),
        (("run", "lowrank_linear", "--m", "-3"), "--m is '-3', expected a whole number from 1"),
        (("run", "lowrank_linear", "--dtype", "int8"), "--dtype is 'int8', expected one of fp32"),
        (("run", "lowrank_linear", "--dropout", "2"), "--dropout is '2', expected a number from 0 to 0.99"),
        (("run", "lowrank_linear", "--preset", "gpt9"), "--preset is 'gpt9', expected one of llama3-8b"),
        (("run", "lowrank_linear", "--rank"), "--rank needs a value"),
        (("run", "lowrank_linear", "--rounds", "3"), "--rounds is not an argument of lowrank_linear"),
        (("run", "givens_apply", "--rank", "3"), "--rank is not an argument of givens_apply"),
        (("run", "givens_apply", "--block", "3"), "--block is not an argument of givens_apply"),
        (("run", "cayley", "--m", "3"), "--m is not an argument of cayley"),
        (("run", "block_diagonal_apply", "--bias"), "--bias is not an argument of block_diagonal_apply"),
        (("run", "block_diagonal_apply", "--k", "10", "--block", "3"), "--block is '3', expected a divisor of --k"),
        (
            ("run", "lowrank_linear", *TINY, "--kernel", "nosuch"),
            "--kernel is 'nosuch', which no kernel",
        ),
        (("run", "lowrank_linear", "--nonsense", "1"), "'--nonsense' is not an argument"),
    ],
)
def test_bad_arguments(lrk_bench, words, message):
    ran = lrk_bench(*words)
    assert ran.returncode == 2
    assert message in ran.stderr
    assert ran.stdout == ""


def test_missing_device(lrk_bench):
    line = next(line for line in lrk_bench("list").stdout.splitlines() if line.strip().startswith("cuda "))
    if "not available" not in line:
        pytest.skip("this machine has a GPU")
    ran = lrk_bench("run", "lowrank_linear", *TINY, "--device", "cuda")
    assert ran.returncode == 1
    assert "--device is 'cuda', which is not available: " in ran.stderr


def test_roofline(lrk_bench):
    document = json.loads(lrk_bench("roofline", "--dtype", "fp32,fp64", "--format", "json").stdout)
    peaks = document["roofline"]["peaks"]
    assert peaks["fp32"]["gflops"] > 0 and peaks["fp64"]["gflops"] > 0
    assert peaks["fp32"]["how"]
