"""Optimizer steps of a transformer's matrices beside torch.optim.Muon and galore-torch, verified and in turn.

    python bench/optim.py [--quick] [--only Muon]

The hidden matrices of 12 layers of width 256, or a layer of width 32 with --quick, with gradients whose spectra decay;
everybody's first step from zero is compared with float64: Muon's with the polar iteration, GaLore's by how much of the
gradients its directions hold, within 3 % of the singular vectors' (5 % with --quick). `AdamW` is torch's with foreach;
`NorMuon` and `Dion` are lrkernels' own. Columns are the others' time over that of lrkernels. galore-torch takes part
where it is installed (it imports bitsandbytes). Of T steps of GaLore, T − 1 keep the basis and one chooses it; the rows
of a mean step put the two together for T = 200, both optimizers' default.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from compare import contest
from sketch import decaying
from torch import Tensor, nn

from lrkernels import optim, reference

COLUMNS = ["torch.optim.Muon", "galore-torch", "AdamW", "NorMuon", "Dion"]
Make = Callable[[list[Tensor]], torch.optim.Optimizer]


@dataclass(frozen=True)
class Model:
    layers: int
    width: int
    tolerance: float = 0.03  # torch.optim.Muon iterates in bfloat16

    def gradients(self, device: str) -> list[Tensor]:
        w = self.width
        shapes = [(3 * w, w), (w, w), (4 * w, w), (w, 4 * w)] * self.layers
        return [decaying(*shape).to(device) for shape in shapes]

    def __str__(self) -> str:
        return f"{self.layers} layers of width {self.width}"


def steps(make: Make, gradients: list[Tensor]) -> contest.Results:
    """A function that takes a step of matrices of its own, which begin as zeros, and returns them."""
    parameters = [nn.Parameter(torch.zeros_like(g)) for g in gradients]
    for p, g in zip(parameters, gradients, strict=True):
        p.grad = g
    optimizer = make(parameters)

    def step() -> list[Tensor]:
        optimizer.step()
        return parameters

    return step


def adamw(parameters: list[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.0, foreach=True)


@dataclass(frozen=True)
class Muon:
    model: Model

    @property
    def name(self) -> str:
        return f"Muon, {self.model}"

    def hold(self, device: str, seconds: float) -> contest.Line:
        gradients = self.model.gradients(device)
        contenders = {
            "lrkernels": steps(lambda p: optim.Muon(p, 1e-3, weight_decay=0.0), gradients),
            "torch.optim.Muon": steps(
                lambda p: torch.optim.Muon(p, 1e-3, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"), gradients
            ),
        }
        others = {
            "AdamW": steps(adamw, gradients),
            "NorMuon": steps(lambda p: optim.NorMuon(p, 1e-3), gradients),
            "Dion": steps(lambda p: optim.Dion(p, 1e-3), gradients),
        }
        exact = [-1e-3 * 0.2 * max(g.shape) ** 0.5 * reference.polar(g.double()) for g in gradients]
        return contest.hold(
            self.name,
            contenders,
            exact,
            self.model.tolerance,
            others,
            columns=COLUMNS,
            device=device,
            backward=False,
            seconds=seconds,
        )


@dataclass
class GaLore:
    model: Model
    rank: int
    chooses: bool = False  # its basis in this step
    warm: bool = False
    line: contest.Line | None = field(default=None, init=False)  # what was found, for the mean of a period

    @property
    def name(self) -> str:
        chooses = f"chooses its basis{' by a power step' if self.warm else ''}"
        return f"GaLore, rank {self.rank}, a step that {chooses if self.chooses else 'keeps its basis'}, {self.model}"

    def hold(self, device: str, seconds: float) -> contest.Line:
        gradients, every = self.model.gradients(device), 1 if self.chooses else 10**9
        basis = optim.GaLore(self.rank, warm=self.warm)
        ours = lambda p: optim.ProjectedOptimizer(p, "adamw", basis, 1e-3, refresh_every=every)  # noqa: E731
        contenders = {"lrkernels": steps(ours, gradients)}
        if (theirs := galore_torch(self.rank, every)) is not None:
            contenders["galore-torch"] = steps(theirs, gradients)

        def seen(results: list[Tensor]) -> list[Tensor]:
            """‖QQᵀG‖ with Q the directions of the step among the shorter side's."""
            held = []
            for p, g in zip(results, gradients, strict=True):
                moved, whole = p.detach().double(), g.double()
                sides = [(moved, whole), (moved.mT, whole.mT)]  # a square matrix has two: galore-torch takes the other
                sides = [side for side in sides if side[0].shape[0] == min(g.shape)]
                held.append(max(projected(*side, self.rank) for side in sides))
            return held

        self.line = contest.hold(
            self.name,
            contenders,
            [projected(g.double(), g.double(), self.rank) for g in gradients],
            self.model.tolerance,
            {"AdamW": steps(adamw, gradients)},
            columns=COLUMNS,
            device=device,
            backward=False,
            seconds=seconds,
            seen=seen,
        )
        return self.line


@dataclass
class Period:
    """The mean step of a period, from what its two kinds of steps took."""

    keeping: GaLore
    choosing: GaLore
    steps: int = 200

    @property
    def name(self) -> str:
        by = " by a power step" if self.choosing.warm else ""
        return (
            f"GaLore, rank {self.keeping.rank}, the mean of {self.steps} steps of which one chooses its basis{by}, "
            f"{self.keeping.model}"
        )

    def hold(self, device: str, seconds: float) -> contest.Line:
        keeping, choosing = (case.line or case.hold(device, seconds) for case in (self.keeping, self.choosing))
        line = contest.Line(self.name, keeping.right and choosing.right)
        medians = {
            contender: ((self.steps - 1) * keeping.timings[contender].median_us + timing.median_us) / self.steps
            for contender, timing in choosing.timings.items()
            if contender in keeping.timings
        }
        ours = medians.pop("lrkernels", None)
        if ours is None:
            return line
        line.times_faster = {contender: theirs / ours for contender, theirs in medians.items()}
        cells = [f"{line.times_faster[column]:.2f}×" if column in medians else "–" for column in COLUMNS]
        print(f"| {self.name} | {ours:,.0f} | {' | '.join(cells)} |", flush=True)
        return line


def projected(directions: Tensor, g: Tensor, rank: int) -> Tensor:
    q = torch.linalg.svd(directions, full_matrices=False)[0][:, :rank]
    return torch.linalg.matrix_norm(q.mT @ g).reshape(1)


def galore_torch(rank: int, every: int) -> Make | None:
    try:
        from galore_torch import GaLoreAdamW
    except ImportError:
        return None
    group = {"rank": rank, "update_proj_gap": every, "scale": 1.0, "proj_type": "std"}
    return lambda p: GaLoreAdamW([{"params": p, **group}], lr=1e-3, no_deprecation_warning=True)


def cases(quick: bool) -> list[contest.Case]:
    model, rank = (Model(1, 32, 0.05), 8) if quick else (Model(12, 256), 64)
    keeping, choosing, warm = GaLore(model, rank), GaLore(model, rank, True), GaLore(model, rank, True, True)
    return [Muon(model), keeping, choosing, warm, Period(keeping, choosing), Period(keeping, warm)]


def main(words: Sequence[str] | None = None) -> int:
    return contest.main(words, __doc__, COLUMNS, cases, results=contest.results_of(__file__), seconds=20.0)


if __name__ == "__main__":
    sys.exit(main())
