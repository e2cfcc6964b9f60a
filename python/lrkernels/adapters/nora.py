"""NoRA: a LoRA between the weight's own leading singular vectors."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from lrkernels.adapters.low_rank_adapter import Factors, LowRankAdapter
from lrkernels.nn.arguments import check_dense_weight, check_rank
from lrkernels.nn.lora_linear import reset_lora
from lrkernels.nn.truncated_svd import truncated_svd


class NoRA(LowRankAdapter):
    """W + scale·up·(inner_up·inner_down)·down with up = U_r·√S_r and down = √S_r·V_rᵀ of W frozen.

    ``inner_up [r, inner]`` starts at zero and ``inner_down [inner, r]`` as LoRA's A; 2·r·inner numbers train, and the
    update has rank ``inner`` at most. ``LoRAXS`` trains the whole matrix between. Needs a dense base weight, else
    raises TypeError; ValueError for ``inner`` outside [1, r].

    Lin et al., "NoRA: nested low-rank adaptation for efficient fine-tuning large models", 2024.
    """

    def __init__(self, base_layer: nn.Linear, r: int, inner: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(base_layer, r, *args, **kwargs)
        check_dense_weight("NoRA", "base_layer", base_layer)
        check_rank("NoRA", "inner", inner, r, r)
        self.down = self.parameter(r, self.in_features, trained=False)
        self.up = self.parameter(self.out_features, r, trained=False)
        self.inner_down = self.parameter(inner, r)
        self.inner_up = self.parameter(r, inner)

    @torch.no_grad()
    def reset_parameters(self, base_layer: nn.Linear) -> None:
        u, s, vh = truncated_svd("NoRA", base_layer.weight, self.r)
        self.down.copy_(s.sqrt()[:, None] * vh)
        self.up.copy_(u * s.sqrt())
        reset_lora(self.inner_down, self.inner_up)

    def factors(self) -> Factors:
        return Factors(self.down, self.up, core=self.inner_up @ self.inner_down, scale=self.scale)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, inner={self.inner_down.shape[0]}"
