"""Which of PEFT's LoRA layers lrkernels' ops may compute: the rules of ``eligibility`` and those of LoRA alone."""

from __future__ import annotations

import torch
from peft.tuners.lora.layer import Conv1D
from torch import nn

from lrkernels.interop.peft.dora import dora_obstacle, is_dora
from lrkernels.interop.peft.eligibility import RELIES_ON_CALLS, call_obstacle
from lrkernels.interop.peft.weights import adapter_layers, dense_weight, is_ordinary
from lrkernels.nn.base_layer import call_is_forward, linear_is_torchs

if torch.distributed.is_available():
    from torch.distributed.tensor import DTensor
else:
    DTensor = ()


def base_obstacle(base: nn.Module) -> str | None:
    """Why this layer's output cannot be trusted to be [..., out]; the bases of quantised layers are known to PEFT."""
    if isinstance(base, (nn.Linear, Conv1D)):
        return None
    return f"base_layer is {type(base).__name__}, which is no nn.Linear: its output may have any shape"


def layer_obstacle(layer: nn.Module) -> str | None:
    """Why no adapter of this layer can be fused: its own and its base layer's reasons."""
    if (reason := call_obstacle(layer)) is not None:
        return reason
    if not linear_is_torchs():
        return "nn.Linear.forward has been replaced, and the layers inside would not be called"
    base = layer._modules["base_layer"]
    if not call_is_forward(base):
        return f"base_layer {RELIES_ON_CALLS}"
    weight = dense_weight(base)
    if weight is None:
        if any(isinstance(parameter, DTensor) for parameter in base._parameters.values()):
            return "base_layer holds a DTensor"
    elif weight.shape != (layer.out_features, layer.in_features):
        return "base_layer.weight does not have the layer's shape: it is a shard, or gathered only when called"
    return None


def adapter_obstacle(layer: nn.Module, adapter: str) -> str | None:
    """Why this adapter of the layer cannot be fused."""
    if is_dora(layer, adapter):
        if (reason := dora_obstacle(layer, adapter)) is not None:
            return reason
    elif adapter in layer.lora_variant:
        return f"{_variant(layer.lora_variant[adapter])} is neither plain LoRA nor DoRA"
    down, up, dropout = adapter_layers(layer, adapter)
    if type(down) is not nn.Linear or type(up) is not nn.Linear:
        return "lora_A or lora_B is not exactly nn.Linear"
    if type(dropout) is not nn.Identity and type(dropout) is not nn.Dropout:
        return "lora_dropout is not exactly nn.Dropout"
    if not (call_is_forward(down) and call_is_forward(up) and call_is_forward(dropout)):
        return f"lora_A, lora_B or lora_dropout {RELIES_ON_CALLS}"
    lora_A, lora_B = down._parameters.get("weight"), up._parameters.get("weight")
    if lora_A is None or lora_B is None:
        return "lora_A or lora_B holds no parameter: a replica of nn.DataParallel, or part of a flattened shard"
    if not (is_ordinary(lora_A) and is_ordinary(lora_B)):
        return "lora_A or lora_B holds a DTensor or another tensor subclass"
    rank = lora_A.shape[0] if lora_A.dim() else 0
    if lora_A.shape != (rank, layer.in_features) or lora_B.shape != (layer.out_features, rank):
        return "lora_A or lora_B does not have the adapter's shape: it is a shard, or gathered only when called"
    return None


def _variant(variant: object) -> str:
    return type(variant).__name__.removesuffix("LinearVariant")
