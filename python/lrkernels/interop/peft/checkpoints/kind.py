"""What loading and saving have to know of one method of PEFT."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from lrkernels.interop.peft.checkpoints.config import AdapterConfig
from lrkernels.nn.mergeable_linear import MergeableLinear


class Kind(ABC):
    """One method: its config, the tensors of a layer in PEFT's file, and the lrkernels layer that they make.

    ``values`` are tensors by the names of the layer's parameters, converted from those of the file by :meth:`convert`.
    """

    peft_type: str
    layer_class: type[MergeableLinear]
    parts: tuple[str, ...]  # what follows the layer's name in a key
    optional_parts: tuple[str, ...] = ()  # what may, and says nothing new
    takes_conv1d = False  # whether PEFT adapts the Conv1D of transformers too, and wants to be told
    title: str  # "LoRA"
    noun: str  # "factors"
    article: str  # "a LoRA factor"

    @property
    def biases(self) -> tuple[str, ...]:
        return ("none", f"{self.peft_type.lower()}_only", "all")

    @staticmethod
    def part_name(part: str) -> str:
        return part.removesuffix(".weight")

    @abstractmethod
    def parse(self, values: dict[str, Any]) -> AdapterConfig:
        """Raises ValueError for what is malformed and for what is not covered."""

    def explain_key(self, key: str) -> str | None:
        """Why the file of another version or layer has this key, where that is known."""
        return None

    @abstractmethod
    def convert(
        self, config: AdapterConfig, name: str, sizes: tuple[int, int], tensors: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """``values`` of a layer of these (in, out) sizes. Raises ValueError when the tensors do not fit."""

    @abstractmethod
    def make(self, config: AdapterConfig, name: str, linear: nn.Linear, values: dict[str, Tensor]) -> MergeableLinear:
        """A layer over ``linear`` with the config's settings and parameters of the shapes of ``values``."""

    @abstractmethod
    def configure(self, config: AdapterConfig, name: str, layer: MergeableLinear, values: dict[str, Tensor]) -> None:
        """Give a layer the config's settings; parameters whose shapes differ are made anew."""

    @abstractmethod
    def factor_dtype(self, weight: Tensor) -> torch.dtype:
        """Of a new layer's parameters over this base weight."""

    @abstractmethod
    def tensors(self, layer: MergeableLinear) -> dict[str, Tensor]:
        """What PEFT's file holds of the layer, by part."""

    @abstractmethod
    def compose(self, layers: dict[str, MergeableLinear], all_names: Iterable[str]) -> dict[str, Any]:
        """The fields of the config that tell PEFT to adapt exactly these layers, without what every method has."""
