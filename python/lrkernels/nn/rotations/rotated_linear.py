"""A frozen linear layer whose input features are rotated, by rotating its input or its weight."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lrkernels.nn.arguments import check_dtype, check_linear
from lrkernels.nn.base_layer import BaseCall, factor_dtype
from lrkernels.nn.mergeable_linear import MergeableLinear
from lrkernels.nn.rotations.rotation import Rotation


def rotates_weight(rotation: Rotation, rows: int, out_features: int) -> bool:
    """Whether x·(W·Rᵀ)ᵀ costs less than (x·R)·Wᵀ, which are equal.

    Forward alone, the side with fewer rows wins. A weight that is rotated in training needs a gradient, one more
    [out, rows]·[rows, in] product, which a rotated x does not; R is then applied three times either way (forward, and
    the gradients of what it rotates and of its parameters). Counted in multiply-adds per input feature, of which those
    of R, bound by memory, take about twice as long (on a Cascade Lake CPU, 1024 rows of 1024 features, the sides change
    between 128 and 256 outputs, for OFT of 32 and for a butterfly of Givens rotations).
    """
    if torch.is_grad_enabled() and any(parameter.requires_grad for parameter in rotation.parameters()):
        return rows * out_features < 2 * 3 * rotation.work * (rows - out_features)
    return out_features < rows


def rotated_weight(rotation: Rotation, weight: Tensor, scale: Tensor | None = None) -> Tensor:
    """diag(scale)·W·Rᵀ, rounded once to the weight's dtype."""
    if scale is None:
        return rotation.transposed(weight)
    dtype = torch.promote_types(torch.promote_types(weight.dtype, scale.dtype), torch.float32)
    return (scale.to(dtype)[:, None] * rotation.transposed(weight.to(dtype))).to(weight.dtype)


def rotated_output(rotation: Rotation, base: BaseCall, scale: Tensor | None = None) -> Tensor:
    """scale ⊙ (x·R)·Wᵀ + bias, of a base layer that is plain or has a forward of its own, which then runs on x·R."""
    x, weight = base.input, base.weight
    features = base.layer.in_features
    if x.shape[-1:] != (features,):
        raise ValueError(f"{type(rotation).__name__}: x has shape {tuple(x.shape)}, expected (..., {features})")
    if base.is_plain and rotates_weight(rotation, x.numel() // max(x.shape[-1], 1), weight.shape[0]):
        return F.linear(x, rotated_weight(rotation, weight, scale), base.bias)
    y = base.at(rotation(x))
    if scale is None:
        return y
    product = y if base.bias is None else y - base.bias
    scaled = scale * product
    return (scaled if base.bias is None else scaled + base.bias).to(y.dtype)


class RotatedLinear(MergeableLinear):
    """A frozen linear layer under a trained rotation R of its input features.

        y = base_layer(x·R);    merged weight W·Rᵀ

    Multiplying a weight by an orthogonal R keeps the lengths of its rows and the angles between them: orthogonal
    fine-tuning (Qiu et al., "Controlling text-to-image diffusion by orthogonal finetuning", NeurIPS 2023). It is x that
    is rotated, as in OFTv2 (Qiu et al., "Orthogonal finetuning made scalable", 2025), or the weight where that costs
    less (few outputs, many rows). R starts as the identity. ``rotation`` holds R's parameters; R is never formed.

    ``base_layer`` is any ``nn.Linear``; it is kept, frozen. A subclass, a quantised, parametrized or hooked layer runs
    its own forward, on x·R. R's parameters are float32 where the base weight is half precision or quantised, else in
    its dtype; ``dtype`` overrides.

    Merging is ``MergeableLinear``'s: ``merge()`` computes the merged weight once, ``unmerge()`` restores the very bits,
    ``merge(keep=False)`` gives the unmerged weight up and makes R the identity. A ``state_dict`` holds ``rotation.…``
    and the unmerged ``base_layer.…``.

    ``RotatedLinear(base_layer, SomeRotation, …)`` makes one with a rotation of your own.

    Shapes: x ``[..., in_features]`` to ``[..., out_features]``, in the dtype of base_layer's output.

    Raises TypeError when ``base_layer`` is no ``nn.Linear``, and as the rotation for sizes it cannot have.
    """

    # replace_linear leaves the requires_grad of these as they are and freezes the rest of the model.
    adapter_parameters = ("rotation",)

    def __init__(
        self,
        base_layer: nn.Linear,
        rotation_class: type[Rotation],
        *args: Any,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> None:
        name = type(self).__name__
        check_linear(name, "base_layer", base_layer)
        check_dtype(name, dtype)
        weight = base_layer.weight
        placement = {
            "device": weight.device if device is None else device,
            "dtype": factor_dtype(weight) if dtype is None else dtype,
        }
        rotation = rotation_class(base_layer.in_features, *args, **placement, **kwargs)
        super().__init__(base_layer)
        self.rotation = rotation
        self.register_parameter("scale", None)  # of the outputs; BOFT's layer has one

    def reset_parameters(self) -> None:
        """Make the rotation the identity again."""
        self.rotation.reset_parameters()

    def rotate(self, x: Tensor) -> Tensor:
        """x·R"""
        return self.rotation(x)

    def inverse(self, x: Tensor) -> Tensor:
        """x·R⁻¹: ``layer.inverse(layer.rotate(x))`` is x."""
        return self.rotation.inverse(x)

    def orthogonality_error(self) -> Tensor:
        """‖RᵀR − I‖₂, a float64 scalar; a diagnostic, which may form R."""
        return self.rotation.orthogonality_error()

    def _updated(self, base: BaseCall) -> Tensor:
        return rotated_output(self.rotation, base, self.scale)

    def _merged_with(self, weight: Tensor) -> Tensor:
        return rotated_weight(self.rotation, weight, self.scale)

    def _clear_update(self) -> None:
        with torch.inference_mode(any(p.is_inference() for p in self.rotation.parameters())):
            self.reset_parameters()

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, merged={self.merged}"
