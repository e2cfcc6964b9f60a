"""What PEFT's orthogonal methods have in common in checkpoints: the layer is a ``RotatedLinear``."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from lrkernels.interop.peft.checkpoints.config import AdapterConfig
from lrkernels.interop.peft.checkpoints.kind import Kind
from lrkernels.nn import RotatedLinear, Rotation
from lrkernels.nn.base_layer import factor_dtype


class RotationKind(Kind):
    """A kind whose layers hold one :class:`lrkernels.nn.Rotation`."""

    layer_class: type[RotatedLinear]
    noun = "weights"

    def rotation_class(self, config: AdapterConfig) -> type[Rotation]:
        return self._rotation_class

    _rotation_class: type[Rotation]

    @abstractmethod
    def options(self, config: AdapterConfig, values: dict[str, Tensor], features: int) -> dict[str, Any]:
        """How the layer class and the rotation class are made, by names that the rotation has them under."""

    def checked(self, config: AdapterConfig, name: str, features: int, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """The values, where the rotation class takes the options."""
        try:
            self.rotation_class(config)(features, **self.options(config, values, features), device="meta")
        except (TypeError, ValueError) as error:
            raise ValueError(f"'{name}': {error}") from None
        return values

    def make(self, config: AdapterConfig, name: str, linear: nn.Linear, values: dict[str, Tensor]) -> RotatedLinear:
        layer = self.layer_class(linear, **self.options(config, values, linear.in_features))
        self.configure(config, name, layer, values)
        return layer

    def configure(self, config: AdapterConfig, name: str, layer: RotatedLinear, values: dict[str, Tensor]) -> None:
        old = layer.rotation
        cls, options = self.rotation_class(config), self.options(config, values, old.features)
        if type(old) is cls and all(layer.get_parameter(key).shape == value.shape for key, value in values.items()):
            for key, value in options.items():
                setattr(old, key, value)
            return
        parameter = next(old.parameters())
        fresh = cls(old.features, **options, device=parameter.device, dtype=parameter.dtype)
        layer.rotation = fresh.requires_grad_(parameter.requires_grad).train(layer.training)

    def factor_dtype(self, weight: Tensor) -> torch.dtype:
        return factor_dtype(weight)


def same_for_all(what: str, values: dict[str, Any]) -> Any:
    """The one value of all layers. Raises ValueError where they differ."""
    found = list(values.values())
    if any(value != found[0] for value in found):
        raise ValueError(f"{what} differs between layers, and PEFT has one for all: {values}")
    return found[0]
