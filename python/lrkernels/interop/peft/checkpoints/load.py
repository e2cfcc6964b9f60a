"""An adapter from PEFT's checkpoint into a model with lrkernels layers. Needs safetensors, not PEFT."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from lrkernels.interop.peft.checkpoints import files
from lrkernels.interop.peft.checkpoints.config import AdapterConfig
from lrkernels.interop.peft.checkpoints.kind import Kind
from lrkernels.interop.peft.checkpoints.kinds import KINDS
from lrkernels.interop.peft.checkpoints.model import PREFIX, bare, base_weight, biases, remember_bias, sizes
from lrkernels.interop.peft.conv1d import as_linear, is_conv1d
from lrkernels.nn import replace_linear, selection, surgery
from lrkernels.nn.mergeable_linear import MergeableLinear
from lrkernels.nn.save_guard import guard_save_pretrained
from lrkernels.ops._lowrank_checks import KERNEL_DTYPES


def load_adapter(model: nn.Module, path: str | os.PathLike) -> list[str]:
    """Make ``model`` act as its base with the LoRA, OFT, BOFT or HRA adapter of a PEFT checkpoint, in place.

        model = transformers.AutoModelForCausalLM.from_pretrained(base)
        lrkernels.interop.peft.load_adapter(model, folder)  # as peft.PeftModel.from_pretrained(model, folder)

    ``path`` is a folder with adapter_config.json and adapter_model.safetensors. The layers that the file names become
    :class:`lrkernels.nn.LoRALinear`, ``OFTLinear``, ``BOFTLinear`` or ``HouseholderLinear``, as ``replace_linear`` puts
    it in the place of an ``nn.Linear`` (everything but the adapters is frozen then); a Conv1D of transformers becomes
    one over an ``nn.Linear`` with a view of its weight. A layer that is one of that kind already takes over tensors and
    settings: in place, the same Parameters, where their shapes are the same, so that optimizers go on and a compiled
    model is compiled again only for a new setting; with new Parameters otherwise. Tensors are cast to the dtype of the
    layer's.

    LoRA: ``r``, ``lora_alpha``, ``rank_pattern``, ``alpha_pattern``, ``use_rslora`` and ``lora_dropout`` are honoured.
    Refused, in the name of the setting: DoRA and the other kinds of LoRA, embeddings, convolutions, lora_bias,
    initialisations that change the base weights (PiSSA, OLoRA, ...).

    OFT: block sizes, ``block_share``, the exact map or the series and its terms, ``coft`` and ``eps`` are honoured, and
    so is the series of PEFT before 0.18, by a rotation of its own: installed PEFT would compute the newer one. OFT from
    before PEFT 0.16 is refused. ``module_dropout``, which PEFT does not apply, is dropped.

    BOFT: sizes and factors are honoured, any number of factors; with ``boft_dropout`` a warning says that BOFTLinear
    has none. HRA: even ``r``; ``apply_GS`` is applied to the vectors at load.

    ``bias`` is honoured ("lora_only", ... and "all": the biases in the file overwrite the model's, and ``save_adapter``
    writes them again); ``fan_in_fan_out`` describes the base weight only; modules_to_save is refused.

    Returns the dotted names of the layers. Raises, with the model unchanged: FileNotFoundError; ValueError when a file
    is damaged, malformed, a pickle, holds something else than the config says (a missing, unknown or misshapen tensor,
    another dtype, NaN or Inf), or does not fit the model; TypeError when ``model`` is no module; ImportError without
    safetensors.
    """
    model = bare(model, "load_adapter")
    folder = Path(path)
    values = files.read_config(folder)
    try:
        kind, config = _parse(values)
    except ValueError as error:
        raise ValueError(f"load_adapter: {folder / files.CONFIG}: {error}") from None
    tensors = files.read_tensors(folder)
    try:
        plan = _Plan(model, kind, config, tensors)
        plan.apply()
    except ValueError as error:
        raise ValueError(f"load_adapter: {folder / files.WEIGHTS}: {error}") from error
    return list(plan.values)


def _parse(values: Any) -> tuple[Kind, AdapterConfig]:
    if not isinstance(values, dict):
        raise ValueError(f"holds {type(values).__name__}, expected an object")
    kinds = {kind.peft_type: kind for kind in KINDS}
    peft_type = values.get("peft_type")
    if not isinstance(peft_type, str) or peft_type not in kinds:
        raise ValueError(f"peft_type is {peft_type!r}, expected one of {', '.join(kinds)}")
    return kinds[peft_type], kinds[peft_type].parse(values)


class _Plan:
    """Everything that loading will do, checked: ``apply`` changes the model."""

    def __init__(self, model: nn.Module, kind: Kind, config: AdapterConfig, tensors: dict[str, Tensor]) -> None:
        self.model, self.kind, self.config = model, kind, config
        self.modules = dict(model.named_modules())
        found: dict[str, dict[str, Tensor]] = {}
        found_biases: dict[str, Tensor] = {}
        for key, tensor in tensors.items():
            name, part = _split(kind, key)
            _check_values(key, tensor)
            if part == "bias":
                found_biases[name] = tensor
            else:
                found.setdefault(name, {})[part] = tensor
        if not found:
            raise ValueError(f"holds no {kind.title} {kind.noun}")
        self.values = {name: self._checked(name, parts) for name, parts in found.items()}
        self._check_complete()
        self.biases = self._matched_biases(found_biases)

    def _checked(self, name: str, parts: dict[str, Tensor]) -> dict[str, Tensor]:
        """The parameters of this layer, converted."""
        kind, module = self.kind, self.modules.get(name)
        if module is None:
            close = difflib.get_close_matches(name, self.modules, n=3)
            hint = f"; close names: {', '.join(close)}" if close else ""
            raise ValueError(f"has {kind.noun} for '{name}', which the model does not have{hint}")
        if self.config.targets(name) is False:
            raise ValueError(f"has {kind.noun} for '{name}', which the config's target_modules do not name")
        is_there = isinstance(module, kind.layer_class)
        if not (is_there or isinstance(module, nn.Linear) or is_conv1d(module)):
            what = f"'{name}', which is {type(module).__name__}, expected a linear layer"
            raise ValueError(f"has {kind.noun} for {what}")
        if is_there and module.merged:
            raise ValueError(f"'{name}' is merged: unmerge() it first, or make the model anew after merge(keep=False)")
        if base_weight(module).is_meta:
            raise ValueError(f"'{name}' is on the meta device: load the model's weights first")
        for part in kind.parts:
            if part not in parts:
                raise ValueError(f"has no {kind.part_name(part)} for '{name}'")
        values = kind.convert(self.config, name, sizes(module), parts)
        for key, value in values.items():
            old = module.get_parameter(key) if is_there else None
            if old is not None and is_traceable_wrapper_subclass(old):
                raise ValueError(f"{key} of '{name}' is a {type(old).__name__}, expected an ordinary tensor")
            becomes = kind.factor_dtype(base_weight(module)) if old is None else old.dtype
            if not value.to(becomes).isfinite().all():
                raise ValueError(f"{key} of '{name}' holds values beyond {becomes}, which the layer's {kind.noun} are")
        return values

    def _check_complete(self) -> None:
        for name, module in self.modules.items():
            if name in self.values or name.endswith(".base_layer"):
                continue
            if isinstance(module, tuple(kind.layer_class for kind in KINDS)):
                what = f"a {type(module).__name__} of the model"
                raise ValueError(f"has no {self.kind.noun} for '{name}', {what}")
            if (isinstance(module, nn.Linear) or is_conv1d(module)) and self.config.targets(name):
                raise ValueError(f"has no {self.kind.noun} for '{name}', which the config's target_modules name")

    def _matched_biases(self, found: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """By its key in the file: the model's bias and what it becomes."""
        expected = biases(self.model, self.config.bias, self.values)
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
        old = {name: self.modules[name] for name in self.values}
        there = {name: module for name, module in old.items() if isinstance(module, self.kind.layer_class)}
        linear = {name: module for name, module in old.items() if isinstance(module, nn.Linear)}
        staged = {
            name: {key: value.to(module.get_parameter(key)) for key, value in self.values[name].items()}
            for name, module in there.items()
        }
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
            self.kind.configure(self.config, name, module, staged[name])
            _copy(staged[name], module)
        with torch.no_grad():
            for bias, value in self.biases.values():
                bias.copy_(value)
        for name in self.values:
            remember_bias(self.model.get_submodule(name), self.config.bias)

    def _replace_conv1d(self) -> None:
        adapted = []
        for layer in selection.linear_layers(self.model, is_conv1d):
            name = layer.names[0]
            if name in self.values:
                adapted.append(self._adapted(name, as_linear(layer.module)))
                surgery.swap(layer, adapted[-1])
        surgery.freeze_all_but_adapters(self.model)
        guard_save_pretrained(self.model, adapted)

    def _adapted(self, name: str, linear: nn.Linear) -> MergeableLinear:
        layer = self.kind.make(self.config, name, linear, self.values[name])
        _copy(self.values[name], layer)
        return layer


