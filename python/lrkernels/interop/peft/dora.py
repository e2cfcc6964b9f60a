"""DoRA (Liu et al., "DoRA: weight-decomposed low-rank adaptation", ICML 2024) on the ops, with PEFT's semantics.

    y = m ⊙ (x·Wᵀ + s·x·Aᵀ·Bᵀ) + bias,    m = magnitude / ‖W + s·B·A‖, a norm for each row

The norm is a constant to the gradient (section 4.3 of the paper). m goes into the up factor, so that the factors'
gradients are as accurate as plain LoRA's, and scales the base layer's output:

    y = (m ⊙ x·Wᵀ + bias) + s·x·Aᵀ·(m ⊙ B)ᵀ

With dropout PEFT lets the base layer's own output pass undropped and takes that of the dropped x for the rest:

    y = x·Wᵀ + bias + (m - 1) ⊙ d·Wᵀ + s·d·Aᵀ·(m ⊙ B)ᵀ,    d = drop(x)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from peft.tuners.lora.dora import DoraLinearLayer, cache_decorator
from peft.tuners.lora.variants import DoraLinearVariant
from torch import Tensor, nn

from lrkernels.interop.peft.weights import dense_weight, is_ordinary
from lrkernels.nn.base_layer import call_is_forward
from lrkernels.ops import lowrank_linear, lowrank_merge


def is_dora(layer: nn.Module, adapter: str) -> bool:
    return type(layer.lora_variant.get(adapter)) is DoraLinearVariant


def dora_obstacle(layer: nn.Module, adapter: str) -> str | None:
    """Why this DoRA adapter cannot be fused, beyond the reasons that hold for plain LoRA."""
    if dense_weight(layer.base_layer) is None:
        return "DoRA, and base_layer has no plain weight to take the norm of"
    magnitude = layer.lora_magnitude_vector[adapter]
    if type(magnitude) is not DoraLinearLayer or not call_is_forward(magnitude):
        return "DoRA, and its magnitude is not exactly PEFT's or has hooks"
    if not is_ordinary(magnitude.weight) or magnitude.weight.shape != (layer.out_features,):
        return "DoRA, and its magnitude does not have the layer's shape: it is a shard, or gathered only when called"
    if magnitude.weight.device != layer.base_layer.weight.device:
        return "DoRA, and its magnitude is on another device"
    return None


def add_dora(
    layer: nn.Module,
    adapter: str,
    x: Tensor,
    y: Tensor | None,
    factors: tuple[Tensor, Tensor],
    gate: Tensor | None,
    scale: float,
) -> Tensor:
    """The output with this adapter; ``y`` is that of the base layer and the adapters before, None at the first."""
    weight, bias = dense_weight(layer.base_layer), layer.base_layer.bias
    down, up = factors
    magnitude = layer.lora_magnitude_vector[adapter]
    norms = _row_norms(magnitude, weight, down, up, gate, scale, adapter_name=adapter)
    ratio = magnitude.weight / norms
    dropout = layer.lora_dropout[adapter]
    if type(dropout) is nn.Dropout and layer.training:
        if y is None:
            y = F.linear(x, weight, bias)
        x = dropout(x)
        base = _scaled(F.linear(x, weight), ratio - 1, y)
    else:
        if y is None:
            y = F.linear(x, weight)
        elif bias is not None:
            y = y - bias
        base = _scaled(y, ratio, bias)
    up = (ratio.unsqueeze(1) * up).to(up.dtype)
    return lowrank_linear(x, down, up, gate=gate, base=base, scale=scale)


@cache_decorator("weight-norm")  # PEFT's, off unless peft.helpers.DoraCaching is on
def _row_norms(
    magnitude: DoraLinearLayer,
    weight: Tensor,
    down: Tensor,
    up: Tensor,
    gate: Tensor | None,
    scale: float,
    *,
    adapter_name: str,
) -> Tensor:
    """‖W + s·B·A‖ of each row, in float32 or wider."""
    with torch.no_grad():
        merged = lowrank_merge(
            weight.to(torch.promote_types(weight.dtype, down.dtype)), down, up, gate=gate, scale=scale
        )
        return torch.linalg.vector_norm(merged, dim=1, dtype=torch.promote_types(merged.dtype, torch.float32))


def _scaled(y: Tensor, ratio: Tensor, shift: Tensor | None) -> Tensor:
    """ratio ⊙ y + shift in y's dtype, summed in the wider of the two."""
    if shift is None:
        return (ratio * y).to(y.dtype)
    if shift.dtype == y.dtype == ratio.dtype:
        return torch.addcmul(shift, ratio, y)
    return (ratio * y + shift).to(y.dtype)
