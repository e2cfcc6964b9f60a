"""LoRA+: a larger learning rate for one of the two factors."""

from __future__ import annotations

from typing import Any

from torch import nn

from lrkernels.adapters.adapter import Adapter
from lrkernels.nn.lora_linear import LoRALinear


def lora_plus_groups(model: nn.Module, lr: float, ratio: float = 16.0) -> list[dict[str, Any]]:
    """Parameter groups for any optimizer, in which the ``up`` factors (B) learn ``ratio`` times as fast as the rest.

        optimizer = torch.optim.AdamW(lora_plus_groups(model, lr=1e-4))

    In wide layers one rate for both factors lets B hardly move; the paper takes η_B = λ·η_A with λ ≫ 1. Finds the
    trained ``up`` of every adapter and ``lora_B`` of every ``LoRALinear``; everything else of the model that trains is
    in the first group. Raises ValueError when there is no such factor.

    Hayou, Ghosh and Yu, "LoRA+: efficient low rank adaptation of large models", ICML 2024.
    """
    ups = {}
    for module in model.modules():
        up = getattr(module, "up", None) if isinstance(module, Adapter) else getattr(module, "lora_B", None)
        if isinstance(module, (Adapter, LoRALinear)) and isinstance(up, nn.Parameter) and up.requires_grad:
            ups[id(up)] = up
    if not ups:
        raise ValueError("lora_plus_groups: the model has no adapter with a trained factor named up")
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in ups]
    return [{"params": rest, "lr": lr}, {"params": list(ups.values()), "lr": ratio * lr}]
