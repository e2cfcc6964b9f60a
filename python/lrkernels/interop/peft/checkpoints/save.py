"""An adapter from a model with lrkernels layers into PEFT's checkpoint. Needs safetensors, not PEFT."""

from __future__ import annotations

import os
from pathlib import Path

from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from lrkernels.interop.peft.checkpoints import files
from lrkernels.interop.peft.checkpoints.kind import Kind
from lrkernels.interop.peft.checkpoints.kinds import KINDS
from lrkernels.interop.peft.checkpoints.model import PREFIX, bare, biases, remembered_biases
from lrkernels.nn.mergeable_linear import MergeableLinear


def save_adapter(
    model: nn.Module,
    path: str | os.PathLike,
    *,
    bias: str | None = None,
    task_type: str | None = None,
    base_model_name_or_path: str | None = None,
    fan_in_fan_out: bool = False,
) -> None:
    """Write the adapters of ``model`` as a PEFT checkpoint: adapter_config.json and adapter_model.safetensors.

        lrkernels.interop.peft.save_adapter(model, folder, task_type="CAUSAL_LM")
        peft.PeftModel.from_pretrained(base_model, folder)  # computes what model does

    Every :class:`lrkernels.nn.LoRALinear` of the model is written, with ranks, alphas, rslora and dropout, or every
    ``OFTLinear``, ``BOFTLinear`` or ``HouseholderLinear``, of which PEFT has one setting for all layers. ``bias``
    "lora_only" ("oft_only", ...) adds the biases of these layers, "all" every bias of the model, for models that
    trained them; "none" writes none. When it is not given, it is what the adapter was loaded with by ``load_adapter``,
    else "none". Other parameters are not written. ``task_type`` and ``base_model_name_or_path`` (the model's own
    ``name_or_path`` unless given) go to the config, and so does ``fan_in_fan_out``, which PEFT wants to be told where
    its base model has Conv1D layers, as only LoRA may. Both files are written beside and put in place at the end, one
    after the other; an error before that leaves the folder as it was.

    PEFT makes more than one factor of BOFT only where it can build its CUDA extension. A series of OFT that came from
    PEFT before 0.18 is written as such: ``load_adapter`` knows it, installed PEFT warns and computes the newer one.

    Raises ValueError when the model has no such layer, layers of two methods, one that is merged with ``keep=False``
    (its tensors are gone), on the meta device or sharded, or settings differ that PEFT has one of; TypeError when
    ``model`` is no module; ImportError without safetensors.
    """
    model = bare(model, "save_adapter")
    kind, layers = _adapted(model)
    if bias is None:
        loaded = remembered_biases(layers.values()) & set(kind.biases) or {"none"}
        if len(loaded) > 1:
            raise ValueError(f"save_adapter: layers were loaded with bias {' and '.join(sorted(loaded))}; say which")
        (bias,) = loaded
    if bias not in kind.biases:
        raise ValueError(f"save_adapter: bias is {bias!r}, expected one of {', '.join(kind.biases)}")
    if fan_in_fan_out and not kind.takes_conv1d:
        raise ValueError(f"save_adapter: fan_in_fan_out is set, and PEFT's {kind.title} adapts no Conv1D")
    tensors = {
        f"{name}.{part}": _copy(f"{name}.{part}", tensor)
        for name, layer in layers.items()
        for part, tensor in kind.tensors(layer).items()
    }
    tensors |= {key: _copy(key, value) for key, value in biases(model, bias, layers).items()}
    try:
        config = kind.compose(layers, [name for name, _ in model.named_modules()])
    except ValueError as error:
        raise ValueError(f"save_adapter: {error}") from None
    config |= {
        "peft_type": kind.peft_type,
        "task_type": task_type,
        "base_model_name_or_path": base_model_name_or_path or getattr(model, "name_or_path", None) or None,
        "inference_mode": True,
        "bias": bias,
    } | ({"fan_in_fan_out": fan_in_fan_out} if kind.takes_conv1d else {})
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"save_adapter: {folder} is no folder")
    files.write(folder, config, {PREFIX + key: tensor for key, tensor in tensors.items()})


def _adapted(model: nn.Module) -> tuple[Kind, dict[str, MergeableLinear]]:
    """The one kind of adapter in the model, and its layers by name, checked."""
    found = {
        kind: {name: module for name, module in model.named_modules() if isinstance(module, kind.layer_class)}
        for kind in KINDS
    }
    kinds = [kind for kind, layers in found.items() if layers]
    if not kinds:
        names = [kind.layer_class.__name__ for kind in KINDS]
        raise ValueError(f"save_adapter: the model has no {', '.join(names[:-1])} or {names[-1]}")
    if len(kinds) > 1:
        names = " and ".join(kind.layer_class.__name__ for kind in kinds)
        raise ValueError(f"save_adapter: the model has {names} layers, and one checkpoint of PEFT holds one method")
    kind, layers = kinds[0], found[kinds[0]]
    for name, layer in layers.items():
        if not name:
            what = f"the model is itself a {type(layer).__name__}"
            raise ValueError(f"save_adapter: {what}; PEFT adapts only layers inside a model")
        if layer.merged and layer.merged_weight is None:
            raise ValueError(f"save_adapter: '{name}' is merged with keep=False, its {kind.noun} are gone")
    return kind, layers


def _copy(key: str, tensor: Tensor) -> Tensor:
    if tensor.is_meta or is_traceable_wrapper_subclass(tensor):
        kind = "on the meta device" if tensor.is_meta else f"a {type(tensor).__name__}"
        raise ValueError(f"save_adapter: {key} is {kind}, expected an ordinary tensor with its values")
    return tensor.detach().to("cpu", copy=True).contiguous()  # a copy: safetensors refuses shared storage
