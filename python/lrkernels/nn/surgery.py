"""Taking one module out of a model and putting another in, with everything that hangs on it."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Iterable

from torch import nn
from torch.nn.utils import parametrize

from lrkernels.nn.selection import LinearLayer

_CALL_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
)
_STATE_HOOKS = (
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)


def wraps(new: nn.Module, old: nn.Module) -> bool:
    return any(module is old for module in new.modules())


def match(old: nn.Linear, new: nn.Module) -> None:
    """Give ``new`` the train mode and device of ``old`` and, unless it wraps ``old``, the dtype."""
    weight = old.weight
    dtype = weight.dtype if weight.is_floating_point() and not wraps(new, old) else None
    new.to(device=weight.device, dtype=dtype)
    new.train(old.training)


def swap(layer: LinearLayer, new: nn.Module) -> None:
    """Put ``new`` wherever the model holds the layer, with the layer's hooks."""
    _move_hooks(layer.module, new)
    for parent, attribute in layer.places:
        setattr(parent, attribute, new)


def _move_hooks(old: nn.Linear, new: nn.Module) -> None:
    wrapped = wraps(new, old)
    weight_is_computed_by_hook = "weight" not in old._parameters and not parametrize.is_parametrized(old)
    names = () if weight_is_computed_by_hook else _CALL_HOOKS
    if not wrapped:
        names += _STATE_HOOKS
        for hook in old._load_state_dict_pre_hooks.values():
            if getattr(hook, "with_module", False):
                hook.module = weakref.ref(new)
    if "_backward_hooks" in names and old._backward_hooks:
        new._is_full_backward_hook = old._is_full_backward_hook
    for name in names:
        hooks, own = getattr(old, name), getattr(new, name)
        # The dictionary itself moves where it can: the handles that hooks were registered with hold on to it.
        if own:
            own.update(hooks)
        else:
            setattr(new, name, hooks)
        setattr(old, name, OrderedDict())


class Ties:
    """Keeps the parameters that several modules of a model share shared when factors take the place of a weight."""

    def __init__(self, model: nn.Module, replaceable: list[LinearLayer]) -> None:
        self._users: dict[int, list[tuple[str, nn.Module]]] = {}
        for module_name, module in model.named_modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    self._users.setdefault(id(parameter), []).append((f"{module_name}.{name}", module))
        self._replaceable = {id(layer.module) for layer in replaceable}
        self._factors: dict[int, nn.Module] = {}

    def keep(self, old: nn.Linear, new: nn.Module) -> str | None:
        """Tie ``new``, which does not wrap ``old``, as ``old`` was; the reason when that is impossible."""
        weight, bias = old.weight, old.bias
        others = [(name, module) for name, module in self._users.get(id(weight), ()) if module is not old]
        alone = [name for name, module in others if id(module) not in self._replaceable]
        if alone:
            return f"its weight is tied to {', '.join(alone)}, and the replacement would untie it"
        if others:
            first = self._factors.setdefault(id(weight), new)
            for name, parameter in first._parameters.items():
                if name == "bias" or parameter is None or first is new:
                    continue
                mine = new._parameters.get(name)
                if mine is None or mine.shape != parameter.shape:
                    return f"its weight is tied to {others[0][0]}, and the replacements differ in shape"
                new._parameters[name] = parameter
        if bias is not None and len(self._users.get(id(bias), ())) > 1:
            mine = new._parameters.get("bias")
            if mine is None or mine.shape != bias.shape:
                return "its bias is tied, and the replacement would untie it"
            new._parameters["bias"] = bias
        return None


def freeze_all_but_adapters(model: nn.Module) -> None:
    adapters = {
        id(parameter)
        for module in model.modules()
        for name in getattr(type(module), "adapter_parameters", ())
        for parameter in _parameters(getattr(module, name))
    }
    for parameter in model.parameters():
        if id(parameter) not in adapters:
            parameter.requires_grad = False  # the method is refused by uninitialised parameters


def _parameters(held: nn.Parameter | nn.Module) -> Iterable[nn.Parameter]:
    return held.parameters() if isinstance(held, nn.Module) else (held,)
