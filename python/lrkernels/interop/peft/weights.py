"""The tensors of PEFT's layers, and which of them are plain matrices that an op may read."""

from __future__ import annotations

from peft.tuners.lora.layer import Conv1D
from torch import Tensor, nn

from lrkernels.nn.arguments import is_ordinary
from lrkernels.ops._lowrank_checks import KERNEL_DTYPES


def dense_weight(base: nn.Module) -> Tensor | None:
    """The [out, in] weight, when calling ``base`` is x·weightᵀ + bias; None when the layer has to be called.

    The Conv1D of transformers is a linear layer whose weight is [in, out] (``fan_in_fan_out``).
    """
    weight = base._parameters.get("weight")
    if weight is None or weight.dtype not in KERNEL_DTYPES or not is_ordinary(weight):
        return None
    if type(base) is nn.Linear:
        return weight
    return weight.mT if type(base) is Conv1D else None


def adapter_layers(layer: nn.Module, adapter: str) -> tuple[nn.Module, nn.Module, nn.Module]:
    """lora_A, lora_B and lora_dropout, by the dictionaries behind them: attributes of modules cost a microsecond each,
    and every forward looks at them."""
    modules = layer._modules
    return (
        modules["lora_A"]._modules[adapter],
        modules["lora_B"]._modules[adapter],
        modules["lora_dropout"]._modules[adapter],
    )
