"""AdaLoRA's budget: which triplets of a model's adapters keep their singular value."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lrkernels.adapters.adalora import AdaLoRA, adalora_adapters
from lrkernels.nn.arguments import check_size


class RankAllocator:
    """Prunes the AdaLoRA adapters of a model, from all their triplets down to ``target`` of them altogether.

        allocator = RankAllocator(model, target=4 * number_of_layers, steps=3000, warmup=200, final=500)
        loss.backward(); optimizer.step(); allocator.step(); optimizer.zero_grad()

    ``step()`` reads the gradients that the optimizer used. With s(w) = Ī·Ū the smoothed sensitivity |w·∂w| times its
    smoothed uncertainty, a triplet scores s(λ_i) + mean s(P_·i) + mean s(Q_i·), and every ``interval`` steps the λ of
    all but the b(t) best triplets are set to zero; they may come back. b(t) is the initial budget for ``warmup`` steps,
    falls as a cubic to ``target`` and stays there for the ``final`` steps, in which the choice is fixed. Nothing waits
    for the device. ``state_dict()`` and ``load_state_dict()`` serve a resumed run.

    Raises ValueError for a model without such adapters, a target outside [1, the number of triplets], or steps that
    leave no room between warmup and final.
    """

    def __init__(
        self,
        model: nn.Module,
        target: int,
        steps: int,
        warmup: int = 0,
        final: int = 0,
        interval: int = 1,
        beta1: float = 0.85,
        beta2: float = 0.85,
    ) -> None:
        self.adapters = adalora_adapters(model)
        self.initial = sum(adapter.r for adapter in self.adapters)
        if not 1 <= target <= self.initial:
            raise ValueError(f"RankAllocator: target is {target}, expected 1 to {self.initial}, the model's triplets")
        check_size("RankAllocator", "interval", interval)
        if warmup < 0 or final < 0 or warmup + final >= steps:
            raise ValueError(f"RankAllocator: steps is {steps}, expected more than warmup {warmup} + final {final}")
        self.target, self.steps, self.warmup, self.final, self.interval = target, steps, warmup, final, interval
        self.beta1, self.beta2 = beta1, beta2
        self.taken = 0
        self.sensitivity = [torch.zeros_like(p) for adapter in self.adapters for p in _triplets(adapter)]
        self.uncertainty = [torch.zeros_like(p) for p in self.sensitivity]

    def budget(self, step: int) -> int:
        """b(t), equation 12 of the paper."""
        left = 1.0 - (step - self.warmup) / (self.steps - self.warmup - self.final)
        left = min(max(left, 0.0), 1.0)
        return self.target + int((self.initial - self.target) * left**3)

    @torch.no_grad()
    def step(self) -> None:
        self.taken += 1
        fixed = self.taken >= self.steps - self.final
        if not fixed:
            self._observe()
        budget = self.budget(self.taken)
        if budget < self.initial and (fixed or self.taken % self.interval == 0):
            self._keep_best(budget)

    def _observe(self) -> None:
        parameters = [p for adapter in self.adapters for p in _triplets(adapter)]
        for p, mean, spread in zip(parameters, self.sensitivity, self.uncertainty, strict=True):
            now = torch.zeros_like(p) if p.grad is None else (p * p.grad).abs()
            mean.lerp_(now, 1.0 - self.beta1)
            spread.lerp_((now - mean).abs(), 1.0 - self.beta2)

    def scores(self) -> list[Tensor]:
        """The importance of every triplet, ``[r]`` an adapter."""
        products = iter([mean * spread for mean, spread in zip(self.sensitivity, self.uncertainty, strict=True)])
        return [down.mean(1) + up.mean(0) + gate for down, up, gate in zip(products, products, products, strict=True)]

    def _keep_best(self, budget: int) -> None:
        scores = torch.cat(self.scores())
        kept = torch.zeros_like(scores, dtype=torch.bool)
        kept[scores.topk(budget).indices] = True
        for adapter, keep in zip(self.adapters, kept.split([a.r for a in self.adapters]), strict=True):
            adapter.gate.masked_fill_(~keep, 0.0)

    def state_dict(self) -> dict[str, Any]:
        return {"taken": self.taken, "sensitivity": self.sensitivity, "uncertainty": self.uncertainty}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.taken = state["taken"]
        for name in ("sensitivity", "uncertainty"):
            for mine, loaded in zip(getattr(self, name), state[name], strict=True):
                mine.copy_(loaded)


def _triplets(adapter: AdaLoRA) -> tuple[Tensor, Tensor, Tensor]:
    return adapter.down, adapter.up, adapter.gate
