"""Which of PEFT's layers lrkernels' ops may compute: one rule for the report and for every forward.

A fused layer reads the weights of its children and does not call them. So anything that works by being called (hooks of
offloading and sharding, tensor parallelism, another class in a child's place) and anything that is not the matrix it
looks like (a shard, a flattened view) has to be found: here for every method of PEFT, beside each method for itself.
The functions return the reason, or None.
"""

from __future__ import annotations

from peft.tuners.lora.model import _adapter_names_pre_forward_hook
from torch import nn
from torch.nn.modules import module as torch_module

from lrkernels.nn.base_layer import call_is_forward

RELIES_ON_CALLS = "has hooks or a forward of its own (offloading, sharding and profiling work by these)"


def call_obstacle(layer: nn.Module) -> str | None:
    """Why calling this layer is more than running its forward, or running the layers inside more than reading them."""
    if torch_module._has_any_global_hook():
        return "hooks for all modules are registered, and the layers inside would not be called"
    if not (call_is_forward(layer) or _only_told_adapter_names(layer)):
        return f"the layer {RELIES_ON_CALLS}"
    return None


def _only_told_adapter_names(layer: nn.Module) -> bool:
    """PEFT hands ``adapter_names`` to its layers by a hook on each, which has fired when their forward begins."""
    state = layer.__dict__
    return not (
        state["_forward_hooks"] or state["_backward_hooks"] or state["_backward_pre_hooks"] or "forward" in state
    ) and all(
        getattr(hook, "func", None) is _adapter_names_pre_forward_hook for hook in state["_forward_pre_hooks"].values()
    )
