"""Contenders that compute the same thing: verified first, then timed in turn, a line of a table each contest."""

from __future__ import annotations

import sys
from collections.abc import Callable

from torch import Tensor

from compare import measure
from compare.verify import relative_error

Results = Callable[[], list[Tensor]]


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
) -> bool:
    """Prints ``| name | lrkernels' µs | a column each: their time over lrkernels' |``; whether every result was right.

    ``contenders`` are functions without arguments, one of them "lrkernels"; one whose results are off gets no time, and
    of lrkernels nobody does. ``others`` are timed too, but compute something else.
    """
    samplers, right = {}, True
    for contender, function in contenders.items():
        worst = max(map(relative_error, function(), exact))
        if worst <= tolerance:
            samplers[contender] = _sampler(function, device, backward)
        else:
            print(f"{name}: {contender} is off by {worst:.2g} of the norm", file=sys.stderr)
            right = False
    if "lrkernels" not in samplers:
        return False
    samplers |= {other: _sampler(step, device, backward) for other, step in others.items()}
    samples = measure.alternate(samplers, seconds)
    ours = samples["lrkernels"]
    cells = [f"{measure.times_faster(ours, samples[column]):.2f}×" if column in samples else "–" for column in columns]
    print(f"| {name} | {measure.summarize(ours).median_us:,.0f} | {' | '.join(cells)} |", flush=True)
    return right


def head(columns: list[str]) -> str:
    return f"| case | lrkernels µs | {' | '.join(f'vs {c}' for c in columns)} |\n|---|{'---:|' * (len(columns) + 1)}"


def _sampler(step: measure.Step, device: str, backward: bool) -> measure.Sampler:
    return measure.cuda_sampler([step], backward) if device == "cuda" else measure.cpu_sampler(step, backward)
