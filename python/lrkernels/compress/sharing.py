"""Relaxed recursive transformers: layers that share one weight and differ by a low-rank term."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from lrkernels.adapters.adapted_linear import AdaptedLinear
from lrkernels.adapters.lora import LoRA
from lrkernels.nn.arguments import check_dense_weight, check_linear
from lrkernels.nn.weighted_svd import low_rank_factors


@torch.no_grad()
def share_weight(layers: Sequence[nn.Linear], rank: int) -> list[AdaptedLinear]:
    """One layer for each, over the same weight: W_l ≈ W_shared + up_l·down_l, W_shared the mean of all W_l.

    up_l·down_l is the best approximation of W_l − W_shared at the rank, so that the error falls with the rank and is
    zero at full rank. The shared weight is one Parameter, the biases are copies; as in every ``AdaptedLinear`` they are
    frozen and the factors train (``requires_grad_`` for the paper's uptraining of all). Put the layers where the others
    were; of L layers, in·out·(L − 1) numbers become rank·(in + out)·L.

    Raises ValueError for fewer than two layers, layers of different shapes or a rank out of range, TypeError for what
    is no dense ``nn.Linear``.

    Bae et al., "Relaxed recursive transformers: effective parameter sharing with layer-wise LoRA", ICLR 2025.
    """
    if len(layers) < 2:
        raise ValueError(f"share_weight: {len(layers)} layers were given, expected at least 2")
    for layer in layers:
        check_linear("share_weight", "a layer", layer)
        check_dense_weight("share_weight", "a layer", layer)
    first = layers[0].weight
    if different := [tuple(x.weight.shape) for x in layers if x.weight.shape != first.shape]:
        raise ValueError(f"share_weight: layers have shapes {tuple(first.shape)} and {different[0]}, expected one")
    wide = torch.promote_types(first.dtype, torch.float32)
    mean = torch.stack([layer.weight.to(first.device, wide) for layer in layers]).mean(0)
    shared = nn.Parameter(mean.to(first.dtype))
    made = []
    for layer in layers:
        base = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None, "meta", first.dtype)
        base.weight = shared
        if layer.bias is not None:
            base.bias = nn.Parameter(layer.bias.clone())
        adapted = LoRA.wrap(base.train(layer.training), r=rank)
        difference = layer.weight.to(first.device, wide) - shared.to(wide)
        up, down = low_rank_factors("share_weight", difference, rank)
        adapted.adapter.up.copy_(up)
        adapted.adapter.down.copy_(down)
        made.append(adapted)
    return made
