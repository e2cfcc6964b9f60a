"""What an adapter is: parameters, an update of a frozen layer's output, and, where there is one, of its weight."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lrkernels.nn.arguments import check_dropout, check_dtype, check_linear
from lrkernels.nn.base_layer import BaseCall, factor_dtype

if TYPE_CHECKING:
    from lrkernels.adapters.adapted_linear import AdaptedLinear


class Adapter(nn.Module):
    """A trainable change to a frozen linear layer. A subclass writes three methods, of which the last is optional:

    - ``reset_parameters(base_layer)``: start where the adapted layer computes what ``base_layer`` does.
    - ``forward(x, base)``: the adapted layer's output. ``base`` is the frozen layer called with x (``BaseCall``):
      ``base.plus(x, down, up, core, gate, scale=…)`` adds a low-rank term in the op that computes the layer too,
      ``base.output`` is what it computes, ``base.weight`` and ``base.bias`` are its parameters.
      One that changes the layer's input instead says ``changes_input = True``, leaves x alone, and calls
      ``base.at(…)`` with an input made from ``base.input``; a base layer with its own forward then runs once.
    - ``delta()``: the update as an ``[out_features, in_features]`` matrix. Without it the adapter cannot be merged. One
      that does not act as weight + delta() writes ``merged(weight)`` instead.

    Parameters are made in ``__init__`` with ``self.parameter(*shape)``. An adapter never holds the base layer:
    ``AdaptedLinear`` does, and gives every adapter merging and exact unmerging, switching off, further adapters by
    name, state_dict, copying and the rest. ``SubClass.wrap(linear, …)`` makes one, so that it goes into a model by
    ``replace_linear(model, partial(SubClass.wrap, …), target_modules=…)``. ``lrkernels.testing.check_adapter(SubClass,
    …)`` checks a new one.

    Parameters are on the base weight's device and in float32 where it is half precision or quantised (small updates
    would round away), else in its dtype; ``device`` and ``dtype`` override. ``dropout`` is for the subclass to use, by
    way of ``active_dropout``, which is 0 outside training.

    Raises TypeError when ``base_layer`` is no ``nn.Linear``, ValueError for a dropout outside [0, 1].
    """

    # Whether forward makes its own input for the base layer, which then does not run on the caller's.
    changes_input = False

    def __init__(
        self,
        base_layer: nn.Linear,
        dropout: float = 0.0,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        name = type(self).__name__
        check_linear(name, "base_layer", base_layer)
        check_dropout(name, dropout)
        check_dtype(name, dtype)
        super().__init__()
        self.in_features = base_layer.in_features
        self.out_features = base_layer.out_features
        self.dropout = float(dropout)
        weight = base_layer.weight
        self._made_with = {
            "device": weight.device if device is None else torch.device(device),
            "dtype": factor_dtype(weight) if dtype is None else dtype,
        }

    def parameter(self, *shape: int, trained: bool = True) -> nn.Parameter:
        """A parameter for ``reset_parameters`` to fill; one that is not trained moves and saves as the others do."""
        return nn.Parameter(torch.empty(shape, **self._made_with), requires_grad=trained)

    @property
    def active_dropout(self) -> float:
        return self.dropout if self.training else 0.0

    def reset_parameters(self, base_layer: nn.Linear) -> None:
        raise NotImplementedError(f"{type(self).__name__} has no reset_parameters(base_layer)")

    def forward(self, x: Tensor, base: BaseCall) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} has no forward(x, base)")

    def delta(self) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} has no delta(): no one matrix is its update")

    def merged(self, weight: Tensor) -> Tensor:
        """weight + delta(), added in float32 or wider and rounded once, in the weight's dtype."""
        delta = self.delta()
        wide = torch.promote_types(torch.promote_types(weight.dtype, delta.dtype), torch.float32)
        return (weight.to(wide) + delta.to(wide)).to(weight.dtype)

    @property
    def mergeable(self) -> bool:
        cls = type(self)
        return cls.delta is not Adapter.delta or cls.merged is not Adapter.merged

    @classmethod
    def wrap(cls, base_layer: nn.Linear, *args: Any, **kwargs: Any) -> AdaptedLinear:
        """``base_layer``, frozen, under a new adapter of this class named "default"; arguments as the class takes."""
        from lrkernels.adapters.adapted_linear import AdaptedLinear  # which imports this module

        adapter = cls.made_for(base_layer, *args, **kwargs)  # first: a base that the class refuses stays as it was
        layer = AdaptedLinear(base_layer)
        layer.hold("default", adapter)
        return layer

    @classmethod
    def made_for(cls, base_layer: nn.Linear, *args: Any, **kwargs: Any) -> Adapter:
        adapter = cls(base_layer, *args, **kwargs)
        adapter.reset_parameters(base_layer)
        return adapter

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, dropout={self.dropout:g}"
