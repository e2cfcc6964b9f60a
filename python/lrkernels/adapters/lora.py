"""LoRA."""

from __future__ import annotations

from typing import Any

from torch import nn

from lrkernels.adapters.low_rank_adapter import Factors, LowRankAdapter
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

    def factors(self) -> Factors:
        return Factors(self.down, self.up, scale=self.scale)
