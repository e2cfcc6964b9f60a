"""DoRA: the direction of each row of the weight by LoRA, its length by a parameter."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lrkernels.adapters.lora import LoRA
from lrkernels.nn.arguments import check_dense_weight
from lrkernels.nn.base_layer import BaseCall, factors_beside
from lrkernels.ops import lowrank_project


class DoRA(LoRA):
    """Row i of the weight is magnitude_i·v_i / ‖v_i‖ with V = W + scale·up·down; magnitude starts at ‖w_i‖.

    ‖v_i‖² = ‖w_i‖² + 2·scale·⟨up_i, down·w_i⟩ + scale²·up_i·(down·downᵀ)·up_iᵀ, so that V is never formed. The
    gradient takes the norm for a constant, as section 4.3 of the paper does, unless ``detach_norm=False``. Dropout acts
    on the low-rank term alone. Needs a dense base weight, else raises TypeError.

    Liu et al., "DoRA: weight-decomposed low-rank adaptation", ICML 2024.
    """

    def __init__(self, base_layer: nn.Linear, r: int, *args: Any, detach_norm: bool = True, **kwargs: Any) -> None:
        super().__init__(base_layer, r, *args, **kwargs)
        check_dense_weight("DoRA", "base_layer", base_layer)
        self.detach_norm = detach_norm
        self.magnitude = self.parameter(self.out_features)

    def reset_parameters(self, base_layer: nn.Linear) -> None:
        super().reset_parameters(base_layer)
        with torch.no_grad():
            self.magnitude.copy_(self.norm(base_layer.weight))

    def norm(self, weight: Tensor) -> Tensor:
        """The length of each row of V, in float32 or wider. An update that nearly cancels its row costs it digits."""
        dtype = torch.promote_types(torch.promote_types(weight.dtype, self.up.dtype), torch.float32)
        up, down = self.scale * self.up.to(dtype), self.down.to(dtype)
        with torch.autocast("cpu" if weight.is_meta else weight.device.type, enabled=False):  # "meta" has no autocast
            cross = lowrank_project(weight, factors_beside(weight.dtype, down)[0])
            squares = torch.linalg.vector_norm(weight, dim=1, dtype=dtype).square()
            squares = squares + (up * (2.0 * cross + up @ (down @ down.mT))).sum(1)
        # A row of zeros has no direction; it stays zero instead of becoming NaN.
        return squares.clamp(min=torch.finfo(dtype).tiny).sqrt()

    def _row_scale(self, weight: Tensor) -> Tensor:
        norm = self.norm(weight)
        return self.magnitude / (norm.detach() if self.detach_norm else norm)

    def forward(self, x: Tensor, base: BaseCall) -> Tensor:
        y = base.plus(x, self.down, self.up, scale=self.scale, dropout=self.active_dropout, with_bias=False)
        scaled = self._row_scale(base.weight) * y
        return (scaled if base.bias is None else scaled + base.bias).to(y.dtype)

    def merged(self, weight: Tensor) -> Tensor:
        wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
        return (self._row_scale(weight)[:, None] * super().merged(wide)).to(weight.dtype)
