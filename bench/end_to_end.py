"""Fine-tuning steps of a small Llama with PEFT's LoRA, OFT, BOFT or HRA: stock, lrkernels.accelerate, both compiled.

    python bench/end_to_end.py                          # the CPU settings; a table
    python bench/end_to_end.py --device cuda --size 7b-slice
    python bench/end_to_end.py --save NAME              # also bench/results/end_to_end/NAME.json and .png

A step is forward, backward and AdamW on the source text of Python's standard library. All contenders start from the
same weights and see the same batches; one whose first losses are not PEFT's is not timed, and the run exits 1.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from compare import machine, measure
from finetune import report
from finetune.settings import SETTINGS, SIZES, Setting, Size
from finetune.training import contenders, warm_up_and_verify

RESULTS = Path(__file__).resolve().parent / "results" / "end_to_end"


def run_setting(setting: Setting, size: Size, device: str, seconds: float, with_compile: bool) -> dict:
    torch.compiler.reset()
    found = contenders(setting, size, device, with_compile)
    failures = warm_up_and_verify(found)
    samples = measure.alternate({name: contender.timed_step for name, contender in found.items()}, seconds)
    timings = {name: measure.summarize(times) for name, times in samples.items()}
    ratios = {
        name: measure.times_faster(times, samples["peft"]) for name, times in samples.items() if name != "peft"
    }  # fmt: skip
    return {
        "setting": setting.to_dict(),
        "timings": {name: asdict(timing) for name, timing in timings.items()},
        "tokens_per_second": {name: size.tokens / timing.median_us * 1e6 for name, timing in timings.items()},
        "times_faster": ratios,
        "goal": {"at_least": setting.at_least, "met": ratios.get("lrkernels", 0.0) >= setting.at_least},
        "settled": all(timings[name].settled for name in ("peft", "lrkernels") if name in timings),
        "losses": {name: contender.losses[-1] for name, contender in found.items()},
        "steps": len(found["peft"].losses),
        "peak_bytes": {name: contender.peak_bytes() for name, contender in found.items()},
        "failures": failures,
    }


def parse_arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--only", nargs="+", choices=[s.name for s in SETTINGS], metavar="SETTING")
    parser.add_argument("--seconds", type=float, default=30.0, help="at most, a setting")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--threads", type=int, help="torch.set_num_threads")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    parser.add_argument("--save", metavar="NAME", help="write bench/results/end_to_end/NAME.json and .png")
    arguments = parser.parse_args(words)
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
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler, which measures memory, logs a lot
    arguments = parse_arguments(words)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    size = SIZES[arguments.size]
    chosen = [s for s in SETTINGS if not arguments.only or s.name in arguments.only]
    results = []
    for number, setting in enumerate(chosen, 1):
        print(f"[{number}/{len(chosen)}] {setting.name}", file=sys.stderr, flush=True)
        results.append(run_setting(setting, size, arguments.device, arguments.seconds, not arguments.no_compile))
    document = {
        "machine": machine.describe(arguments.device),
        "device": arguments.device,
        "command": shlex.join(["python", "bench/end_to_end.py", *(sys.argv[1:] if words is None else words)]),
        "size": asdict(size),
        "results": results,
    }
    print(report.markdown(document) if arguments.markdown else report.table(document))
    if arguments.save:
        RESULTS.mkdir(parents=True, exist_ok=True)
        place = RESULTS / arguments.save
        Path(f"{place}.json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
        report.plot(document, Path(f"{place}.png"))
        print(f"wrote {place}.json and .png", file=sys.stderr)
    return 1 if any(result["failures"] for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
