"""Cuttlefish: when, and to which ranks, a model in training can turn low-rank."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from lrkernels.diagnostics.ranks import stable_rank


class StableRankSwitch:
    """Watches the stable ranks of a model's layers while it trains dense, and says when they have settled.

        switch = StableRankSwitch(linear_layers(model))
        for epoch in range(epochs):
            train(model)
            if (ranks := switch.observe()) is not None:
                compress(model, ranks)  # and make a new optimizer
                break

    A layer's rank is estimated as its stable rank ‖W‖_F² / ‖W‖₂² in units of the one it started with, at which it
    counts as full: r = min(out, in)·stable rank / stable rank at the start. It has settled when, over the last
    ``window`` observations, each changed by no more than ``tolerance`` of full rank. ‖W‖₂ is LAPACK's: an estimate from
    below is furthest off where a spectrum is flat, which is at the start, and every rank would be too small.

    ``ranks`` rounded up, at least 1 (a weight that became zero has 1); None for a layer where factors of that rank
    would not be smaller. ``state_dict()`` and ``load_state_dict()`` serve a resumed run.

    Raises ValueError without layers, for one whose weight is zero at the start, which has no stable rank to compare
    with (leave it out), and when a weight holds NaN or Inf.

    Wang et al., "Cuttlefish: low-rank model training without all the tuning", MLSys 2023.
    """

    def __init__(self, layers: Mapping[str, nn.Linear], tolerance: float = 0.01, window: int = 3) -> None:
        if not tolerance > 0.0 or window < 1:
            raise ValueError(f"StableRankSwitch: tolerance is {tolerance}, window {window}, expected positive numbers")
        if not layers:
            raise ValueError("StableRankSwitch: there are no layers to watch")
        self.layers = dict(layers)
        self.tolerance, self.window = tolerance, window
        self.start = self._stable_ranks()
        if zeros := [name for name, value in self.start.items() if value == 0.0]:
            raise ValueError(f"StableRankSwitch: {', '.join(zeros[:5])} start with a weight of zeros; leave them out")
        self.history: list[dict[str, float]] = []

    def observe(self) -> dict[str, int | None] | None:
        """Look at the layers, at the end of an epoch say. The ranks once all have settled, else None."""
        shares = {name: value / self.start[name] for name, value in self._stable_ranks().items()}
        self.history.append(shares)
        recent = self.history[-self.window - 1 :]
        if len(recent) <= self.window:
            return None
        steps = zip(recent[1:], recent[:-1], strict=True)
        if any(abs(now[name] - before[name]) > self.tolerance for now, before in steps for name in shares):
            return None
        return {name: _smaller_rank(self.layers[name], share) for name, share in shares.items()}

    def state_dict(self) -> dict[str, Any]:
        return {"start": dict(self.start), "history": [dict(shares) for shares in self.history]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises ValueError where the state is that of other layers."""
        if set(state["start"]) != set(self.layers):
            different = ", ".join(sorted(set(state["start"]) ^ set(self.layers))[:5])
            raise ValueError(f"StableRankSwitch.load_state_dict: only one of the state and the switch has {different}")
        self.start = dict(state["start"])
        self.history = [dict(shares) for shares in state["history"]]

    def _stable_ranks(self) -> dict[str, float]:
        """0 for a weight of zeros, which stands for none at all."""
        ranks = {}
        for name, layer in self.layers.items():
            weight = layer.weight.detach()
            if not torch.isfinite(weight).all():
                raise ValueError(f"StableRankSwitch: the weight of {name!r} holds NaN or Inf")
            ranks[name] = stable_rank(weight).item() if weight.any() else 0.0
        return ranks


def _smaller_rank(layer: nn.Linear, share: float) -> int | None:
    rows, cols = layer.out_features, layer.in_features
    rank = max(1, math.ceil(min(share, 1.0) * min(rows, cols)))
    return rank if rank * (rows + cols) < rows * cols else None
