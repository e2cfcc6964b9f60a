"""What ``accelerate`` says about one layer of PEFT, before it changes any."""

from __future__ import annotations

from torch import nn

from lrkernels.interop.peft.accelerate_report import LayerReport
from lrkernels.interop.peft.boft import BOFT
from lrkernels.interop.peft.fused_class import is_subclassed, stock_class
from lrkernels.interop.peft.hra import HRA
from lrkernels.interop.peft.lora import LORA
from lrkernels.interop.peft.method import Method
from lrkernels.interop.peft.oft import OFT

_METHODS = (LORA, OFT, BOFT, HRA)


def fused_class(stock: type) -> type | None:
    """The fused class for one of PEFT's; None where there is none."""
    method = _method(stock)
    return method and method.classes.of(stock)


def examine(model: nn.Module, name: str, layer: nn.Module) -> LayerReport:
    stock = stock_class(type(layer))
    method = _method(stock)
    if method is None:
        titles = [each.title for each in _METHODS]
        return LayerReport(name, _kind(stock), False, f"not {', '.join(titles[:-1])} or {titles[-1]}")
    kind = _kind(stock)
    parent = model.get_submodule(name.rpartition(".")[0])
    reason = _obstacle(method, stock, layer, parent)
    if reason is not None:
        return LayerReport(name, kind, False, reason)
    obstacles = {adapter: method.adapter_obstacle(layer, adapter) for adapter in method.adapters(layer)}
    left_to_peft = {adapter: reason for adapter, reason in obstacles.items() if reason is not None}
    if len(left_to_peft) == len(obstacles):
        reasons = "; ".join(f"adapter '{adapter}': {reason}" for adapter, reason in left_to_peft.items())
        return LayerReport(name, kind, False, reasons or "it has no adapter")
    fused = [adapter for adapter in obstacles if adapter not in left_to_peft]
    return LayerReport(name, kind, True, method.how(layer, fused, not left_to_peft), left_to_peft)


def _kind(stock: type) -> str:
    """ "lora.Linear" of peft.tuners.lora.layer.Linear."""
    package = stock.__module__.removeprefix("peft.tuners.").partition(".")[0]
    return f"{package}.{stock.__name__}"


def _method(stock: type) -> Method | None:
    return next((method for method in _METHODS if issubclass(stock, method.layer_class)), None)


def _obstacle(method: Method, stock: type, layer: nn.Module, parent: nn.Module) -> str | None:
    if is_subclassed(stock):
        return "its class was derived from the fused one after accelerate and stays; what can be fused is asked a call"
    if method.classes.of(stock) is None:
        where = f"{stock.__module__}.{stock.__qualname__}"
        return f"{where} is no {method.title} of a linear layer that lrkernels knows"
    if isinstance(parent, nn.MultiheadAttention):
        return "nn.MultiheadAttention reads its weight and never calls it"
    return method.obstacle(stock, layer)
