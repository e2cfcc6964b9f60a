"""Which of PEFT's LoRA layers lrkernels' ops may compute: one rule for the report and for every forward.

A fused layer reads the weights of its children and does not call them. So anything that works by being called (hooks of
offloading and sharding, tensor parallelism, another class in a child's place) and anything that is not the [out, in]
matrix it looks like (a shard, a flattened view) has to be found here. The functions return the reason, or None.
"""

from __future__ import annotations

import torch
from peft.tuners.lora.layer import Conv1D
from peft.tuners.lora.model import _adapter_names_pre_forward_hook
from torch import nn
from torch.nn.modules import module as torch_module

from lrkernels.interop.peft.dora import dora_obstacle, is_dora
from lrkernels.interop.peft.weights import adapter_layers, dense_weight, is_ordinary
from lrkernels.nn.base_layer import call_is_forward, linear_is_torchs

if torch.distributed.is_available():
    from torch.distributed.tensor import DTensor
else:
    DTensor = ()

_RELIES_ON_CALLS = "has hooks or a forward of its own (offloading, sharding and profiling work by these)"


def base_obstacle(base: nn.Module) -> str | None:
    """Why this layer's output cannot be trusted to be [..., out]; the bases of quantised layers are known to PEFT."""
    if isinstance(base, (nn.Linear, Conv1D)):
        return None
    return f"base_layer is {type(base).__name__}, which is no nn.Linear: its output may have any shape"


def layer_obstacle(layer: nn.Module) -> str | None:
    """Why no adapter of this layer can be fused: its own and its base layer's reasons."""
    if torch_module._has_any_global_hook():
        return "hooks for all modules are registered, and the layers inside would not be called"
    if not linear_is_torchs():
        return "nn.Linear.forward has been replaced, and the layers inside would not be called"
    if not (call_is_forward(layer) or _only_told_adapter_names(layer)):
        return f"the layer {_RELIES_ON_CALLS}"
    base = layer._modules["base_layer"]
    if not call_is_forward(base):
        return f"base_layer {_RELIES_ON_CALLS}"
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
        return f"lora_A, lora_B or lora_dropout {_RELIES_ON_CALLS}"
    lora_A, lora_B = down._parameters.get("weight"), up._parameters.get("weight")
    if lora_A is None or lora_B is None:
        return "lora_A or lora_B holds no parameter: a replica of nn.DataParallel, or part of a flattened shard"
    if not (is_ordinary(lora_A) and is_ordinary(lora_B)):
        return "lora_A or lora_B holds a DTensor or another tensor subclass"
    rank = lora_A.shape[0] if lora_A.dim() else 0
    if lora_A.shape != (rank, layer.in_features) or lora_B.shape != (layer.out_features, rank):
        return "lora_A or lora_B does not have the adapter's shape: it is a shard, or gathered only when called"
    return None


def _only_told_adapter_names(layer: nn.Module) -> bool:
    """PEFT hands ``adapter_names`` to its layers by a hook on each, which has fired when their forward begins."""
    state = layer.__dict__
    return not (
        state["_forward_hooks"] or state["_backward_hooks"] or state["_backward_pre_hooks"] or "forward" in state
    ) and all(
        getattr(hook, "func", None) is _adapter_names_pre_forward_hook for hook in state["_forward_pre_hooks"].values()
    )


def _variant(variant: object) -> str:
    return type(variant).__name__.removesuffix("LinearVariant")
