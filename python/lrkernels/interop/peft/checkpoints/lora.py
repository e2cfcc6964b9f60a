"""LoRA in PEFT's checkpoints."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lrkernels.interop.peft.checkpoints import config as fields
from lrkernels.interop.peft.checkpoints.config import AdapterConfig
from lrkernels.interop.peft.checkpoints.kind import Kind
from lrkernels.interop.peft.checkpoints.model import PREFIX
from lrkernels.nn import LoRALinear

_REFUSED = fields.REFUSED | {
    "use_dora": "DoRA",
    "lora_bias": "LoRALinear has no bias on lora_B",
    "target_parameters": "LoRA of bare parameters",
    "use_qalora": "QALoRA pools the input",
    "use_bdlora": "block-diagonal LoRA",
    "arrow_config": "Arrow routes between adapters",
    "velora_config": "VeLoRA",
    "kasa_config": "KaSA",
    "monteclora_config": "MonteCLoRA",
    "alora_invocation_tokens": "aLoRA acts on some tokens only",
    "megatron_config": "Megatron's parallel layers",
}
_IGNORED = fields.IGNORED | {
    *("init_lora_weights", "megatron_core", "loftq_config", "eva_config", "corda_config", "lora_ga_config"),
    "qalora_group_size",
}
# Every other initialisation (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA) changes the base weights, again at every load.
_PLAIN_INITIALISATIONS = (True, False, None, "gaussian", "eva", "orthogonal")


@dataclass(frozen=True)
class LoraConfig(AdapterConfig):
    """The settings that ``LoRALinear`` can honour."""

    r: int = 8
    lora_alpha: float = 8
    lora_dropout: float = 0.0
    use_rslora: bool = False
    rank_pattern: dict[str, int] = field(default_factory=dict)
    alpha_pattern: dict[str, float] = field(default_factory=dict)

    def rank(self, name: str) -> int:
        return _first_match(self.rank_pattern, name, self.r)

    def alpha(self, name: str) -> float:
        return _first_match(self.alpha_pattern, name, self.lora_alpha)

    def check(self, biases: Iterable[str]) -> None:
        fields.check_positive("r", self.r)
        fields.check_number("lora_alpha", self.lora_alpha)
        fields.check_number("lora_dropout", self.lora_dropout)
        if not 0.0 <= self.lora_dropout <= 1.0:
            raise ValueError(f"lora_dropout is {self.lora_dropout}, expected a probability in [0, 1]")
        fields.check_flag("use_rslora", self.use_rslora)
        for name, check in (("rank_pattern", fields.check_positive), ("alpha_pattern", fields.check_number)):
            pattern = getattr(self, name)
            if not isinstance(pattern, dict):
                raise ValueError(f"{name} is {pattern!r}, expected an object")
            for key, value in pattern.items():
                fields.check_expression(name, key)
                check(f"{name}[{key!r}]", value)
        super().check(biases)


class LoraKind(Kind):
    peft_type = "LORA"
    layer_class = LoRALinear
    parts = ("lora_A.weight", "lora_B.weight")
    takes_conv1d = True
    title, noun, article = "LoRA", "factors", "a LoRA factor"

    def parse(self, values: dict[str, Any]) -> LoraConfig:
        config = fields.read(values, LoraConfig, "LoRALinear", _REFUSED, _IGNORED)
        initialisation = values.get("init_lora_weights", True)
        if initialisation not in _PLAIN_INITIALISATIONS:
            raise ValueError(
                f"init_lora_weights is {initialisation!r}: PEFT changed the base weights for this adapter, and changes "
                "them again whenever it loads it. Its save_pretrained(path, path_initial_model_for_weight_conversion="
                "...) writes an adapter of the unchanged weights"
            )
        config.check(self.biases)
        return config

    def explain_key(self, key: str) -> str | None:
        return "LoRA of embeddings is not covered" if "lora_embedding_" in key else None

    def convert(
        self, config: LoraConfig, name: str, sizes: tuple[int, int], tensors: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        rank, (width, height) = config.rank(name), sizes
        if rank > min(width, height):
            raise ValueError(f"'{name}' has rank {rank}, and LoRALinear takes at most {min(width, height)} there")
        for part, shape in (("lora_A", (rank, width)), ("lora_B", (height, rank))):
            found = tuple(tensors[f"{part}.weight"].shape)
            if len(found) > 2:
                key = f"{PREFIX}{name}.{part}.weight"
                raise ValueError(f"{key} has {len(found)} dimensions: LoRA of convolutions is not covered")
            if found != shape:
                raise ValueError(
                    f"{part} of '{name}' is {found}, expected {shape}: the config's rank is {rank}, the layer maps "
                    f"{width} features to {height}"
                )
        return {self.part_name(part): tensor for part, tensor in tensors.items()}

    def make(self, config: LoraConfig, name: str, linear: nn.Linear, values: dict[str, Tensor]) -> LoRALinear:
        return LoRALinear(
            linear,
            r=config.rank(name),
            alpha=config.alpha(name),
            dropout=config.lora_dropout,
            rslora=config.use_rslora,
        )

    def configure(self, config: LoraConfig, name: str, layer: LoRALinear, values: dict[str, Tensor]) -> None:
        layer.r, layer.alpha = config.rank(name), float(config.alpha(name))
        layer.dropout, layer.rslora = float(config.lora_dropout), config.use_rslora
        for part, value in values.items():
            old = getattr(layer, part)
            if old.shape != value.shape:
                setattr(layer, part, nn.Parameter(old.new_empty(value.shape), requires_grad=old.requires_grad))

    def factor_dtype(self, weight: Tensor) -> torch.dtype:
        return weight.dtype

    def tensors(self, layer: LoRALinear) -> dict[str, Tensor]:
        return {part: getattr(layer, self.part_name(part)) for part in self.parts}

    def compose(self, layers: dict[str, LoRALinear], all_names: Iterable[str]) -> dict[str, Any]:
        dropouts = {name: layer.dropout for name, layer in layers.items()}
        if len(set(dropouts.values())) > 1:
            raise ValueError(f"dropout differs between layers, and PEFT has one for all: {dropouts}")
        rslora = all(layer.rslora for layer in layers.values())
        # One config has one rule; where layers differ in it, the scale alpha/√r of the others is written as alpha·√r/r.
        alphas = {
            name: _plain(layer.alpha * math.sqrt(layer.r) if layer.rslora and not rslora else layer.alpha)
            for name, layer in layers.items()
        }
        rank, rank_pattern = _common({name: layer.r for name, layer in layers.items()})
        alpha, alpha_pattern = _common(alphas)
        return {
            "r": rank,
            "rank_pattern": rank_pattern,
            "lora_alpha": alpha,
            "alpha_pattern": alpha_pattern,
            "use_rslora": rslora,
            "lora_dropout": next(iter(dropouts.values())),
            "target_modules": fields.target_modules(set(layers), all_names),
        }


def _first_match(pattern: dict, name: str, default: Any) -> Any:
    for key, value in pattern.items():
        if re.match(rf"(.*\.)?({key})$", name):
            return value
    return default


def _plain(number: float) -> float | int:
    return int(number) if float(number).is_integer() else number


def _common(values: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The most frequent value, and the others by an expression that matches their layer alone."""
    every = list(values.values())
    common = max(sorted(set(every)), key=every.count)
    return common, {"^" + re.escape(name): value for name, value in values.items() if value != common}
