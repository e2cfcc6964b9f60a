"""What an adapter_config.json of PEFT says about LoRA layers, checked; and the reverse."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

# Fields that change what is computed or what the file holds, by the reason why they cannot be honoured here.
_REFUSED = {
    "use_dora": "DoRA",
    "lora_bias": "LoRALinear has no bias on lora_B",
    "modules_to_save": "it holds whole modules beside the adapter",
    "trainable_token_indices": "it holds embedding rows beside the adapter",
    "target_parameters": "LoRA of bare parameters",
    "layer_replication": "it repeats layers of the model",
    "use_qalora": "QALoRA pools the input",
    "use_bdlora": "block-diagonal LoRA",
    "arrow_config": "Arrow routes between adapters",
    "velora_config": "VeLoRA",
    "kasa_config": "KaSA",
    "monteclora_config": "MonteCLoRA",
    "alora_invocation_tokens": "aLoRA acts on some tokens only",
    "megatron_config": "Megatron's parallel layers",
}
# Every other initialisation (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA) changes the base weights, again at every load.
_PLAIN_INITIALISATIONS = (True, False, None, "gaussian", "eva", "orthogonal")
# Of no consequence once there are factors, or where the layers are known by the names in the file. fan_in_fan_out tells
# the layout of the base weight; the factors have the same one either way.
_IGNORED = {
    *("task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
    *("inference_mode", "fan_in_fan_out", "init_lora_weights", "layers_pattern", "megatron_core", "loftq_config"),
    *("eva_config", "corda_config", "lora_ga_config", "qalora_group_size", "runtime_config", "ensure_weight_tying"),
}
_USED = {
    *("r", "lora_alpha", "lora_dropout", "use_rslora", "bias", "rank_pattern", "alpha_pattern"),
    *("target_modules", "exclude_modules", "layers_to_transform"),
}
BIASES = ("none", "lora_only", "all")


@dataclass(frozen=True)
class AdapterConfig:
    """The settings that ``LoRALinear`` can honour. ``target_modules`` is PEFT's: a regular expression or suffixes."""

    r: int = 8
    lora_alpha: float = 8
    lora_dropout: float = 0.0
    use_rslora: bool = False
    bias: str = "none"
    rank_pattern: dict[str, int] = field(default_factory=dict)
    alpha_pattern: dict[str, float] = field(default_factory=dict)
    target_modules: str | list[str] | None = None
    exclude_modules: str | list[str] | None = None
    layers_to_transform: int | list[int] | None = None

    def rank(self, name: str) -> int:
        return _first_match(self.rank_pattern, name, self.r)

    def alpha(self, name: str) -> float:
        return _first_match(self.alpha_pattern, name, self.lora_alpha)

    def targets(self, name: str) -> bool:
        """Whether PEFT would adapt the layer of this name; False where only the file can tell."""
        if self.target_modules in (None, "all-linear") or self.layers_to_transform is not None:
            return False
        return _names(self.target_modules, name) and not _names(self.exclude_modules or [], name)


def parse(values: Any) -> AdapterConfig:
    """The config in ``values``, a JSON object. Raises ValueError for what is malformed and for what is not covered."""
    if not isinstance(values, dict):
        raise ValueError(f"holds {type(values).__name__}, expected an object")
    if values.get("peft_type") != "LORA":
        raise ValueError(f'peft_type is {values.get("peft_type")!r}, expected "LORA"')
    for name, why in _REFUSED.items():
        if values.get(name):
            raise ValueError(f"{name} is set, which LoRALinear does not cover: {why}")
    unknown = [name for name in values if name not in {*_USED, *_IGNORED, *_REFUSED} and values[name]]
    if unknown:
        raise ValueError(f"holds settings of unknown meaning: {', '.join(sorted(unknown))}")
    initialisation = values.get("init_lora_weights", True)
    if initialisation not in _PLAIN_INITIALISATIONS:
        raise ValueError(
            f"init_lora_weights is {initialisation!r}: PEFT changed the base weights for this adapter, and changes "
            "them again whenever it loads it. Its save_pretrained(path, path_initial_model_for_weight_conversion=...) "
            "writes an adapter of the unchanged weights"
        )
    config = AdapterConfig(**{name: values[name] for name in _USED if values.get(name) is not None})
    _check(config)
    return config


