"""What ``accelerate`` says about one layer of PEFT, before it changes any."""

from __future__ import annotations

from peft.tuners.lora.layer import LoraLayer
from torch import nn

from lrkernels.interop.peft.accelerate_report import LayerReport
from lrkernels.interop.peft.dora import is_dora
from lrkernels.interop.peft.eligibility import adapter_obstacle, base_obstacle, layer_obstacle
from lrkernels.interop.peft.layers import fused_class, is_quantised, is_subclassed, stock_class
from lrkernels.interop.peft.weights import dense_weight


def examine(model: nn.Module, name: str, layer: nn.Module) -> LayerReport:
    stock = stock_class(type(layer))
    kind = f"lora.{stock.__name__}" if issubclass(stock, LoraLayer) else stock.__name__
    parent = model.get_submodule(name.rpartition(".")[0])
    reason = _obstacle(stock, layer, parent)
    if reason is not None:
        return LayerReport(name, kind, False, reason)
    obstacles = {adapter: adapter_obstacle(layer, adapter) for adapter in layer.lora_A}
    left_to_peft = {adapter: reason for adapter, reason in obstacles.items() if reason is not None}
    if len(left_to_peft) == len(obstacles):
        reasons = "; ".join(f"adapter '{adapter}': {reason}" for adapter, reason in left_to_peft.items())
        return LayerReport(name, kind, False, reasons or "it has no adapter")
    base = type(layer.base_layer).__name__
    if dense_weight(layer.base_layer) is not None:
        how = f"{base} and update in one op"
    else:
        how = f"{base} computes its own output, the op adds the update"
    dora = [adapter for adapter in obstacles.keys() - left_to_peft.keys() if is_dora(layer, adapter)]
    if dora:
        how = f"DoRA, the op adds the update to {base}'s scaled output"
        if len(dora) + len(left_to_peft) < len(obstacles):
            how = f"{base} and update in one op; DoRA adapters: the op adds the update to {base}'s scaled output"
    return LayerReport(name, kind, True, how, left_to_peft)


def _obstacle(stock: type, layer: nn.Module, parent: nn.Module) -> str | None:
    if not issubclass(stock, LoraLayer):
        return "not LoRA"
    if is_subclassed(stock):
        return "its class was derived from the fused one after accelerate and stays; what can be fused is asked a call"
    if fused_class(stock) is None:
        return f"{stock.__module__}.{stock.__qualname__} is no LoRA of a linear layer that lrkernels knows"
    if not is_quantised(stock) and (reason := base_obstacle(layer.base_layer)) is not None:
        return reason
    if isinstance(parent, nn.MultiheadAttention):
        return "nn.MultiheadAttention reads its weight and never calls it"
    return layer_obstacle(layer)
