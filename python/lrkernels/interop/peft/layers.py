"""PEFT's LoRA layers with a fused forward; they differ in nothing else, so ``accelerate`` swaps the classes.

Importing this module imports PEFT. Pickled accelerated models refer to the classes here.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from peft.tuners.lora import layer as peft_layer
from torch import Tensor, nn

from lrkernels.interop.peft.dora import add_dora, is_dora
from lrkernels.interop.peft.eligibility import adapter_obstacle, layer_obstacle
from lrkernels.interop.peft.mixed_batch import adapters_of_batch, add_indexed, can_index
from lrkernels.interop.peft.weights import adapter_layers, dense_weight
from lrkernels.nn.base_layer import factors_beside
from lrkernels.ops import lowrank_linear
from lrkernels.ops._lowrank_checks import HALF_DTYPES, KERNEL_DTYPES


class FusedForward:
    """The forward before PEFT's: runs on the op what ``eligibility`` allows, hands everything else to PEFT.

        y = base_layer(x) + Σ scaling·drop(x)·lora_Aᵀ·lora_Bᵀ    over the active adapters

    or, with ``adapter_names``, over the one adapter of each sample (``mixed_batch``).

    Everything that may change between two calls (active, disabled and merged adapters, scalings, train mode, hooks,
    dtypes) is read in every call.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if not (args or self._disable_adapters or self.merged_adapters):
            y = None
            if not kwargs:
                known = self._modules["lora_A"]._modules
                adapters = [name for name in self.active_adapters if name in known]
                if adapters and _can_fuse(self, x, adapters):
                    y = _fused(self, x, adapters, _add_adapters)
            elif kwargs.keys() == {"adapter_names"} and self._takes_adapter_names:
                names = kwargs["adapter_names"]
                adapters = adapters_of_batch(self, names) if isinstance(names, (list, tuple)) else []
                if adapters and _can_fuse(self, x, adapters) and can_index(self, x, names, adapters):
                    y = _fused(self, x, names, add_indexed)
            if y is not None:
                return y
        return super().forward(x, *args, **kwargs)


def _can_fuse(layer: nn.Module, x: Tensor, adapters: list[str]) -> bool:
    if x.dtype not in KERNEL_DTYPES or x.layout != torch.strided or x.is_nested:
        return False
    if layer_obstacle(layer) is not None:
        return False
    # PEFT casts x to the factors' dtype, except inside peft.helpers.disable_input_dtype_casting. To float64 we do not.
    for name in adapters:
        if adapter_obstacle(layer, name) is not None:
            return False
        dtype = adapter_layers(layer, name)[0]._parameters["weight"].dtype
        if dtype != x.dtype and (not layer.cast_input_dtype_enabled or dtype == torch.float64):
            return False
    return True


def _fused(layer: nn.Module, x: Tensor, adapters: Sequence[str], add: Callable[..., Tensor]) -> Tensor | None:
    """``add(layer, x, adapters, y, weight, bias)``, with the base layer's output as ``y`` or with its weight and bias.

    None when what the base layer returned is not [..., out] in a dtype of the op.
    """
    base_layer = layer._modules["base_layer"]
    weight = dense_weight(base_layer)
    if weight is not None:
        y, bias = None, base_layer._parameters["bias"]
    else:
        y, bias = base_layer(x), None
        if y.dtype not in KERNEL_DTYPES or y.shape != (*x.shape[:-1], layer.out_features):
            return None
        if not x.is_meta and torch.is_autocast_enabled(x.device.type):
            # The base layer chose the output's dtype, which autocast must not change; the op mixes dtypes by itself.
            with torch.autocast(x.device.type, enabled=False):
                return add(layer, x.to(y.dtype), adapters, y, None, None)
        x = x.to(y.dtype)
    return add(layer, x, adapters, y, weight, bias)


