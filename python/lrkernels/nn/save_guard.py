"""Keeps ``save_pretrained`` from writing a checkpoint that ``from_pretrained`` would load without the new layers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NoReturn

from torch import nn


def guard_save_pretrained(model: nn.Module, replacements: Iterable[nn.Module]) -> None:
    """Make ``save_pretrained`` raise on every module inside (and on) ``model`` that has it and holds a replacement.

    An attribute of the instance hides the method of the class: it goes along with deepcopy and pickle, and ``del
    module.save_pretrained`` takes it away again.
    """
    replaced = {id(module) for module in replacements}
    for module in model.modules():
        if callable(getattr(type(module), "save_pretrained", None)):
            if any(id(inner) in replaced for inner in module.modules()):
                module.save_pretrained = refuse_save_pretrained


def refuse_save_pretrained(*args: Any, **kwargs: Any) -> NoReturn:
    """Stands in the place of ``save_pretrained`` on a model with replaced layers."""
    raise RuntimeError(
        "save_pretrained: lrkernels replaced layers of this model, and from_pretrained would build the model without "
        "them and drop their parameters with only a warning. Nothing was written. Call "
        "lrkernels.interop.peft.save_adapter(model, path) for LoRALinear, OFTLinear, BOFTLinear or HouseholderLinear "
        "layers (PEFT loads it too), or "
        "torch.save(model.state_dict(), path) and load it into a model replaced in the same way. Where your own code "
        "replaces the layers again before it loads, `del model.save_pretrained` gives the method back"
    )
