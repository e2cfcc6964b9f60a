"""What a model's layers see: second moments and means of their inputs over some batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class InputStatistics:
    """Of the inputs x of one layer: how many there were, E[x·xᵀ] ``[in, in]`` and E[x] ``[in]``, in float64."""

    count: int
    moment: Tensor
    mean: Tensor

    @property
    def covariance(self) -> Tensor:
        return self.moment - torch.outer(self.mean, self.mean)


def input_statistics(
    model: nn.Module,
    batches: Iterable[Any],
    layers: Mapping[str, nn.Module],
    run: Callable[[Any], Any] | None = None,
) -> dict[str, InputStatistics]:
    """Run the model over batches, in evaluation mode and without gradients, and watch what goes into some layers.

        layers = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear)}
        statistics = input_statistics(model, batches, layers)
        LowRankLinear.from_linear(layer, 64, input_moment=statistics[name].moment)

    ``run(batch)`` calls the model; by default ``model(**batch)`` for a mapping, else ``model(batch)``. Every leading
    dimension of an input counts as so many inputs; padding therefore counts too. Products are summed in float64, a
    batch's in float32 (float64 of float64). It holds an [in, in] matrix a layer.

    Raises ValueError when there is no batch, or a layer saw no input or NaN or Inf.
    """
    if run is None:
        run = lambda batch: model(**batch) if isinstance(batch, Mapping) else model(batch)  # noqa: E731
    sums = {name: _Sums() for name in layers}
    handles = [layer.register_forward_pre_hook(sums[name].see, with_kwargs=True) for name, layer in layers.items()]
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            for batch in batches:
                run(batch)
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes:
            module.training = training
    return {name: found.statistics(name) for name, found in sums.items()}


class _Sums:
    def __init__(self) -> None:
        self.count = 0
        self.moment: Tensor | None = None
        self.mean: Tensor | None = None

    def see(self, layer: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        x = (args[0] if args else next(iter(kwargs.values()))).detach()
        x = x.reshape(-1, x.shape[-1]).to(torch.promote_types(x.dtype, torch.float32))
        with torch.autocast(x.device.type, enabled=False):
            moment, mean = (x.mT @ x).double(), x.sum(0, dtype=torch.float64)
        self.moment = moment if self.moment is None else self.moment + moment
        self.mean = mean if self.mean is None else self.mean + mean
        self.count += len(x)

    def statistics(self, name: str) -> InputStatistics:
        if not self.count:
            raise ValueError(f"input_statistics: {name!r} saw no input; was there a batch, and does the model call it?")
        if not torch.isfinite(self.moment).all():
            raise ValueError(f"input_statistics: an input of {name!r} holds NaN or Inf")
        return InputStatistics(self.count, self.moment / self.count, self.mean / self.count)
