"""EVA: LoRA that starts from the principal directions of what its layers see."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from lrkernels.adapters.adapted_linear import active_adapters
from lrkernels.adapters.lora import LoRA
from lrkernels.nn.input_statistics import input_statistics
from lrkernels.nn.truncated_svd import truncated_svd


def eva_(
    model: nn.Module,
    batches: Iterable[Any],
    rho: float = 1.0,
    center: bool = False,
    run: Callable[[Any], Any] | None = None,
) -> dict[str, int]:
    """Start every LoRA of a model from its inputs: down = the leading r right singular vectors of X, up = 0.

        replace_linear(model, partial(LoRA.wrap, r=8), target_modules="all-linear")
        ranks = eva_(model, batches, rho=2.0)  # before the optimizer is made

    No other r directions hold more of the inputs' energy ‖X·downᵀ‖², or, with ``center``, of their variance (a PCA, as
    PEFT does). ``lrkernels.nn.input_statistics`` collects E[x·xᵀ], whose vectors they are, and says what ``run`` is
    for.

    With ``rho`` above 1 the ranks are handed out anew: as many as there were altogether, to the directions that explain
    the largest share of their layer's energy, at least one and at most rho·r to a layer. The scale of a layer's update
    stays; its ``alpha`` follows r, and its factors are new parameters. Acts on the adapter that is set in each layer,
    where that is a ``LoRA`` (``LoRAFA`` and other subclasses whose up starts at zero, too). Returns the ranks by layer.

    Raises ValueError when the model has no such adapter or rho is below 1, and as ``input_statistics``.

    Paischer et al., "One initialization to rule them all: fine-tuning via explained variance adaptation", 2024.
    """
    if not rho >= 1.0:
        raise ValueError(f"eva_: rho is {rho}, expected at least 1")
    adapters = {name: (layer, a) for name, layer, a in active_adapters("eva_", model, LoRA)}
    statistics = input_statistics(model, batches, {name: layer for name, (layer, _) in adapters.items()}, run)
    directions, shares = {}, {}
    for name, (_, adapter) in adapters.items():
        moment = statistics[name].covariance if center else statistics[name].moment
        most = min(int(rho * adapter.r), adapter.in_features, adapter.out_features)
        _, values, directions[name] = truncated_svd("eva_", moment, most)
        shares[name] = values / moment.trace().clamp(min=torch.finfo(moment.dtype).tiny)
    ranks = _redistribute(shares, sum(adapter.r for _, adapter in adapters.values()))
    for name, (_, adapter) in adapters.items():
        if ranks[name] != adapter.r:
            _resize(adapter, ranks[name])
        with torch.no_grad():
            adapter.down.copy_(directions[name][: adapter.r])
            adapter.up.zero_()
    return ranks


def _redistribute(shares: dict[str, Tensor], budget: int) -> dict[str, int]:
    """One rank a layer, and the rest to the largest shares; in equal ones the layer that comes first has it."""
    ranks = dict.fromkeys(shares, 1)
    others = [(-share, place, name) for place, name in enumerate(shares) for share in shares[name][1:].tolist()]
    for _, _, name in sorted(others)[: budget - len(ranks)]:
        ranks[name] += 1
    return ranks


def _resize(adapter: LoRA, r: int) -> None:
    """Factors of another rank, not filled, and the alpha that leaves the scale."""
    adapter.alpha *= (r / adapter.r) ** (0.5 if adapter.rslora else 1.0)
    adapter.r = r
    down, up = adapter.down, adapter.up
    adapter.down = nn.Parameter(down.new_empty(r, adapter.in_features), requires_grad=down.requires_grad)
    adapter.up = nn.Parameter(up.new_empty(adapter.out_features, r), requires_grad=up.requires_grad)