@torch.no_grad()
def _copy(values: dict[str, Tensor], layer: nn.Module) -> None:
    for key, value in values.items():
        layer.get_parameter(key).copy_(value)


def _split(kind: Kind, key: str) -> tuple[str, str]:
    """The layer's dotted name and the part of the kind; for a bias its own key and "bias"."""
    name = key.removeprefix(PREFIX)
    if name == key:
        raise ValueError(f"holds {key}, expected keys that begin with {PREFIX}")
    for part in (*kind.parts, *kind.optional_parts):
        if name.endswith(f".{part}"):
            return name.removesuffix(f".{part}"), part
    if (reason := kind.explain_key(key)) is not None:
        raise ValueError(f"holds {key}: {reason}")
    if name == "bias" or (name.endswith(".bias") and ".lora_" not in name):
        return name, "bias"
    raise ValueError(
        f"holds {key}, which is neither {kind.article} nor a bias (PEFT leaves embeddings and output layers out with "
        "save_embedding_layers=False)"
    )


def _check_values(key: str, tensor: Tensor) -> None:
    if tensor.dtype not in KERNEL_DTYPES:
        raise ValueError(f"{key} is {tensor.dtype}, expected one of {', '.join(map(str, KERNEL_DTYPES))}")
    if not torch.isfinite(tensor).all():
        raise ValueError(f"{key} holds NaN or Inf")
