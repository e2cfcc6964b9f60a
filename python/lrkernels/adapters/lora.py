"""LoRA."""

from __future__ import annotations

from typing import Any

from torch import nn

from lrkernels.adapters.low_rank_adapter import Factors, LowRankAdapter
from lrkernels.nn.arguments import check_rank
from lrkernels.nn.lora_linear import reset_lora


class LoRA(LowRankAdapter):
    """W + scale·up·down; down ``[r, in]`` (A) starts as ``nn.Linear`` starts its weight, up ``[out, r]`` (B) at zero.

    ``lrkernels.nn.LoRALinear`` is the same layer as one module, with PEFT's names for the factors.

    Hu et al., "LoRA: low-rank adaptation of large language models", ICLR 2022; ``rslora``: Kalajdzievski, "A rank
    stabilization scaling factor for fine-tuning with LoRA", 2023.
    """

    def __init__(self, base_layer: nn.Linear, r: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(base_layer, r, *args, **kwargs)
        self.down = self.parameter(r, self.in_features)
        self.up = self.parameter(self.out_features, r)

    def reset_parameters(self, base_layer: nn.Linear) -> None:
        reset_lora(self.down, self.up)

    def resize(self, r: int) -> None:
        """Factors of another rank, new parameters that nothing fills yet, and the alpha that leaves the scale."""
        check_rank(type(self).__name__, "r", r, self.in_features, self.out_features)
        self.alpha *= (r / self.r) ** (0.5 if self.rslora else 1.0)
        self.r = r
        down, up = self.down, self.up
        self.down = nn.Parameter(down.new_empty(r, self.in_features), requires_grad=down.requires_grad)
        self.up = nn.Parameter(up.new_empty(self.out_features, r), requires_grad=up.requires_grad)

    def factors(self) -> Factors:
        return Factors(self.down, self.up, scale=self.scale)
