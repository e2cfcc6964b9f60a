"""PEFT's BOFT layers with a fused forward. Pickled accelerated models refer to the classes here.

    y = s ⊙ (x·F_m···F_1·F_0)·Wᵀ + bias,    F_i = P_i·D_i·P_iᵀ,  D_i block-diagonal: (I − S)(I + S)⁻¹, S = ½(A − Aᵀ)

P_i sorts the half-blocks of every 2ⁱ blocks into the even and the odd ones, so that D_i mixes features that are 2ⁱ
half-blocks apart, and x·P_i is a transposed view of x: PEFT multiplies by dense [in, in] matrices. With several
adapters the last rotates first.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from peft.tuners.boft import layer as peft_layer
from torch import Tensor, nn

from lrkernels.interop.peft.eligibility import call_obstacle
from lrkernels.interop.peft.fused_class import FusedClasses
from lrkernels.interop.peft.method import Method
from lrkernels.interop.peft.rotation import (
    FusedRotation,
    rotation_dtype,
    tensor_obstacle,
    wide_between,
)
from lrkernels.interop.peft.weights import dense_weight
from lrkernels.nn.base_layer import is_plain_linear
from lrkernels.nn.rotations.boft import interleave_halves, separate_halves
from lrkernels.ops import block_diagonal_apply, cayley


def _adapter_obstacle(layer: nn.Module, adapter: str) -> str | None:
    blocks, block = layer.boft_block_num[adapter], layer.boft_block_size[adapter]
    factors = len(layer.boft_R[adapter])
    reason = tensor_obstacle("boft_R", layer.boft_R[adapter], (factors, blocks, block, block))
    reason = reason or tensor_obstacle("boft_s", layer.boft_s[adapter], (layer.out_features, 1))
    if reason is not None:
        return reason
    shapes = {other.shape for other in layer.boft_R.values() if len(other) == factors}
    if len(layer.boft_P) != factors or (factors > 1 and len(shapes) > 1):
        return "boft_P is that of another adapter: PEFT permutes all as it does the one that was added last"
    return None


def _compute(layer: nn.Module, x: Tensor, adapters: list[str]) -> Tensor:
    dtype = x.dtype
    x = wide_between(x, sum(len(layer.boft_R[adapter]) for adapter in adapters))
    scale = None
    for adapter in adapters:
        boft_s = layer.boft_s[adapter].squeeze(-1)
        scale = boft_s if scale is None else boft_s * scale
    for adapter in reversed(adapters):
        blocks = _rotations(layer, adapter, rotation_dtype(x))
        for i in reversed(range(len(blocks))):
            x = _factor(x, blocks[i], i)
    return _scaled_base(layer.base_layer, x.to(dtype), scale).to(dtype)


def _rotations(layer: nn.Module, adapter: str, dtype: torch.dtype) -> Tensor:
    """[factors, blocks, block, block]: the transpose of PEFT's D_i."""
    a = layer.boft_R[adapter].to(dtype)
    factors, blocks, block, _ = a.shape
    row, column = torch.triu_indices(block, block, 1, device=a.device)
    skew = (0.5 * (a - a.mT)).flatten(2).index_select(2, row * block + column)
    rotations = cayley(skew.flatten(0, 1), block).view(factors, blocks, block, block)
    return layer.boft_dropout[adapter](rotations)  # in training some blocks of one factor become the identity


def _factor(x: Tensor, rotations: Tensor, i: int) -> Tensor:
    """x·P_i·D_i·P_iᵀ"""
    if i == 0:
        return block_diagonal_apply(x, rotations, transpose=True)
    half = rotations.shape[-1] // 2
    y = block_diagonal_apply(interleave_halves(x, half, i), rotations, transpose=True)
    return separate_halves(y, half, i)


def _scaled_base(base: nn.Module, x: Tensor, scale: Tensor) -> Tensor:
    """scale ⊙ x·Wᵀ + bias. A base layer that has to be called adds its bias, which is then taken off again."""
    bias = base.bias
    if is_plain_linear(base) and dense_weight(base) is not None:
        y = F.linear(x, base.weight)
    else:
        y = base(x)
        y = y if bias is None else y - bias
    if bias is None:
        return y * scale
    if y.dtype == scale.dtype == bias.dtype:
        return torch.addcmul(bias, y, scale)
    return y * scale + bias


# --- What accelerate asks ---


def _how(layer: nn.Module, fused: list[str], all_fused: bool) -> str:
    return f"the ops rotate x, {type(layer.base_layer).__name__} computes its own output, which is scaled"


class FusedBoft(FusedRotation):
    _adapters = "boft_R"
    _weight = staticmethod(lambda layer, adapter: layer.boft_R[adapter])
    _layer_obstacle = staticmethod(call_obstacle)
    _adapter_obstacle = staticmethod(_adapter_obstacle)
    _compute = staticmethod(_compute)


_CLASSES = FusedClasses(__name__, "peft.tuners.boft", FusedBoft, {"layer": ("Linear",)})
__getattr__ = _CLASSES.by_name

BOFT = Method(
    "BOFT",
    peft_layer.BOFTLayer,
    _CLASSES,
    lambda layer: layer.boft_R,
    lambda stock, layer: call_obstacle(layer),
    _adapter_obstacle,
    _how,
)
