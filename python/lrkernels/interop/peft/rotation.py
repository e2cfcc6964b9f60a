"""What PEFT's orthogonal methods have in common: x is rotated on the ops, then a base layer takes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lrkernels.interop.peft.fused_class import FusedForward
from lrkernels.interop.peft.weights import is_ordinary
from lrkernels.ops._lowrank_checks import HALF_DTYPES, KERNEL_DTYPES


class FusedRotation(FusedForward):
    """The forward before PEFT's: runs on the ops what the method's rules allow, hands everything else to PEFT.

    Everything that may change between two calls (active, disabled and merged adapters, hooks, dtypes, train mode) is
    read in every call, and so are the weights, which train: a rotation is built once a forward.
    """

    _adapters: str  # the attribute with an entry an adapter
    _weight: Callable[[nn.Module, str], Tensor]
    _layer_obstacle: Callable[[nn.Module], str | None]
    _adapter_obstacle: Callable[[nn.Module, str], str | None]
    _compute: Callable[[nn.Module, Tensor, list[str]], Tensor]

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if not (args or kwargs or self._disable_adapters or self.merged_adapters):
            known = getattr(self, self._adapters)
            adapters = [name for name in self.active_adapters if name in known]
            if adapters and _can_fuse(self, x, adapters):
                return self._compute(self, x, adapters)
        return super().forward(x, *args, **kwargs)


def _can_fuse(layer: FusedRotation, x: Tensor, adapters: list[str]) -> bool:
    if x.dtype not in KERNEL_DTYPES or x.layout != torch.strided or x.is_nested or not is_ordinary(x):
        return False
    if x.dim() == 0 or x.shape[-1] != layer.in_features:
        return False
    # PEFT casts x to the weights' dtype, except inside peft.helpers.disable_input_dtype_casting. To float64 we do not.
    if not layer.cast_input_dtype_enabled or layer._layer_obstacle(layer) is not None:
        return False
    for name in adapters:
        if layer._adapter_obstacle(layer, name) is not None:
            return False
        if layer._weight(layer, name).dtype == torch.float64 and x.dtype != torch.float64:
            return False
    return True


def tensor_obstacle(what: str, tensor: Tensor, shape: Sequence[int]) -> str | None:
    """Why an op may not read this tensor of an adapter."""
    if not is_ordinary(tensor):
        return f"{what} holds a DTensor or another tensor subclass"
    if tensor.dtype not in KERNEL_DTYPES:
        return f"{what} holds {tensor.dtype}"
    if tuple(tensor.shape) != tuple(shape):
        return f"{what} does not have the adapter's shape: it is a shard, or gathered only when called"
    return None


def rotation_dtype(x: Tensor) -> torch.dtype:
    """Of what a rotation is built from: in half precision it would be orthogonal to two digits only."""
    return torch.promote_types(x.dtype, torch.float32)


def wide_between(x: Tensor, rotations: int) -> Tensor:
    """x in float32 where each of several rotations would round it to half precision."""
    return x.float() if rotations > 1 and x.dtype in HALF_DTYPES else x
