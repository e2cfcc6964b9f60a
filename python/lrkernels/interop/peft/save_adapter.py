"""A LoRA adapter from a model with ``LoRALinear`` layers into PEFT's checkpoint. Needs safetensors, not PEFT."""

from __future__ import annotations

import os
from pathlib import Path

from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from lrkernels.interop.peft import adapter_config, adapter_files
from lrkernels.interop.peft.adapted_model import FACTORS, PREFIX, bare, biases
from lrkernels.nn import LoRALinear


def save_adapter(
    model: nn.Module,
    path: str | os.PathLike,
    *,
    bias: str = "none",
    task_type: str | None = None,
    base_model_name_or_path: str | None = None,
    fan_in_fan_out: bool = False,
) -> None:
    """Write the LoRA factors of ``model`` as a PEFT checkpoint: adapter_config.json and adapter_model.safetensors.

        lrkernels.interop.peft.save_adapter(model, folder, task_type="CAUSAL_LM")
        peft.PeftModel.from_pretrained(base_model, folder)  # computes what model does

    Every :class:`lrkernels.nn.LoRALinear` of the model is written, with ranks, alphas, rslora and dropout. ``bias``
    "lora_only" adds the biases of these layers, "all" every bias of the model, for models that trained them; other
    parameters are not written. ``task_type`` and ``base_model_name_or_path`` (the model's own ``name_or_path`` unless
    given) go to the config, and so does ``fan_in_fan_out``, which PEFT wants to be told where its base model has Conv1D
    layers. Both files are written beside and put in place at the end, one after the other; an error before that leaves
    the folder as it was.

    Raises ValueError when the model has no LoRALinear, one is merged with ``keep=False`` (its factors are gone), on the
    meta device or sharded, or dropouts differ (PEFT has one for all layers); TypeError when ``model`` is no module;
    ImportError without safetensors.
    """
    model = bare(model, "save_adapter")
    if bias not in adapter_config.BIASES:
        raise ValueError(f"save_adapter: bias is {bias!r}, expected one of {', '.join(adapter_config.BIASES)}")
    layers = {name: module for name, module in model.named_modules() if isinstance(module, LoRALinear)}
    if not layers:
        raise ValueError("save_adapter: the model has no LoRALinear")
    for name, layer in layers.items():
        if not name:
            raise ValueError("save_adapter: the model is itself a LoRALinear; PEFT adapts only layers inside a model")
        if layer.merged and layer.merged_weight is None:
            raise ValueError(f"save_adapter: '{name}' is merged with keep=False, its factors are gone")
    dropouts = {name: layer.dropout for name, layer in layers.items()}
    if len(set(dropouts.values())) > 1:
        raise ValueError(f"save_adapter: dropout differs between layers, and PEFT has one for all: {dropouts}")
    tensors = {f"{name}.{kind}.weight": getattr(layer, kind) for name, layer in layers.items() for kind in FACTORS}
    tensors |= biases(model, bias, layers)
    config = adapter_config.compose(
        {name: (layer.r, layer.alpha, layer.rslora) for name, layer in layers.items()},
        [name for name, _ in model.named_modules()],
    )
    config |= {
        "peft_type": "LORA",
        "task_type": task_type,
        "base_model_name_or_path": base_model_name_or_path or getattr(model, "name_or_path", None) or None,
        "inference_mode": True,
        "lora_dropout": next(iter(dropouts.values())),
        "bias": bias,
        "fan_in_fan_out": fan_in_fan_out,
    }
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"save_adapter: {folder} is no folder")
    adapter_files.write(folder, config, {PREFIX + key: _copy(key, value) for key, value in tensors.items()})


def _copy(key: str, tensor: Tensor) -> Tensor:
    if tensor.is_meta or is_traceable_wrapper_subclass(tensor):
        kind = "on the meta device" if tensor.is_meta else f"a {type(tensor).__name__}"
        raise ValueError(f"save_adapter: {key} is {kind}, expected an ordinary tensor with its values")
    return tensor.detach().to("cpu", copy=True).contiguous()  # a copy: safetensors refuses shared storage
