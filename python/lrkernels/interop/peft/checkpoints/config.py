"""What the adapter_config.json of every method of PEFT says, checked; and the reverse."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Real
from typing import Any, TypeVar

# Fields that change what is computed or what the file holds, by the reason why they cannot be honoured here.
REFUSED = {
    "modules_to_save": "it holds whole modules beside the adapter",
    "trainable_token_indices": "it holds embedding rows beside the adapter",
    "target_parameters": "an adapter of bare parameters",
    "layer_replication": "it repeats layers of the model",
}
# Of no consequence once there are tensors, or where the layers are known by the names in the file. fan_in_fan_out tells
# the layout of the base weight; an adapter has the same one either way.
IGNORED = {
    *("task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
    *("inference_mode", "fan_in_fan_out", "layers_pattern", "runtime_config", "ensure_weight_tying"),
}


@dataclass(frozen=True)
class AdapterConfig:
    """What every method has. ``target_modules`` is PEFT's: a regular expression or suffixes."""

    bias: str = "none"
    target_modules: str | list[str] | None = None
    exclude_modules: str | list[str] | None = None
    layers_to_transform: int | list[int] | None = None

    def targets(self, name: str) -> bool | None:
        """Whether PEFT would adapt the layer of this name; None where only the file can tell."""
        if self.target_modules in (None, "all-linear") or self.layers_to_transform is not None:
            return None
        return _names(self.target_modules, name) and not _names(self.exclude_modules or [], name)

    def check(self, biases: Iterable[str]) -> None:
        """Raises ValueError for a field that is malformed; a method checks its own as well."""
        if self.bias not in biases:
            raise ValueError(f"bias is {self.bias!r}, expected one of {', '.join(biases)}")
        for name in ("target_modules", "exclude_modules"):
            value = getattr(self, name)
            if isinstance(value, str):
                check_expression(name, value)
            elif value is not None and not (isinstance(value, list) and all(isinstance(key, str) for key in value)):
                raise ValueError(f"{name} is {value!r}, expected a string or a list of strings")


Config = TypeVar("Config", bound=AdapterConfig)


def read(values: dict[str, Any], cls: type[Config], layer: str, refused: dict[str, str], ignored: set[str]) -> Config:
    """The fields that ``cls`` has. Raises ValueError for those that ``layer`` does not cover and for unknown ones."""
    for name, why in refused.items():
        if values.get(name):
            raise ValueError(f"{name} is set, which {layer} does not cover: {why}")
    used = {field.name for field in dataclasses.fields(cls)}
    optional = {field.name for field in dataclasses.fields(cls) if field.default is None}
    if nulls := sorted(name for name in used - optional if name in values and values[name] is None):
        raise ValueError(f"{nulls[0]} is null")
    check_flag("fan_in_fan_out", values.get("fan_in_fan_out", False))
    unknown = [name for name in values if name not in used | ignored | refused.keys() and values[name]]
    if unknown:
        raise ValueError(f"holds settings of unknown meaning: {', '.join(sorted(unknown))}")
    return cls(**{name: values[name] for name in used if values.get(name) is not None})


def check_positive(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} is {value!r}, expected a positive integer")


def check_count(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{name} is {value!r}, expected an integer of at least 0")


def check_flag(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise ValueError(f"{name} is {value!r}, expected true or false")


def check_number(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise ValueError(f"{name} is {value!r}, expected a finite number")


def check_expression(name: str, expression: str) -> None:
    try:
        re.compile(expression)
    except re.error as error:
        raise ValueError(f"{name} holds {expression!r}, which is no regular expression: {error}") from None


def _names(targets: str | Iterable[str], name: str) -> bool:
    if isinstance(targets, str):
        return re.fullmatch(targets, name) is not None
    return any(name == target or name.endswith("." + target) for target in targets)


# --- Writing ---


def target_modules(names: set[str], all_names: Iterable[str]) -> str | list[str]:
    """As PEFT's users write it: last components where these name the layers, else full names, else an expression."""
    all_names = list(all_names)
    for targets in (sorted({name.rpartition(".")[2] for name in names}), sorted(names)):
        if {name for name in all_names if _names(targets, name)} == names:
            return targets
    return "|".join(re.escape(name) for name in sorted(names))
