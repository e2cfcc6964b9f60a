"""PEFT's HRA layers with a fused forward. Pickled accelerated models refer to the classes here.

    y = x·Hᵀ·Wᵀ + bias,    H = H_1·H_2···H_r of the columns u of hra_u,  H_i = I − 2·u·uᵀ/‖u‖²

or, with apply_GS, of the orthonormal columns that Gram–Schmidt makes of them: H = I − 2·U·Uᵀ. PEFT builds H and W·H,
[in, in] and [out, in]; here H is never more than its vectors. With several adapters the last reflects first.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from peft.tuners.hra import layer as peft_layer
from torch import Tensor, nn

from lrkernels.interop.peft.eligibility import call_obstacle
from lrkernels.interop.peft.fused_class import FusedClasses
from lrkernels.interop.peft.gram_schmidt import gram_schmidt
from lrkernels.interop.peft.method import Method
from lrkernels.interop.peft.rotation import FusedRotation, rotation_dtype, tensor_obstacle
from lrkernels.ops import householder_apply


def _layer_obstacle(layer: nn.Module) -> str | None:
    """PEFT never calls the base layer: whatever its class or its hooks do, the weight is what counts."""
    if (reason := call_obstacle(layer)) is not None:
        return reason
    weight = layer.base_layer._parameters.get("weight")
    if weight is None:
        return "base_layer.weight is no parameter"
    return tensor_obstacle("base_layer.weight", weight, (layer.out_features, layer.in_features))


def _adapter_obstacle(layer: nn.Module, adapter: str) -> str | None:
    return tensor_obstacle("hra_u", layer.hra_u[adapter], (layer.in_features, layer.hra_r[adapter]))


def _compute(layer: nn.Module, x: Tensor, adapters: list[str]) -> Tensor:
    """PEFT computes in the adapters' dtype. Here a half-precision base stays one: x is reflected in float32, rounded
    once, and multiplied by the weight in half precision."""
    dtype = x.dtype
    base = layer.base_layer
    vectors = [_vectors(layer, adapter, rotation_dtype(x)) for adapter in adapters]
    vectors = vectors[0] if len(vectors) == 1 else torch.cat(vectors)
    wide = torch.promote_types(dtype, base.weight.dtype)
    reflected = householder_apply(x.to(wide), vectors, transpose=True)
    bias = None if base.bias is None else base.bias.to(wide)
    # Detached as in PEFT: a weight that trains as well gets no gradient.
    return F.linear(reflected.to(wide), base.weight.detach().to(wide), bias).to(dtype)


def _vectors(layer: nn.Module, adapter: str, dtype: torch.dtype) -> Tensor:
    """[r, in]: row i is the vector of H_i."""
    rows = layer.hra_u[adapter].to(dtype).mT
    return gram_schmidt(rows) if layer.hra_apply_GS[adapter] else rows


# --- What accelerate asks ---


def _how(layer: nn.Module, fused: list[str], all_fused: bool) -> str:
    return f"the op reflects x, {type(layer.base_layer).__name__}'s weight takes the product"


class FusedHra(FusedRotation):
    _adapters = "hra_u"
    _weight = staticmethod(lambda layer, adapter: layer.hra_u[adapter])
    _layer_obstacle = staticmethod(_layer_obstacle)
    _adapter_obstacle = staticmethod(_adapter_obstacle)
    _compute = staticmethod(_compute)


_CLASSES = FusedClasses(__name__, "peft.tuners.hra", FusedHra, {"layer": ("HRALinear",)})
__getattr__ = _CLASSES.by_name

HRA = Method(
    "HRA",
    peft_layer.HRALayer,
    _CLASSES,
    lambda layer: layer.hra_u,
    lambda stock, layer: _layer_obstacle(layer),
    _adapter_obstacle,
    _how,
)
