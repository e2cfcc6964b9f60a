"""LoRA-FA: LoRA with A frozen."""

from __future__ import annotations

from typing import Any

from torch import nn

from lrkernels.adapters.lora import LoRA


class LoRAFA(LoRA):
    """W + scale·up·down with ``down`` frozen where it starts: ∂up = scale·dyᵀ·(x·downᵀ).

    The gradient needs x·downᵀ ``[tokens, r]`` and not x, which the op therefore does not keep for the backward pass.

    Zhang et al., "LoRA-FA: memory-efficient low-rank adaptation for large language models fine-tuning", 2023.
    """

    def __init__(self, base_layer: nn.Linear, r: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(base_layer, r, *args, **kwargs)
        self.down.requires_grad_(False)
