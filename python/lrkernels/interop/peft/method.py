"""What ``accelerate`` has to know of one method of PEFT."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import nn

from lrkernels.interop.peft.fused_class import FusedClasses


@dataclass(frozen=True)
class Method:
    """``obstacle(stock class, layer)`` and ``adapter_obstacle(layer, adapter)`` say why one cannot be fused, or None.

    ``adapters(layer)`` are the names of all adapters of a layer; ``how(layer, fused, all_fused)`` says how those of
    ``fused`` run.
    """

    title: str
    layer_class: type
    classes: FusedClasses
    adapters: Callable[[nn.Module], Iterable[str]]
    obstacle: Callable[[type, nn.Module], str | None]
    adapter_obstacle: Callable[[nn.Module, str], str | None]
    how: Callable[[nn.Module, list[str], bool], str]
