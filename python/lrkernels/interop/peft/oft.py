"""PEFT's OFT layers with a fused forward. Pickled accelerated models refer to the classes here.

    y = base_layer(x·R),    R block-diagonal: R_n = (I − Q_n)(I + Q_n)⁻¹, or a series of (I + Q_n)(I − Q_n)⁻¹,
                            Q_n skew-symmetric with row n of the weight above its diagonal

The two are each other's transpose: PEFT's exact map turns the other way than its series. With several adapters the
first rotates first. PEFT's module dropout is not part of its forward (0.21), and so not of this.
"""

from __future__ import annotations

import torch
from peft.tuners.oft import layer as peft_layer
from torch import Tensor, nn

from lrkernels.interop.peft.eligibility import RELIES_ON_CALLS, call_obstacle
from lrkernels.interop.peft.fused_class import FusedClasses
from lrkernels.interop.peft.method import Method
from lrkernels.interop.peft.rotation import (
    FusedRotation,
    rotation_dtype,
    tensor_obstacle,
    wide_between,
)
from lrkernels.nn.base_layer import call_is_forward
from lrkernels.nn.rotations.oft import within_coft_bound
from lrkernels.ops import block_diagonal_apply, cayley


def _adapter_obstacle(layer: nn.Module, adapter: str) -> str | None:
    rotation = layer.oft_R[adapter]
    if type(rotation) is not peft_layer.OFTRotationModule:
        return "oft_R is not exactly PEFT's"
    if not call_is_forward(rotation):
        return f"oft_R {RELIES_ON_CALLS}"
    block = rotation.block_size
    blocks = 1 if rotation.block_share else layer.in_features // block
    return tensor_obstacle("oft_R", rotation.weight, (blocks, block * (block - 1) // 2))


def _compute(layer: nn.Module, x: Tensor, adapters: list[str]) -> Tensor:
    dtype = x.dtype
    x = wide_between(x, len(adapters))
    for adapter in adapters:
        x = _rotated(layer.oft_R[adapter], x)
    return layer.base_layer(x.to(dtype)).to(dtype)


def _rotated(rotation: nn.Module, x: Tensor) -> Tensor:
    skew, block = rotation.weight, rotation.block_size
    if rotation.coft:
        with torch.no_grad():  # in place and in every forward, as PEFT does
            skew.copy_(within_coft_bound(skew, rotation.eps))
        skew = skew.clone()  # the next forward writes the weight again, perhaps before this one's backward
    skew = skew.to(rotation_dtype(x))
    if not rotation.use_cayley_neumann:
        return block_diagonal_apply(x, cayley(skew, block), transpose=True)
    if rotation.num_cayley_neumann_terms < 2:
        return x  # I, which has no gradient
    return block_diagonal_apply(x, cayley(skew, block, method="neumann", terms=rotation.num_cayley_neumann_terms))


# --- What accelerate asks ---


def _how(layer: nn.Module, fused: list[str], all_fused: bool) -> str:
    return f"the ops rotate x, {type(layer.base_layer).__name__} computes its own output"


class FusedOft(FusedRotation):
    _adapters = "oft_R"
    _weight = staticmethod(lambda layer, adapter: layer.oft_R[adapter].weight)
    _layer_obstacle = staticmethod(call_obstacle)
    _adapter_obstacle = staticmethod(_adapter_obstacle)
    _compute = staticmethod(_compute)


_CLASSES = FusedClasses(__name__, "peft.tuners.oft", FusedOft, {"layer": ("Linear",)})
__getattr__ = _CLASSES.by_name

OFT = Method(
    "OFT",
    peft_layer.OFTLayer,
    _CLASSES,
    lambda layer: layer.oft_R,
    lambda stock, layer: call_obstacle(layer),
    _adapter_obstacle,
    _how,
)
