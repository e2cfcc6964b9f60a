"""What both directions have to know of the model whose adapter goes into a PEFT checkpoint or comes out of one."""

from __future__ import annotations

from collections.abc import Container, Iterable

from torch import Tensor, nn

from lrkernels.interop.peft.conv1d import is_conv1d
from lrkernels.nn.mergeable_linear import MergeableLinear

PREFIX = "base_model.model."  # of every key that PEFT writes: the wrappers around the model that was adapted


def bare(model: nn.Module, caller: str) -> nn.Module:
    """The model without what torch.compile and data parallelism put around it."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"{caller}: model is {type(model).__name__}, expected an nn.Module")
    while True:
        if hasattr(model, "_orig_mod"):
            model = model._orig_mod
        elif isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        else:
            break
    if any(type(module).__module__.startswith("peft.") for module in model.modules()):
        raise ValueError(
            f"{caller}: the model holds layers of PEFT; its own methods load and save them, and lrkernels.accelerate "
            "runs them on the ops"
        )
    return model


def base_weight(module: nn.Module) -> Tensor:
    return (module.base_layer if isinstance(module, MergeableLinear) else module).weight


def sizes(module: nn.Module) -> tuple[int, int]:
    return (module.nx, module.nf) if is_conv1d(module) else (module.in_features, module.out_features)


def biases(model: nn.Module, which: str, adapted: Container[str]) -> dict[str, Tensor]:
    """The biases that PEFT writes with this setting, by their names where the ``adapted`` layers wrap others."""
    if which == "none":
        return {}
    found = {}
    for key, value in model.state_dict(keep_vars=True).items():
        name, _, kind = key.rpartition(".")
        if kind != "bias":
            continue
        layer = name.removesuffix(".base_layer")
        key = f"{layer}.base_layer.bias" if layer in adapted else key
        if which == "all" or layer in adapted:
            found[key] = value
    return found


def remember_bias(layer: nn.Module, which: str) -> None:
    """The setting that the layer's adapter was loaded with, for saving it again."""
    layer.checkpoint_bias = which


def remembered_biases(layers: Iterable[nn.Module]) -> set[str]:
    return {getattr(layer, "checkpoint_bias", "none") for layer in layers}
