"""T-LoRA: a LoRA of orthogonal components for diffusion models, of which noisy timesteps use fewer."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from lrkernels.adapters.low_rank_adapter import Factors, LowRankAdapter
from lrkernels.nn.arguments import check_size


class TLoRA(LowRankAdapter):
    """W + scale·(up·diag(gate ⊙ m)·down − up₀·diag(gate₀ ⊙ m)·down₀), m one for the first ``rank`` components.

    The start is the last r singular triplets of a Gaussian matrix of the layer's shape: orthogonal components, small
    ones. All three factors train; the frozen start is taken off, so that the layer begins as its base at every rank.

        for layer in adapted_layers(model):
            layer.adapter.set_timestep(t, steps=1000, least=2)  # before a forward, in training and in sampling

    ``rank`` (0 to r, r at first) may be set at any time, except while merged; 0 is the base. It acts through the op's
    gate, so that nothing recompiles, and is part of the state. ``set_timestep`` is the paper's:
    ⌊(r − least)·(steps − t) / steps⌋ + least.

    Soboleva et al., "T-LoRA: single image diffusion model customization without overfitting", 2025.
    """

    def __init__(self, base_layer: nn.Linear, r: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(base_layer, r, *args, **kwargs)
        for ending, trained in (("", True), ("_start", False)):
            setattr(self, f"up{ending}", self.parameter(self.out_features, r, trained=trained))
            setattr(self, f"gate{ending}", self.parameter(r, trained=trained))
            setattr(self, f"down{ending}", self.parameter(r, self.in_features, trained=trained))
        self.register_buffer("mask", torch.ones(r, dtype=self.gate.dtype, device=self.gate.device))

    @torch.no_grad()
    def reset_parameters(self, base_layer: nn.Linear) -> None:
        self.mask.fill_(1.0)
        wide = torch.promote_types(self.up.dtype, torch.float32)
        noise = torch.empty(self.out_features, self.in_features, dtype=wide, device=self.up.device)
        u, s, vh = torch.linalg.svd(nn.init.normal_(noise, std=1.0 / self.in_features**0.5), full_matrices=False)
        for up, gate, down in ((self.up, self.gate, self.down), (self.up_start, self.gate_start, self.down_start)):
            up.copy_(u[:, -self.r :])
            gate.copy_(s[-self.r :])
            down.copy_(vh[-self.r :])

    @property
    def rank(self) -> int:
        return int(self.mask.sum())

    @rank.setter
    def rank(self, rank: int) -> None:
        if rank != 0:
            check_size("TLoRA", "rank", rank)
        if rank > self.r:
            raise ValueError(f"TLoRA: rank is {rank}, expected at most r = {self.r}")
        with torch.no_grad():
            self.mask[:rank] = 1.0
            self.mask[rank:] = 0.0

    def set_timestep(self, t: int, steps: int, least: int = 1) -> None:
        if not (0 <= t <= steps and 0 <= least <= self.r):
            raise ValueError(f"TLoRA: t is {t} of {steps} steps and least {least}, expected 0 ≤ t ≤ steps, least ≤ r")
        self.rank = (self.r - least) * (steps - t) // steps + least

    def factors(self) -> Factors:
        down = torch.cat([self.down, self.down_start])
        up = torch.cat([self.up, self.up_start], dim=1)
        gate = torch.cat([self.gate * self.mask, -self.gate_start * self.mask])
        return Factors(down, up, gate=gate, scale=self.scale)