def _check(config: AdapterConfig) -> None:
    _check_rank("r", config.r)
    _check_number("lora_alpha", config.lora_alpha)
    _check_number("lora_dropout", config.lora_dropout)
    if not 0.0 <= config.lora_dropout <= 1.0:
        raise ValueError(f"lora_dropout is {config.lora_dropout}, expected a probability in [0, 1]")
    if not isinstance(config.use_rslora, bool):
        raise ValueError(f"use_rslora is {config.use_rslora!r}, expected true or false")
    if config.bias not in BIASES:
        raise ValueError(f"bias is {config.bias!r}, expected one of {', '.join(BIASES)}")
    for name, check in (("rank_pattern", _check_rank), ("alpha_pattern", _check_number)):
        pattern = getattr(config, name)
        if not isinstance(pattern, dict):
            raise ValueError(f"{name} is {pattern!r}, expected an object")
        for key, value in pattern.items():
            _check_expression(name, key)
            check(f"{name}[{key!r}]", value)
    for name in ("target_modules", "exclude_modules"):
        value = getattr(config, name)
        if isinstance(value, str):
            _check_expression(name, value)
        elif value is not None and not (isinstance(value, list) and all(isinstance(key, str) for key in value)):
            raise ValueError(f"{name} is {value!r}, expected a string or a list of strings")


def _check_rank(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} is {value!r}, expected a positive integer")


def _check_number(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise ValueError(f"{name} is {value!r}, expected a finite number")


def _check_expression(name: str, expression: str) -> None:
    try:
        re.compile(expression)
    except re.error as error:
        raise ValueError(f"{name} holds {expression!r}, which is no regular expression: {error}") from None


def _first_match(pattern: dict, name: str, default: Any) -> Any:
    for key, value in pattern.items():
        if re.match(rf"(.*\.)?({key})$", name):
            return value
    return default


def _names(targets: str | Iterable[str], name: str) -> bool:
    if isinstance(targets, str):
        return re.fullmatch(targets, name) is not None
    return any(name == target or name.endswith("." + target) for target in targets)


# --- Writing ---


def compose(layers: dict[str, tuple[int, float, bool]], all_names: Iterable[str]) -> dict[str, Any]:
    """The fields that tell PEFT to adapt exactly these layers: name to (rank, alpha, rslora) among ``all_names``."""
    rslora = all(rslora for _, _, rslora in layers.values())
    ranks = {name: rank for name, (rank, _, _) in layers.items()}
    # One config has one rule; where layers differ in it, the scale alpha/√r of the others is written as alpha·√r / r.
    alphas = {
        name: _plain(alpha * math.sqrt(rank) if layer_rslora and not rslora else alpha)
        for name, (rank, alpha, layer_rslora) in layers.items()
    }
    rank, rank_pattern = _common(ranks)
    alpha, alpha_pattern = _common(alphas)
    return {
        "r": rank,
        "rank_pattern": rank_pattern,
        "lora_alpha": alpha,
        "alpha_pattern": alpha_pattern,
        "use_rslora": rslora,
        "target_modules": _target_modules(set(layers), all_names),
    }


def _plain(number: float) -> float | int:
    return int(number) if float(number).is_integer() else number


def _common(values: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The most frequent value, and the others by an expression that matches their layer alone."""
    every = list(values.values())
    common = max(sorted(set(every)), key=every.count)
    return common, {"^" + re.escape(name): value for name, value in values.items() if value != common}


def _target_modules(names: set[str], all_names: Iterable[str]) -> str | list[str]:
    """As PEFT's users write it: last components where these name the layers, else full names, else an expression."""
    all_names = list(all_names)
    for targets in (sorted({name.rpartition(".")[2] for name in names}), sorted(names)):
        if {name for name in all_names if _names(targets, name)} == names:
            return targets
    return "|".join(re.escape(name) for name in sorted(names))
