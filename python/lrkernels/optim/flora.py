"""Flora: a random sketch, remade from its seed whenever it is used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

import lrkernels.ops as ops
from lrkernels.optim import options
from lrkernels.optim.basis import Basis, State
from lrkernels.reference.sketch import SKETCH_KINDS

_RANDOM = tuple(kind for kind in SKETCH_KINDS if kind != "dct")


@dataclass(frozen=True)
class Flora(Basis):
    """R = ΩᵀG with E[Ω·Ωᵀ] = I over the seeds, so that Ω·R is G on average. Nothing is stored but the step in which
    the sketch was chosen, which with ``seed`` gives Ω's.

    A new sketch takes the first moment along as Ω_newᵀ·Ω_old·M (the paper's). Of the second each new coordinate is a
    random mixture of all rows alike, so its expectation is the mean over the old coordinates.

    ``kind``: of ``lrkernels.sketch``, any but ``"dct"``, which no seed changes.

    Hao, Cao and Mou, "Flora: low-rank adapters are secretly gradient compressors", ICML 2024.
    """

    rank: int = 128
    kind: str = "rademacher"
    seed: int = 0
    reads_gradient = False

    def __post_init__(self) -> None:
        options.check_choice("Flora", "kind", self.kind, _RANDOM)
        options.check_count("Flora", "seed", self.seed, least=0)

    def project(self, state: State, g: Tensor) -> Tensor:
        return self._by_seed(state, g, partial(ops.sketch, size=self.size(g.shape[-2])))

    def lift(self, state: State, r: Tensor, rows: int) -> Tensor:
        return self._by_seed(state, r, partial(ops.unsketch, full_size=rows))

    def rotate_state(self, old: State, new: State, moment: Tensor, power: int, rows: int) -> Tensor:
        if power == 1:
            return self.project(new, self.lift(old, moment, rows))
        return moment.mean(-2, keepdim=True).expand_as(moment)

    def _by_seed(self, state: State, stack: Tensor, apply: Callable[..., Tensor]) -> Tensor:
        """One call for all matrices that were refreshed together and so have one seed, else a call each."""
        seeds = [self.seed + step for step in state["refreshed"].tolist()]  # on the CPU
        if len(set(seeds)) == 1:
            return apply(stack, kind=self.kind, seed=seeds[0], dim=-2)
        parts = zip(stack.unbind(), seeds, strict=True)
        return torch.stack([apply(part, kind=self.kind, seed=seed, dim=-2) for part, seed in parts])
