"""The layer that an adapter goes into a model as: a frozen base, its adapters by name, and which of them acts."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from lrkernels.adapters.adapter import Adapter
from lrkernels.nn.arguments import check_linear
from lrkernels.nn.base_layer import BaseCall
from lrkernels.nn.mergeable_linear import MergeableLinear


class AdaptedLinear(MergeableLinear):
    """A frozen ``nn.Linear`` with adapters, of which at most one acts.

        y = adapter(x, base_layer);    base_layer(x) while disabled or when none is set

    ``add_adapter(name, SubClass, …)`` makes an adapter, and the first one acts; ``set_adapter(name)`` chooses another,
    ``set_adapter(None)`` none; ``delete_adapter(name)`` removes one; ``disable()`` and ``enable()`` switch whichever is
    set off and on. ``merge``, ``unmerge``, ``weight``, ``to_linear`` are of the adapter that is set and work as
    ``MergeableLinear`` says; ``merge(keep=False)`` resets that adapter, and ``restart()`` does so and trains on. An
    adapter that is merged can be disabled (the base weight is still there, unless ``keep=False`` gave it up), but not
    changed for another.

    ``state_dict`` keys: ``base_layer.…`` and ``adapters.NAME.…``, of all adapters and always unmerged; which one is set
    is not part of it. Loading needs the same adapters to be there.

    The base layer may be any ``nn.Linear``: a subclass, a parametrized or hooked layer runs its own forward. A model's
    layers of this kind: ``adapted_layers(model)``.
    """

    # replace_linear leaves the requires_grad of these as they are and freezes the rest of the model.
    adapter_parameters = ("adapters",)

    def __init__(self, base_layer: nn.Linear) -> None:
        check_linear("AdaptedLinear", "base_layer", base_layer)
        super().__init__(base_layer)
        self.adapters = nn.ModuleDict()
        self.active: str | None = None
        self.enabled = True

    @property
    def adapter(self) -> Adapter | None:
        """The adapter that is set."""
        return None if self.active is None else self.adapters[self.active]

    @property
    def mergeable(self) -> bool:
        return self.adapter is None or self.adapter.mergeable

    def add_adapter(self, name: str, adapter_class: type[Adapter], *args: Any, **kwargs: Any) -> None:
        """Make ``adapter_class(base_layer, …)`` under a name; the first adapter of a layer is set as well.

        Raises ValueError for a name that is taken, empty, or that ``nn.ModuleDict`` cannot hold, TypeError when
        ``adapter_class`` is no subclass of ``Adapter``, and what the class raises; nothing is changed then.
        """
        if not (isinstance(adapter_class, type) and issubclass(adapter_class, Adapter)):
            raise TypeError(f"AdaptedLinear.add_adapter: {adapter_class!r}, expected a subclass of Adapter")
        self._check_free(name)
        self.hold(name, adapter_class.made_for(self.base_layer, *args, **kwargs))

    def hold(self, name: str, adapter: Adapter) -> None:
        """Take an adapter that was made for this base layer."""
        self._check_free(name)
        self.adapters[name] = adapter.train(self.training)
        if self.active is None:
            self.active = name

    def set_adapter(self, name: str | None) -> None:
        """Let another adapter act, or none. Raises ValueError for an unknown name, RuntimeError while merged."""
        if name is not None:
            self._check_known("set_adapter", name)
        if self.merged and name != self.active:
            raise RuntimeError(f"AdaptedLinear.set_adapter: {self.active!r} is merged; call unmerge() first")
        self.active = name

    def delete_adapter(self, name: str) -> None:
        """Remove an adapter; when it was set, none is. Raises as ``set_adapter``."""
        self._check_known("delete_adapter", name)
        if self.active == name:
            self.set_adapter(None)
        del self.adapters[name]

    def disable(self) -> None:
        """Compute what the base layer computes. Raises RuntimeError when ``merge(keep=False)`` gave that up."""
        if self._folded:
            raise RuntimeError("AdaptedLinear.disable: merged with keep=False, so the unmerged weight is gone")
        self.enabled = False

    def enable(self) -> None:
        self.enabled = True

    def reset_parameters(self) -> None:
        """Restart every adapter; what ``to_empty()`` on a meta module needs next, once the base weight is there."""
        if self.merged:
            raise RuntimeError("AdaptedLinear.reset_parameters: merged; call unmerge() first")
        for adapter in self.adapters.values():
            adapter.reset_parameters(self.base_layer)

    def merge(self, *, keep: bool = True) -> None:
        if not keep and not self.enabled:
            raise RuntimeError("AdaptedLinear.merge: the adapters are disabled; call enable() first")
        super().merge(keep=keep)

    def restart(self) -> None:
        """Make the merged weight the base weight, reset the adapter, and train on: what ReLoRA does every few steps.

        The layer computes what it did, and the adapter's next update adds to the last. Raises as ``merge`` does.
        """
        self.merge(keep=False)
        self._folded = False

    @property
    def weight(self) -> Tensor:
        return super().weight if self._acts else self.base_layer.weight

    def to_linear(self) -> nn.Linear:
        with torch.inference_mode(False):
            return super().to_linear() if self._acts else copy.deepcopy(self.base_layer)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if not self._acts:
            return self.base_layer(x, *args, **kwargs)
        return super().forward(x, *args, **kwargs)

    @property
    def _acts(self) -> bool:
        return self.enabled and self.active is not None

    def _updated(self, base: BaseCall) -> Tensor:
        adapter = self.adapters[self.active]
        return adapter(base.input if adapter.changes_input else base.x, base)

    def _merged(self) -> Tensor:
        if self.adapter is None:
            raise RuntimeError("AdaptedLinear.merge: no adapter is set")
        if not self.mergeable:
            kind = type(self.adapter).__name__
            raise TypeError(f"AdaptedLinear.merge: {kind} has neither delta() nor merged(weight), so it has no matrix")
        return super()._merged()

    def _merged_with(self, weight: Tensor) -> Tensor:
        return self.adapter.merged(weight)

    def _clear_update(self) -> None:
        with torch.inference_mode(any(p.is_inference() for p in self.adapter.parameters())):
            self.adapter.reset_parameters(self.base_layer)

    def _check_free(self, name: str) -> None:
        if name in self.adapters:
            raise ValueError(f"AdaptedLinear.add_adapter: there is an adapter named {name!r} already")
        if not isinstance(name, str) or not name or "." in name or hasattr(self.adapters, name):
            raise ValueError(f"AdaptedLinear.add_adapter: {name!r} cannot be the name of a module in an nn.ModuleDict")
        if self._folded:
            raise RuntimeError("AdaptedLinear.add_adapter: merged with keep=False; call restart() instead of merge()")

    def _check_known(self, method: str, name: str) -> None:
        if name not in self.adapters:
            known = ", ".join(self.adapters) or "none"
            raise ValueError(f"AdaptedLinear.{method}: no adapter is named {name!r}; there are: {known}")

    def extra_repr(self) -> str:
        sizes = f"in_features={self.in_features}, out_features={self.out_features}"
        kind = "" if self.active is None else f" ({type(self.adapter).__name__})"
        return f"{sizes}, active={self.active!r}{kind}, enabled={self.enabled}, merged={self.merged}"


def adapted_layers(model: nn.Module) -> Iterator[AdaptedLinear]:
    """Every ``AdaptedLinear`` of a model, to set, disable or merge the adapters of all."""
    return (module for module in model.modules() if isinstance(module, AdaptedLinear))


def active_adapters(function: str, model: nn.Module, kind: type[Adapter]) -> list[tuple[str, AdaptedLinear, Adapter]]:
    """The name of every unmerged adapted layer whose adapter is of a kind, the layer and the adapter that is set.

    ``function`` stands in the ValueError that a model without one raises.
    """
    found = [
        (name, layer, layer.adapter)
        for name, layer in model.named_modules()
        if isinstance(layer, AdaptedLinear) and isinstance(layer.adapter, kind)
    ]
    if not found:
        raise ValueError(f"{function}: the model has no adapted layer whose adapter is a {kind.__name__}")
    for name, layer, _ in found:
        if layer.merged or not layer.enabled:
            raise ValueError(
                f"{function}: '{name}' is {'merged' if layer.merged else 'disabled'}, expected an active one"
            )
    return found
