"""AdaLoRA: a singular value decomposition of the update, trained; ``rank_allocator`` prunes it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lrkernels.adapters.lora import LoRA
from lrkernels.adapters.low_rank_adapter import Factors


class AdaLoRA(LoRA):
    """W + scale·P·diag(λ)·Q with up = P ``[out, r]``, gate = λ ``[r]``, down = Q ``[r, in]``; λ starts at zero.

    Add γ·``orthogonality_penalty(model)`` to the loss, so that each triplet (P_i, λ_i, Q_i) means something by itself,
    and let a ``RankAllocator`` spend a budget of them where they matter: λ_i = 0 removes one.

    Zhang et al., "AdaLoRA: adaptive budget allocation for parameter-efficient fine-tuning", ICLR 2023.
    """

    def __init__(self, base_layer: nn.Linear, r: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(base_layer, r, *args, **kwargs)
        self.gate = self.parameter(r)

    def reset_parameters(self, base_layer: nn.Linear) -> None:
        nn.init.normal_(self.down, std=0.02)
        nn.init.normal_(self.up, std=0.02)
        nn.init.zeros_(self.gate)

    def factors(self) -> Factors:
        return Factors(self.down, self.up, gate=self.gate, scale=self.scale)

    def orthogonality(self) -> Tensor:
        """‖PᵀP − I‖²_F + ‖QQᵀ − I‖²_F, zero where P has orthonormal columns and Q orthonormal rows."""
        identity = torch.eye(self.r, device=self.up.device, dtype=self.up.dtype)
        return (self.up.mT @ self.up - identity).square().sum() + (self.down @ self.down.mT - identity).square().sum()


def adalora_adapters(model: nn.Module) -> list[AdaLoRA]:
    return [module for module in model.modules() if isinstance(module, AdaLoRA)]


def orthogonality_penalty(model: nn.Module) -> Tensor:
    """The sum of ``orthogonality()`` over the AdaLoRA adapters of a model (equation 4 of the paper)."""
    adapters = adalora_adapters(model)
    if not adapters:
        raise ValueError("orthogonality_penalty: the model has no AdaLoRA adapter")
    return torch.stack([adapter.orthogonality() for adapter in adapters]).sum()
