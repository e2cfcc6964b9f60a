"""Contenders that compute the same thing: verified first, then timed in turn, a line of a table each contest; and the
command line of the benchmarks that are made of contests."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from compare import machine, measure
from compare.verify import relative_error

Results = Callable[[], list[Tensor]]


@dataclass
class Line:
    """What a contest found. ``times_faster``: the others' time over that of lrkernels."""

    name: str
    right: bool
    timings: dict[str, measure.Timing] = field(default_factory=dict)
    times_faster: dict[str, float] = field(default_factory=dict)


class Case(Protocol):
    name: str

    def hold(self, device: str, seconds: float) -> Line: ...


def hold(
    name: str,
    contenders: dict[str, Results],
    exact: list[Tensor],
    tolerance: float,
    others: dict[str, measure.Step],
    *,
    columns: list[str],
    device: str,
    backward: bool,
    seconds: float,
    seen: Callable[[list[Tensor]], list[Tensor]] = list,
) -> Line:
    """Prints ``| name | lrkernels' µs | a column each: their time over lrkernels' |``.

    ``contenders`` are functions without arguments, one of them "lrkernels"; one whose results are off gets no time, and
    of lrkernels nobody does. ``others`` are timed too, but compute something else. ``seen`` is what is compared of the
    results, where several are right.
    """
    samplers, line = {}, Line(name, right=True)
    for contender, function in contenders.items():
        worst = max(map(relative_error, seen(function()), exact))
        if worst <= tolerance:
            samplers[contender] = _sampler(function, device, backward)
        else:
            print(f"{name}: {contender} is off by {worst:.2g} of the norm", file=sys.stderr)
            line.right = False
    if "lrkernels" not in samplers:
        return line
    samplers |= {other: _sampler(step, device, backward) for other, step in others.items()}
    samples = measure.alternate(samplers, seconds)
    line.timings = {contender: measure.summarize(times) for contender, times in samples.items()}
    ours = samples.pop("lrkernels")
    line.times_faster = {contender: measure.times_faster(ours, times) for contender, times in samples.items()}
    cells = [f"{line.times_faster[column]:.2f}×" if column in samples else "–" for column in columns]
    print(f"| {name} | {line.timings['lrkernels'].median_us:,.0f} | {' | '.join(cells)} |", flush=True)
    return line


def main(
    words: Sequence[str] | None,
    description: str,
    columns: list[str],
    cases: Callable[[bool], Sequence[Case]],
    *,
    results: Path,
    seconds: float = 3.0,
) -> int:
    """Holds ``cases(quick)``, and with --save writes what it found into the folder ``results``; 1 if any was wrong."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--quick", action="store_true", help="tiny shapes, and no torch.compile")
    parser.add_argument("--seconds", type=float, default=seconds, help="at most, a case")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--save", metavar="NAME", help=f"write {results.name}/NAME.json beside the other results")
    arguments = parser.parse_args(words)
    if arguments.save is not None and not arguments.save.replace("-", "_").replace(".", "_").isidentifier():
        parser.error(f"--save is {arguments.save!r}, expected a file name without folders")
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print(f"| case | lrkernels µs | {' | '.join(f'vs {c}' for c in columns)} |\n|---|{'---:|' * (len(columns) + 1)}")
    lines = []
    for case in cases(arguments.quick):
        if arguments.only in case.name:
            torch.manual_seed(0)
            torch.compiler.reset()  # what was compiled for other cases counts against dynamo's limit of recompiling
            lines.append(case.hold(arguments.device, 0.05 if arguments.quick else arguments.seconds))
    if arguments.save is not None:
        document = {
            "machine": machine.describe(arguments.device),
            "command": shlex.join(["python", f"bench/{results.name}.py", *(sys.argv[1:] if words is None else words)]),
            "cases": [asdict(line) for line in lines],
        }
        results.mkdir(parents=True, exist_ok=True)
        path = results / f"{arguments.save}.json"
        path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
        print(f"\nwrote {path}", file=sys.stderr)
    return int(not all(line.right for line in lines))


def results_of(script: str) -> Path:
    """Where a benchmark script keeps its results: bench/results/ and its own name."""
    path = Path(script).resolve()
    return path.parent / "results" / path.stem


def _sampler(step: measure.Step, device: str, backward: bool) -> measure.Sampler:
    return measure.cuda_sampler([step], backward) if device == "cuda" else measure.cpu_sampler(step, backward)
