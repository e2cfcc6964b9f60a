"""lrkernels beside eager torch, torch.compile and PEFT, in one process and in turn; shapes where we lose are shown too.

    python bench/run.py                       # the CPU cases; a table
    python bench/run.py --device cuda --out DIR   # on a GPU: DIR/benchmark.json, .md, .png, and lrk_bench's own table
    python bench/run.py --save NAME           # also bench/results/NAME.json and .png

Every result is verified against double precision before its time is shown; a wrong one exits 1.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from compare import machine, measure, report
from compare.cases import GROUPS, Case, cases
from compare.contenders import contenders, make_inputs, step
from compare.targets import targets
from compare.verify import failure

import lrkernels

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"


def run_case(case: Case, device: str, seconds: float, with_compile: bool) -> dict:
    copies = 1
    if device == "cuda":
        copies = measure.copies_beyond_cache(0 if case.pure else case.n * case.k * case.torch_dtype.itemsize)
    inputs = make_inputs(case, device, copies)
    forwards, absent = contenders(case, inputs[0], with_compile)
    failures: dict[str, str] = {}
    samplers = {}
    for name, forward in forwards.items():
        try:
            wrong = failure(case, name, forward, inputs[0])
            if wrong is not None:
                failures[name] = wrong
                continue
            steps = [step(case, forward, each) for each in inputs]
            if device == "cuda":
                samplers[name] = measure.cuda_sampler(steps, case.backward)
            else:
                samplers[name] = measure.cpu_sampler(steps[0], case.backward)
        except Exception as error:
            # A baseline that cannot run here is absent; ours must run.
            (failures if name == "lrkernels" else absent)[name] = (
                f"{type(error).__name__}: {str(error).splitlines()[0]}"
            )
    with lrkernels.trace() as kernels:
        if "lrkernels" not in failures:
            step(case, forwards["lrkernels"], inputs[0])()
    if "lrkernels" not in failures and (not kernels or "plain_torch" in kernels):
        failures["lrkernels"] = "no kernel of ours ran"
        del samplers["lrkernels"]
    samples = measure.alternate(samplers, seconds) if "lrkernels" in samplers else {}
    ratios = {
        name: measure.times_faster(samples["lrkernels"], theirs)
        for name, theirs in samples.items()
        if name != "lrkernels"
    }
    return {
        "case": case.to_dict(),
        "timings": {name: asdict(measure.summarize(times)) for name, times in samples.items()},
        "times_faster": ratios,
        "kernels": list(kernels),
        "targets": [
            {**asdict(t), "met": None if t.against not in ratios else ratios[t.against] >= t.at_least}
            for t in targets(case, device)
        ],
        "absent": absent,
        "failures": failures,
    }


def test_summary(folder: Path) -> dict:
    """What `make device` wrote before it called us: pytest's and ctest's last words."""
    found = {}
    log = folder / "tests.log"
    if log.exists():
        text = log.read_text(errors="replace")
        counts = {
            word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|skipped|errors?)\b", text.strip()[-400:])
        }
        found["pytest"] = {**counts, "cuda_skipped": re.findall(r"SKIPPED.*?\bcuda: (.*)", text)[:1]}
    log = folder / "ctest.log"
    if log.exists() and (match := re.search(r"(\d+) tests failed out of (\d+)", log.read_text(errors="replace"))):
        failed, total = map(int, match.groups())
        found["ctest"] = {"passed": total - failed, "failed": failed}
    return found


def run_binary(device: str, folder: Path) -> None:
    """The C++ benchmark on the same machine: a model's layers, against cuBLASLt."""
    binary = Path(os.environ.get("LRK_BENCH", ROOT / "build" / "cmake" / "lrk_bench"))
    if not binary.exists():
        print(f"{binary} is not built: no lrk_bench.json", file=sys.stderr)
        return
    command = [str(binary), "run", "lowrank_linear", "--preset", "llama3-8b", "--tokens", "1,16,512,4096"]
    command += ["--dtype", "bf16", "--device", device, "--seconds", "1", "--format", "json"]
    command += ["--out", str(folder / "lrk_bench.json")]
    if subprocess.run(command, check=False).returncode != 0:
        sys.exit("lrk_bench failed")


def parse_arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=(), metavar="GROUP", help=", ".join(GROUPS))
    parser.add_argument("--quick", action="store_true", help="tiny shapes, to see that everything works")
    parser.add_argument("--seconds", type=float, help="at most, a case (8; 0.1 with --quick)")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--threads", type=int, help="torch.set_num_threads")
    parser.add_argument("--markdown", action="store_true", help="print the table for the README")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write benchmark.json, .md and .png there")
    parser.add_argument("--save", metavar="NAME", help="write bench/results/NAME.json and .png")
    arguments = parser.parse_args(words)
    if arguments.seconds is None:
        arguments.seconds = 0.1 if arguments.quick else 8.0
    if arguments.seconds <= 0:
        parser.error(f"--seconds is {arguments.seconds:g}, expected more than 0")
    if arguments.threads is not None and arguments.threads < 1:
        parser.error(f"--threads is {arguments.threads}, expected at least 1")
    if arguments.save is not None and not re.fullmatch(r"[\w.-]+", arguments.save):
        parser.error(f"--save is {arguments.save!r}, expected a file name without folders")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device is cuda, but torch finds no CUDA device")
    return arguments


def main(words: list[str] | None = None) -> int:
    arguments = parse_arguments(words)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    chosen = cases(arguments.device, arguments.quick, tuple(arguments.only))
    results, absent = [], {}
    for number, case in enumerate(chosen, 1):
        print(f"[{number}/{len(chosen)}] {case.name}", file=sys.stderr, flush=True)
        results.append(run_case(case, arguments.device, arguments.seconds, not arguments.no_compile))
        absent.update(results[-1]["absent"])
    document = {
        "machine": machine.describe(arguments.device),
        "device": arguments.device,
        "command": shlex.join(["python", "bench/run.py", *(sys.argv[1:] if words is None else words)]),
        "quick": arguments.quick,
        "absent": absent,
        "results": results,
    }
    if arguments.out and (summary := test_summary(arguments.out)):
        document["tests"] = summary
    print(report.markdown(document) if arguments.markdown else report.table(document))
    places = [arguments.out / "benchmark"] if arguments.out else []
    places += [RESULTS / arguments.save] if arguments.save else []
    for place in places:
        place.parent.mkdir(parents=True, exist_ok=True)
        Path(f"{place}.json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
        report.plot(document, Path(f"{place}.png"))
        print(f"wrote {place}.json and .png", file=sys.stderr)
    if arguments.out:
        (arguments.out / "benchmark.md").write_text(report.markdown(document) + "\n")
        if arguments.device == "cuda":
            run_binary(arguments.device, arguments.out)
    return 1 if any(result["failures"] for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
