"""DyLoRA: one training run for every rank up to r."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lrkernels.adapters.lora import LoRA
from lrkernels.adapters.low_rank_adapter import Factors
from lrkernels.nn.arguments import check_size
from lrkernels.nn.base_layer import BaseCall
from lrkernels.nn.lora_linear import lora_scale


class DyLoRA(LoRA):
    """W + (alpha / b)·up[:, :b]·down[:b], with b = ``rank`` outside training and drawn from 1…r in a training forward.

    Every prefix of the factors is trained to be an adapter by itself, so ``rank`` (r at first) may be changed at any
    time, except while merged. b goes through the op's gate: a training step costs rank r, recompiles nothing, and takes
    b from torch's generator, so that ``manual_seed`` and activation checkpointing repeat it. All of the first b rows
    and columns train (the paper's variant without freezing).

    Valipour, Rezagholizadeh, Kobyzev and Ghodsi, "DyLoRA: parameter-efficient tuning of pretrained models using dynamic
    search-free low rank adaptation", EACL 2023.
    """

    def __init__(self, base_layer: nn.Linear, r: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(base_layer, r, *args, **kwargs)
        self.rank = r

    @property
    def rank(self) -> int:
        return self._rank

    @rank.setter
    def rank(self, rank: int) -> None:
        check_size("DyLoRA", "rank", rank)
        if rank > self.r:
            raise ValueError(f"DyLoRA: rank is {rank}, expected at most r = {self.r}")
        self._rank = rank

    def resize(self, r: int) -> None:
        super().resize(r)
        self.rank = r

    def factors(self) -> Factors:
        b = self.rank
        return Factors(self.down[:b], self.up[:, :b], scale=lora_scale(b, self.alpha, self.rslora))

    def forward(self, x: Tensor, base: BaseCall) -> Tensor:
        if not self.training:
            return super().forward(x, base)
        b = torch.randint(1, self.r + 1, (1,), device=x.device)
        gate = (torch.arange(self.r, device=x.device) < b) * (self.r / b) ** (0.5 if self.rslora else 1.0)
        return self.add(x, base, Factors(self.down, self.up, gate=gate.to(self.down.dtype), scale=self.scale))
