"""What a model's layers see: covariances and means of their inputs over some batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class InputStatistics:
    """Of the inputs x of one layer, in float64: how many there were, E[x] ``[in]`` and two matrices ``[in, in]``.

    ``moment`` is E[x·xᵀ], about zero, which errors of outputs without a bias of their own are made of; ``covariance``
    is E[(x − E[x])·(x − E[x])ᵀ], divided by the count and not by one less.
    """

    count: int
    mean: Tensor
    covariance: Tensor

    @property
    def moment(self) -> Tensor:
        return self.covariance + torch.outer(self.mean, self.mean)


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
    dimension of an input counts as so many inputs; padding therefore counts too. Holds an [in, in] matrix a layer.

    A batch's products are float32 (float64 of float64 inputs) and about the batch's own mean, so that features whose
    mean is large beside their spread keep their covariance; batches are merged in float64.

    Raises ValueError when there is no batch, or a layer saw no input or NaN or Inf.

    Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979.
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
    """count, E[x] and Σ (x − E[x])·(x − E[x])ᵀ of all that was seen."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: Tensor | None = None
        self.scatter: Tensor | None = None

    def see(self, layer: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        x = (args[0] if args else next(iter(kwargs.values()))).detach()
        x = x.reshape(-1, x.shape[-1]).to(torch.promote_types(x.dtype, torch.float32))
        count = len(x)
        if not count:
            return
        mean = x.mean(0, dtype=torch.float64)
        centre = mean.to(x.dtype)
        with torch.autocast(x.device.type, enabled=False):
            centred = x - centre
            scatter = (centred.mT @ centred).double()
        rounded = mean - centre  # about the mean itself, and not what it was rounded to
        scatter -= count * torch.outer(rounded, rounded)
        if self.count:
            change, share = mean - self.mean, count / (self.count + count)
            scatter += self.scatter + self.count * share * torch.outer(change, change)
            mean = self.mean + share * change
        self.mean, self.scatter = mean, scatter
        self.count += count

    def statistics(self, name: str) -> InputStatistics:
        if not self.count:
            raise ValueError(f"input_statistics: {name!r} saw no input; was there a batch, and does the model call it?")
        if not torch.isfinite(self.scatter).all():
            raise ValueError(f"input_statistics: an input of {name!r} holds NaN or Inf")
        return InputStatistics(self.count, self.mean, self.scatter / self.count)
