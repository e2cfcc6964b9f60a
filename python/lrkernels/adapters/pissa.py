"""PiSSA: train the principal singular components of the weight."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from lrkernels.adapters.offset_lora import OffsetLoRA
from lrkernels.nn.arguments import check_dense_weight
from lrkernels.nn.truncated_svd import truncated_svd


class PiSSA(OffsetLoRA):
    """W_res + scale·up·down with up·√scale = U_r·√S_r, √scale·down = √S_r·V_rᵀ and W_res = W − scale·up₀·down₀ frozen.

    The residual is ``OffsetLoRA``'s: a LoRA of rank 2r over the unchanged W, so W_res + scale·up·down = W whatever the
    error of the decomposition is. That is ``rsvd`` above 128 rows and columns and below an eighth of the ranks, where
    the exact one takes many times longer. Needs a dense base weight, else raises TypeError.

    Meng, Wang and Zhang, "PiSSA: principal singular values and singular vectors adaptation of large language models",
    NeurIPS 2024.
    """

    def __init__(self, base_layer: nn.Linear, r: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(base_layer, r, *args, **kwargs)
        check_dense_weight("PiSSA", "base_layer", base_layer)
        if self.alpha <= 0.0:
            raise ValueError(
                f"PiSSA: alpha is {self.alpha:g}, expected a positive number, because the factors split it"
            )

    @torch.no_grad()
    def reset_parameters(self, base_layer: nn.Linear) -> None:
        u, s, vh = truncated_svd("PiSSA", base_layer.weight, self.r)
        root = (s / self.scale).sqrt()
        self.start_from(root[:, None] * vh, u * root)