def _add_adapters(
    layer: nn.Module, x: Tensor, adapters: list[str], y: Tensor | None, weight: Tensor | None, bias: Tensor | None
) -> Tensor:
    """One op an adapter, some more for DoRA; the first computes x·weightᵀ + bias too, unless ``y`` is that already."""
    for adapter in adapters:
        lora_A, lora_B, dropout = adapter_layers(layer, adapter)
        down, up, lora_bias = lora_A._parameters["weight"], lora_B._parameters["weight"], lora_B._parameters["bias"]
        if down.dtype != x.dtype or up.dtype != x.dtype:
            down, up = factors_beside(x.dtype, down, up)
        scale = layer.scaling[adapter]
        gate = None
        if isinstance(scale, Tensor):  # as peft.utils.hotswap makes it, to change it without recompiling
            # In float32 beside half factors, as a scalar of torch would be.
            gate, scale = scale.to(down.device, torch.promote_types(down.dtype, torch.float32)).reshape(1), 1.0
        if is_dora(layer, adapter):
            y = add_dora(layer, adapter, x, y, (down, up), gate, scale)
            weight = bias = None
            continue
        if lora_bias is not None:
            bias = _add_bias(bias, lora_bias, layer.scaling[adapter], x.dtype)
        probability = dropout.p if type(dropout) is nn.Dropout and dropout.training else 0.0
        seed = torch.randint(0, 2**62, (), device=x.device) if probability > 0.0 else None
        y = lowrank_linear(
            x, down, up, weight, bias, gate=gate, base=y, seed=seed, scale=scale, dropout=probability
        )  # fmt: skip
        weight = bias = None
    return y


def _add_bias(bias: Tensor | None, lora_bias: Tensor, scale: float | Tensor, dtype: torch.dtype) -> Tensor:
    """bias + scale·lora_bias, in float32 where the activations are half precision."""
    dtype = torch.float32 if dtype in HALF_DTYPES else dtype
    lora_bias = scale * lora_bias.to(dtype)
    return lora_bias if bias is None else bias.to(dtype) + lora_bias


# PEFT's classes that have a fused one, by module. The quantised ones exist where the library they serve is installed,
# and PEFT imports some of these modules at first use.
_COVERED = {
    "layer": ("Linear",),
    "bnb": ("Linear8bitLt", "Linear4bit"),
    "torchao": ("TorchaoLoraLinear",),
    "gptq": ("GPTQLoraLinear",),
    "awq": ("AwqLoraLinear",),
    "aqlm": ("AqlmLoraLinear",),
    "eetq": ("EetqLoraLinear",),
    "hqq": ("HqqLoraLinear",),
    "inc": ("IncLoraLinear",),
}
_PACKAGE = "peft.tuners.lora."


def stock_class(cls: type) -> type:
    """PEFT's class behind a fused one; any other class itself."""
    return cls.__bases__[1] if cls.__bases__[0] is FusedForward else cls


def is_subclassed(cls: type) -> bool:
    """Whether somebody made a class of their own from a fused one, as ``fully_shard`` does of a layer it is given."""
    return issubclass(cls, FusedForward) and cls.__bases__[0] is not FusedForward


def fused_class(stock: type) -> type | None:
    """The fused class for one of PEFT's; None where there is none."""
    module = stock.__module__.removeprefix(_PACKAGE)
    if stock.__module__ == module or stock.__name__ not in _COVERED.get(module, ()):
        return None
    if stock.__name__ not in globals():
        # PEFT's own name, which repr and PEFT's messages show.
        members = {"__module__": __name__, "__doc__": stock.__doc__}
        # Some quantised layers of PEFT take x alone: their forward raises TypeError for adapter_names.
        members["_takes_adapter_names"] = "kwargs" in inspect.signature(stock.forward).parameters
        globals()[stock.__name__] = type(stock.__name__, (FusedForward, stock), members)
    return globals()[stock.__name__]


def is_quantised(stock: type) -> bool:
    return stock is not peft_layer.Linear


def __getattr__(name: str) -> type:
    """Where pickle looks for a fused class that this process has not used yet."""
    for module, names in _COVERED.items():
        if name in names and hasattr(stock := importlib.import_module(_PACKAGE + module), name):
            return fused_class(getattr(stock, name))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
