"""A LoRA adapter from PEFT's checkpoint into a model with ``LoRALinear`` layers. Needs safetensors, not PEFT."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from lrkernels.interop.peft import adapter_config, adapter_files
from lrkernels.interop.peft.adapted_model import FACTORS, PREFIX, bare, base_weight, biases, sizes
from lrkernels.interop.peft.adapter_config import AdapterConfig
from lrkernels.interop.peft.conv1d import as_linear, is_conv1d
from lrkernels.nn import LoRALinear, replace_linear, selection, surgery
from lrkernels.nn.save_guard import guard_save_pretrained
from lrkernels.ops._lowrank_checks import KERNEL_DTYPES


def load_adapter(model: nn.Module, path: str | os.PathLike) -> list[str]:
    """Make ``model`` act as its base with the LoRA adapter of a PEFT checkpoint, in place.

        model = transformers.AutoModelForCausalLM.from_pretrained(base)
        lrkernels.interop.peft.load_adapter(model, folder)  # as peft.PeftModel.from_pretrained(model, folder)

    ``path`` is a folder with adapter_config.json and adapter_model.safetensors. The layers that the file names become
    :class:`lrkernels.nn.LoRALinear`, as ``replace_linear`` puts it in the place of an ``nn.Linear`` (everything but the
    factors is frozen then); a Conv1D of transformers becomes one over an ``nn.Linear`` with a view of its weight. A
    layer that is a LoRALinear already takes over factors, alpha, rslora and dropout: in place, the same Parameters,
    where the rank is the same, so that optimizers go on and a compiled model is compiled again only for a new scale;
    with new Parameters otherwise. Factors are cast to the dtype of the layer's.

    ``r``, ``lora_alpha``, ``rank_pattern``, ``alpha_pattern``, ``use_rslora``, ``lora_dropout`` and ``bias`` are
    honoured ("lora_only" and "all": the biases in the file overwrite the model's); ``fan_in_fan_out`` describes the
    base weight only. Refused, in the name of the setting: DoRA and the other kinds of LoRA, embeddings, convolutions,
    lora_bias, modules_to_save, initialisations that change the base weights (PiSSA, OLoRA, ...).

    Returns the dotted names of the layers. Raises, with the model unchanged: FileNotFoundError; ValueError when a file
    is damaged, malformed, a pickle, holds something else than the config says (a missing, unknown or misshapen tensor,
    another dtype, NaN or Inf), or does not fit the model; TypeError when ``model`` is no module; ImportError without
    safetensors.
    """
    model = bare(model, "load_adapter")
    folder = Path(path)
    values = adapter_files.read_config(folder)
    try:
        config = adapter_config.parse(values)
    except ValueError as error:
        raise ValueError(f"load_adapter: {folder / adapter_files.CONFIG}: {error}") from None
    tensors = adapter_files.read_tensors(folder)
    try:
        plan = _Plan(model, config, tensors)
        plan.apply()
    except ValueError as error:
        raise ValueError(f"load_adapter: {folder / adapter_files.WEIGHTS}: {error}") from error
    return list(plan.factors)


class _Plan:
    """Everything that loading will do, checked: ``apply`` changes the model."""

    def __init__(self, model: nn.Module, config: AdapterConfig, tensors: dict[str, Tensor]) -> None:
        self.model, self.config = model, config
        self.factors: dict[str, dict[str, Tensor]] = {}
        found: dict[str, Tensor] = {}
        for key, tensor in tensors.items():
            _check_values(key, tensor)
            name, kind = _split(key)
            if kind in FACTORS:
                if tensor.dim() > 2:
                    raise ValueError(f"{key} has {tensor.dim()} dimensions: LoRA of convolutions is not covered")
                self.factors.setdefault(name, {})[kind] = tensor
            else:
                found[name] = tensor
        if not self.factors:
            raise ValueError("holds no LoRA factors")
        self.modules = dict(model.named_modules())
        for name, factors in self.factors.items():
            self._check_layer(name, factors)
        self._check_complete()
        self.biases = self._matched_biases(found)

    def _check_layer(self, name: str, factors: dict[str, Tensor]) -> None:
        module = self.modules.get(name)
        if module is None:
            close = difflib.get_close_matches(name, self.modules, n=3)
            hint = f"; close names: {', '.join(close)}" if close else ""
            raise ValueError(f"has factors for '{name}', which the model does not have{hint}")
        if not (isinstance(module, (nn.Linear, LoRALinear)) or is_conv1d(module)):
            raise ValueError(f"has factors for '{name}', which is {type(module).__name__}, expected a linear layer")
        if isinstance(module, LoRALinear) and module.merged:
            raise ValueError(f"'{name}' is merged: unmerge() it first, or make the model anew after merge(keep=False)")
        if isinstance(module, LoRALinear) and is_traceable_wrapper_subclass(module.lora_A):
            raise ValueError(f"lora_A of '{name}' is a {type(module.lora_A).__name__}, expected an ordinary tensor")
        if base_weight(module).is_meta:
            raise ValueError(f"'{name}' is on the meta device: load the model's weights first")
        rank, (width, height) = self.config.rank(name), sizes(module)
        if rank > min(width, height):
            raise ValueError(f"'{name}' has rank {rank}, and LoRALinear takes at most {min(width, height)} there")
        for kind, shape in (("lora_A", (rank, width)), ("lora_B", (height, rank))):
            if kind not in factors:
                raise ValueError(f"has no {kind} for '{name}'")
            if tuple(factors[kind].shape) != shape:
                raise ValueError(
                    f"{kind} of '{name}' is {tuple(factors[kind].shape)}, expected {shape}: the config's rank is "
                    f"{rank}, the layer maps {width} features to {height}"
                )
            becomes = module.lora_A.dtype if isinstance(module, LoRALinear) else base_weight(module).dtype
            if not factors[kind].to(becomes).isfinite().all():
                raise ValueError(f"{kind} of '{name}' holds values beyond {becomes}, which the layer's factors are")

    def _check_complete(self) -> None:
        for name, module in self.modules.items():
            if name in self.factors or name.endswith(".base_layer"):
                continue
            if isinstance(module, LoRALinear):
                raise ValueError(f"has no factors for '{name}', a LoRALinear of the model")
            if (isinstance(module, nn.Linear) or is_conv1d(module)) and self.config.targets(name):
                raise ValueError(f"has no factors for '{name}', which the config's target_modules name")

    def _matched_biases(self, found: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """By its key in the file: the model's bias and what it becomes."""
        expected = biases(self.model, self.config.bias, self.factors)
        if unknown := sorted(found.keys() - expected.keys()):
            raise ValueError(f"holds {unknown[0]}, which the model does not have or bias '{self.config.bias}' excludes")
        if missing := sorted(expected.keys() - found.keys()):
            raise ValueError(f"has no {missing[0]}, and bias is '{self.config.bias}'")
        for key, bias in expected.items():
            if bias.is_meta or bias.shape != found[key].shape:
                raise ValueError(
                    f"{key} is {tuple(found[key].shape)}, the model's {tuple(bias.shape)} on {bias.device}"
                )
        return {key: (bias, found[key].to(bias)) for key, bias in expected.items()}

    def apply(self) -> None:
        old = {name: self.modules[name] for name in self.factors}
        there = {name: module for name, module in old.items() if isinstance(module, LoRALinear)}
        linear = {name: module for name, module in old.items() if isinstance(module, nn.Linear)}
        staged = {name: self._staged(name, module.lora_A, module.lora_B) for name, module in there.items()}
        if linear:  # the only step that may still refuse
            names = {id(module): name for name, module in linear.items()}
            replace_linear(
                self.model,
                lambda module: self._adapted(names[id(module)], module),
                target_modules=list(linear),
                filter_fn=lambda module, _: id(module) in names,
            )
        if len(there) + len(linear) < len(old):
            self._replace_conv1d()
        for name, module in there.items():
            _take_over(module, staged[name], self._settings(name))
        with torch.no_grad():
            for bias, value in self.biases.values():
                bias.copy_(value)

    def _replace_conv1d(self) -> None:
        adapted = []
        for layer in selection.linear_layers(self.model, is_conv1d):
            name = layer.names[0]
            if name in self.factors:
                adapted.append(self._adapted(name, as_linear(layer.module)))
                surgery.swap(layer, adapted[-1])
        surgery.freeze_all_but_adapters(self.model)
        guard_save_pretrained(self.model, adapted)

    def _settings(self, name: str) -> dict[str, Any]:
        config = self.config
        return dict(
            r=config.rank(name), alpha=config.alpha(name), dropout=config.lora_dropout, rslora=config.use_rslora
        )  # fmt: skip

    def _staged(self, name: str, *like: Tensor) -> list[Tensor]:
        return [self.factors[name][kind].to(tensor) for kind, tensor in zip(FACTORS, like, strict=True)]

    def _adapted(self, name: str, linear: nn.Linear) -> LoRALinear:
        layer = LoRALinear(linear, **self._settings(name))
        with torch.no_grad():
            layer.lora_A.copy_(self.factors[name]["lora_A"])
            layer.lora_B.copy_(self.factors[name]["lora_B"])
        return layer


def _take_over(layer: LoRALinear, factors: list[Tensor], settings: dict[str, Any]) -> None:
    layer.r, layer.alpha = settings["r"], float(settings["alpha"])
    layer.dropout, layer.rslora = float(settings["dropout"]), settings["rslora"]
    with torch.no_grad():
        for kind, value in zip(FACTORS, factors, strict=True):
            parameter = getattr(layer, kind)
            if parameter.shape == value.shape:
                parameter.copy_(value)
            else:
                setattr(layer, kind, nn.Parameter(value, requires_grad=parameter.requires_grad))


def _split(key: str) -> tuple[str, str]:
    """The layer's dotted name and lora_A or lora_B; for a bias its own key and "bias"."""
    name = key.removeprefix(PREFIX)
    if name == key:
        raise ValueError(f"holds {key}, expected keys that begin with {PREFIX}")
    for kind in FACTORS:
        if name.endswith(f".{kind}.weight"):
            return name.removesuffix(f".{kind}.weight"), kind
    if "lora_embedding_" in name:
        raise ValueError(f"holds {key}: LoRA of embeddings is not covered")
    if name == "bias" or (name.endswith(".bias") and ".lora_" not in name):
        return name, "bias"
    raise ValueError(
        f"holds {key}, which is neither a LoRA factor nor a bias (PEFT leaves embeddings and output layers out with "
        "save_embedding_layers=False)"
    )


def _check_values(key: str, tensor: Tensor) -> None:
    if tensor.dtype not in KERNEL_DTYPES:
        raise ValueError(f"{key} is {tensor.dtype}, expected one of {', '.join(map(str, KERNEL_DTYPES))}")
    if not torch.isfinite(tensor).all():
        raise ValueError(f"{key} holds NaN or Inf")
