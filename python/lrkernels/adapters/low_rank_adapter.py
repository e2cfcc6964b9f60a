"""Adapters whose update is one low-rank term of the op: they say which, and forward and merge both follow."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lrkernels.adapters.adapter import Adapter
from lrkernels.nn.arguments import check_finite, check_rank
from lrkernels.nn.base_layer import BaseCall, factors_beside
from lrkernels.nn.lora_linear import lora_scale
from lrkernels.ops import lowrank_merge


class Factors(NamedTuple):
    """scale·up·core·diag(gate)·down, as the ops take it; ``gate`` is ``[1]`` or ``[rank]``."""

    down: Tensor
    up: Tensor
    core: Tensor | None = None
    gate: Tensor | None = None
    scale: float = 1.0


class LowRankAdapter(Adapter):
    """An adapter whose update is the matrix scale·up·core·diag(gate)·down.

    y = base(x) + scale·(gate ⊙ (drop(x)·downᵀ))·coreᵀ·upᵀ

    A subclass writes ``reset_parameters(base_layer)`` and ``factors()``. ``scale`` is alpha / r, or alpha / √r with
    ``rslora``; ``alpha`` defaults to r, a scale of 1 without ``rslora``.

    Raises as ``Adapter``, and ValueError for r outside [1, min(in, out)] or an alpha that is not finite.
    """

    def __init__(
        self,
        base_layer: nn.Linear,
        r: int,
        alpha: float | None = None,
        dropout: float = 0.0,
        rslora: bool = False,
        **placement: Any,
    ) -> None:
        super().__init__(base_layer, dropout, **placement)
        name = type(self).__name__
        check_rank(name, "r", r, self.in_features, self.out_features)
        check_finite(name, "alpha", r if alpha is None else alpha)
        self.r = r
        self.alpha = float(r if alpha is None else alpha)
        self.rslora = rslora

    @property
    def scale(self) -> float:
        return lora_scale(self.r, self.alpha, self.rslora)

    def factors(self) -> Factors:
        """The update that ``forward`` computes outside training and that a merge adds to the weight."""
        raise NotImplementedError(f"{type(self).__name__} has no factors()")

    def forward(self, x: Tensor, base: BaseCall) -> Tensor:
        return self.add(x, base, self.factors())

    def add(self, x: Tensor, base: BaseCall, factors: Factors) -> Tensor:
        down, up, core, gate, scale = factors
        return base.plus(x, down, up, core, gate, scale=scale, dropout=self.active_dropout)

    def merged(self, weight: Tensor) -> Tensor:
        down, up, core, gate, scale = self.factors()
        down, up = factors_beside(weight.dtype, down, up)
        core, gate = (None if t is None else factors_beside(weight.dtype, t)[0] for t in (core, gate))
        return lowrank_merge(weight, down, up, core, gate, scale=scale)

    def delta(self) -> Tensor:
        """scale·up·core·diag(gate)·down, in float32 or wider."""
        down = self.factors().down
        dtype = torch.promote_types(down.dtype, torch.float32)
        return LowRankAdapter.merged(self, down.new_zeros(self.out_features, self.in_features, dtype=dtype))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, r={self.r}, alpha={self.alpha:g}, rslora={self.rslora}"
