"""PEFT's LoRA layers with a fused forward; they differ in nothing else, so ``accelerate`` swaps the classes.

Importing this module imports PEFT. Pickled accelerated models refer to the classes here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, NamedTuple

import torch
from peft.tuners.lora import layer as peft_layer
from torch import Tensor, nn

from lrkernels.interop.peft.dora import add_dora, is_dora
from lrkernels.interop.peft.fused_class import FusedClasses, FusedForward
from lrkernels.interop.peft.lora_eligibility import adapter_obstacle, base_obstacle, layer_obstacle
from lrkernels.interop.peft.method import Method
from lrkernels.interop.peft.mixed_batch import adapters_of_batch, add_indexed, can_index
from lrkernels.interop.peft.weights import adapter_layers, dense_weight, is_ordinary
from lrkernels.nn.base_layer import factors_beside
from lrkernels.ops import lowrank_linear
from lrkernels.ops._lowrank_checks import HALF_DTYPES, KERNEL_DTYPES


class FusedLora(FusedForward):
    """The forward before PEFT's: runs on the op what ``lora_eligibility`` allows, hands everything else to PEFT.

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
    """One op for adapters in a row that share x, one for each other, some more for DoRA; the first computes
    x·weightᵀ + bias too, unless ``y`` is that already."""
    for names in _runs(layer, adapters):
        terms = [_term(layer, name, x.dtype) for name in names]
        down, up, gate, scale = terms[0] if len(terms) == 1 else _joined(terms)
        if is_dora(layer, names[0]):
            y = add_dora(layer, names[0], x, y, (down, up), gate, scale)
            weight = bias = None
            continue
        for name in names:
            lora_bias = adapter_layers(layer, name)[1]._parameters["bias"]
            if lora_bias is not None:
                bias = _add_bias(bias, lora_bias, layer.scaling[name], x.dtype)
        probability = _dropout(layer, names[0])
        seed = torch.randint(0, 2**62, (), device=x.device) if probability > 0.0 else None
        y = lowrank_linear(
            x, down, up, weight, bias, gate=gate, base=y, seed=seed, scale=scale, dropout=probability
        )  # fmt: skip
        weight = bias = None
    return y


def _runs(layer: nn.Module, adapters: list[str]) -> list[list[str]]:
    """The adapters in order, neighbours together where they are low-rank terms of x itself: without dropout, which
    draws a mask for each, and without DoRA, which acts on the sum so far."""
    runs, joinable = [], False
    for name in adapters:
        alone = _dropout(layer, name) > 0.0 or is_dora(layer, name)
        if joinable and not alone:
            runs[-1].append(name)
        else:
            runs.append([name])
        joinable = not alone
    return runs


def _dropout(layer: nn.Module, adapter: str) -> float:
    dropout = adapter_layers(layer, adapter)[2]
    return dropout.p if type(dropout) is nn.Dropout and dropout.training else 0.0


class _Term(NamedTuple):
    """scale·x·downᵀ·diag(gate)·upᵀ of one adapter, or of several joined along their ranks."""

    down: Tensor
    up: Tensor
    gate: Tensor | None
    scale: float


def _term(layer: nn.Module, adapter: str, dtype: torch.dtype) -> _Term:
    lora_A, lora_B, _ = adapter_layers(layer, adapter)
    down, up = lora_A._parameters["weight"], lora_B._parameters["weight"]
    if down.dtype != dtype or up.dtype != dtype:
        down, up = factors_beside(dtype, down, up)
    scale = layer.scaling[adapter]
    if not isinstance(scale, Tensor):
        return _Term(down, up, None, scale)
    # A tensor, as peft.utils.hotswap makes it, to change it without recompiling: in float32 beside half factors, as a
    # scalar of torch would be.
    return _Term(down, up, scale.to(down.device, torch.promote_types(down.dtype, torch.float32)).reshape(1), 1.0)


def _joined(terms: list[_Term]) -> _Term:
    """One term of the sum of the ranks: x is read once and the output rounded once, however many adapters there are."""
    dtype = reduce(torch.promote_types, (factor.dtype for term in terms for factor in (term.down, term.up)))
    down = torch.cat([term.down.to(dtype) for term in terms])
    up = torch.cat([term.up.to(dtype) for term in terms], dim=1)
    if all(term.gate is None and term.scale == terms[0].scale for term in terms):
        return _Term(down, up, None, terms[0].scale)
    wide = torch.promote_types(dtype, torch.float32)
    gates = []
    for term in terms:
        rank = len(term.down)
        gates.append(down.new_full((rank,), term.scale, dtype=wide) if term.gate is None else term.gate.expand(rank))
    return _Term(down, up, torch.cat(gates), 1.0)


def _add_bias(bias: Tensor | None, lora_bias: Tensor, scale: float | Tensor, dtype: torch.dtype) -> Tensor:
    """bias + scale·lora_bias, in float32 where the activations are half precision."""
    dtype = torch.float32 if dtype in HALF_DTYPES else dtype
    lora_bias = scale * lora_bias.to(dtype)
    return lora_bias if bias is None else bias.to(dtype) + lora_bias


# --- What accelerate asks ---


def _obstacle(stock: type, layer: nn.Module) -> str | None:
    if stock is peft_layer.Linear and (reason := base_obstacle(layer.base_layer)) is not None:
        return reason
    return layer_obstacle(layer)


def _base_name(base: nn.Module) -> str:
    weight = base._parameters.get("weight")
    return type(base).__name__ + ("" if weight is None or is_ordinary(weight) else f" of {type(weight).__name__}")


def _how(layer: nn.Module, fused: list[str], all_fused: bool) -> str:
    base = _base_name(layer.base_layer)
    dora = [adapter for adapter in fused if is_dora(layer, adapter)]
    if dora:
        if all_fused and len(dora) == len(fused):
            return f"DoRA, the op adds the update to {base}'s scaled output"
        return f"{base} and update in one op; DoRA adapters: the op adds the update to {base}'s scaled output"
    if dense_weight(layer.base_layer) is not None:
        return f"{base} and update in one op"
    return f"{base} computes its own output, the op adds the update"


_CLASSES = FusedClasses(
    __name__,
    "peft.tuners.lora",
    FusedLora,
    {
        "layer": ("Linear",),
        "bnb": ("Linear8bitLt", "Linear4bit"),
        "torchao": ("TorchaoLoraLinear",),
        "gptq": ("GPTQLoraLinear",),
        "awq": ("AwqLoraLinear",),
        "aqlm": ("AqlmLoraLinear",),
        "eetq": ("EetqLoraLinear",),
        "hqq": ("HqqLoraLinear",),
        "inc": ("IncLoraLinear",),
    },
    # Some quantised layers of PEFT take x alone: their forward raises TypeError for adapter_names.
    lambda stock: {"_takes_adapter_names": "kwargs" in inspect.signature(stock.forward).parameters},
)
__getattr__ = _CLASSES.by_name

LORA = Method("LoRA", peft_layer.LoraLayer, _CLASSES, lambda layer: layer.lora_A, _obstacle, adapter_obstacle, _how)
