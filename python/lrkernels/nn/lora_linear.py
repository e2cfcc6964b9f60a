"""A frozen linear layer with a trainable low-rank update beside it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lrkernels.nn.arguments import check_dropout, check_dtype, check_finite, check_linear, check_rank
from lrkernels.nn.base_layer import BaseCall, factor_dtype, factors_beside
from lrkernels.nn.mergeable_linear import MergeableLinear
from lrkernels.ops import lowrank_merge


def lora_scale(r: int, alpha: float, rslora: bool) -> float:
    return alpha / (math.sqrt(r) if rslora else r)


def reset_lora(down: Tensor, up: Tensor) -> None:
    """Start an update at zero: ``down`` as ``nn.Linear`` starts its weight, ``up`` zero."""
    nn.init.kaiming_uniform_(down, a=math.sqrt(5))
    nn.init.zeros_(up)


class LoRALinear(MergeableLinear):
    """A frozen linear layer plus a trainable low-rank update (LoRA).

        y = base_layer(x) + scale·drop(x)·lora_Aᵀ·lora_Bᵀ,    scale = alpha / r,  or alpha / √r with ``rslora``

    ``base_layer`` is any ``nn.Linear``; it is kept, frozen. Exactly ``nn.Linear`` runs fused with the update in one
    op; a subclass, a parametrized layer, or one with hooks runs its own forward, whose output the op adds to.

    Shapes: x ``[..., in_features]``, lora_A ``[r, in_features]``, lora_B ``[out_features, r]``;
    y is ``[..., out_features]``, in the dtype that base_layer(x) has.
    Dtypes: the factors are float32 where the base weight is half precision or quantised (small updates would round
    away in bfloat16), else the base weight's dtype; ``dtype`` overrides. float32 factors serve bfloat16 and float16
    activations without casting them up. Factors that the op does not take beside the activations are cast in every
    forward, to float32 beside half precision, else to the activations' dtype: ``dtype=torch.bfloat16`` over a float32
    base saves memory, not time. The device is the base weight's unless ``device`` says otherwise.
    ``state_dict`` keys: ``lora_A``, ``lora_B`` and the base layer's, ``base_layer.weight`` and ``base_layer.bias``.

    ``alpha`` defaults to r, a scale of 1 without ``rslora``. lora_A starts as ``nn.Linear``'s weight would, lora_B at
    zero: the layer starts as its base. ``dropout`` acts on the update's input in training only; its mask comes from a
    seed drawn from torch's generator once a forward, so ``manual_seed`` and activation checkpointing repeat it.

    Merging: ``merge()`` computes weight + scale·lora_B·lora_A once and then costs what the base costs; the base
    weight is kept as it is, so ``unmerge()`` restores the very same bits. ``merge(keep=False)`` keeps the merged
    weight alone and resets lora_B to zero; ``unmerge()`` then raises. While merged the factors get no gradient and
    dropout does not act. A ``state_dict`` taken while merged with ``keep=True`` holds the unmerged weight and
    factors, and loading one recomputes the merged weight. Loading into a module merged with ``keep=False`` leaves it
    unmerged, with what was loaded.

    Raises TypeError when ``base_layer`` is no ``nn.Linear``, ValueError for r outside [1, min(in, out)], a dropout
    outside [0, 1] or a non-finite alpha.

    Hu et al., "LoRA: low-rank adaptation of large language models", ICLR 2022; Kalajdzievski, "A rank stabilization
    scaling factor for fine-tuning with LoRA", 2023.
    """

    # Names of the parameters that train; replace_linear freezes the rest of the model when a module has this attribute.
    adapter_parameters = ("lora_A", "lora_B")

    def __init__(
        self,
        base_layer: nn.Linear,
        r: int,
        alpha: float | None = None,
        dropout: float = 0.0,
        rslora: bool = False,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_linear("LoRALinear", "base_layer", base_layer)
        check_rank("LoRALinear", "r", r, base_layer.in_features, base_layer.out_features)
        check_finite("LoRALinear", "alpha", r if alpha is None else alpha)
        check_dropout("LoRALinear", dropout)
        check_dtype("LoRALinear", dtype)
        super().__init__(base_layer)
        self.r = r
        self.alpha = float(r if alpha is None else alpha)
        self.dropout = float(dropout)
        self.rslora = rslora
        weight = base_layer.weight
        dtype = factor_dtype(weight) if dtype is None else dtype
        device = weight.device if device is None else device
        self.lora_A = nn.Parameter(torch.empty((r, self.in_features), device=device, dtype=dtype))
        self.lora_B = nn.Parameter(torch.empty((self.out_features, r), device=device, dtype=dtype))
        self.reset_parameters()

    @property
    def scale(self) -> float:
        return lora_scale(self.r, self.alpha, self.rslora)

    def reset_parameters(self) -> None:
        """Restart the update at zero: lora_A as ``nn.Linear`` starts its weight, lora_B zero."""
        reset_lora(self.lora_A, self.lora_B)

    def _updated(self, base: BaseCall) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        return base.plus(base.x, self.lora_A, self.lora_B, scale=self.scale, dropout=dropout)

    def _merged_with(self, weight: Tensor) -> Tensor:
        down, up = factors_beside(weight.dtype, self.lora_A, self.lora_B)
        return lowrank_merge(weight, down, up, scale=self.scale)

    def _clear_update(self) -> None:
        with torch.inference_mode(self.lora_B.is_inference()):  # where such a tensor may be written
            nn.init.zeros_(self.lora_B)

    def extra_repr(self) -> str:
        sizes = f"in_features={self.in_features}, out_features={self.out_features}, r={self.r}"
        return f"{sizes}, alpha={self.alpha:g}, dropout={self.dropout:g}, rslora={self.rslora}, merged={self.merged}"
