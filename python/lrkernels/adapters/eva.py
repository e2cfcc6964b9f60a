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
    where that is a ``LoRA``, or one of its kind whose update is scale·up·down and nothing else (``LoRAFA``, ``DoRA``,
    ``DyLoRA``), reset first: whatever it was trained to, the layer begins as its base. Returns the ranks by layer.

    Raises ValueError when the model has no such adapter, has one with another update (``OffsetLoRA`` and ``PiSSA``,
    which take off what they start with, ``AdaLoRA``, whose gate starts at zero) or rho is below 1, and as
    ``input_statistics``; the model is as it was then.

    Paischer et al., "One initialization to rule them all: fine-tuning via explained variance adaptation", 2024.
    """
    if not rho >= 1.0:
        raise ValueError(f"eva_: rho is {rho}, expected at least 1")
    adapters = {name: (layer, a) for name, layer, a in active_adapters("eva_", model, LoRA)}
    for name, (_, adapter) in adapters.items():
        if not _is_up_down(adapter):
            raise ValueError(
                f"eva_: the adapter of '{name}' is a {type(adapter).__name__}, which cannot start with up = 0 and any "
                "down, expected a LoRA whose update is scale·up·down"
            )
    layers = {name: layer for name, (layer, _) in adapters.items()}
    for layer in layers.values():
        layer.disable()  # what later layers shall see is what the model puts out as it will start
    try:
        statistics = input_statistics(model, batches, layers, run)
    finally:
        for layer in layers.values():
            layer.enable()
    directions, shares = {}, {}
    for name, (_, adapter) in adapters.items():
        moment = statistics[name].covariance if center else statistics[name].moment
        most = min(int(rho * adapter.r), adapter.in_features, adapter.out_features)
        _, values, directions[name] = truncated_svd("eva_", moment, most)
        shares[name] = values / moment.trace().clamp(min=torch.finfo(moment.dtype).tiny)
    ranks = _redistribute(shares, sum(adapter.r for _, adapter in adapters.values()))
    for name, (layer, adapter) in adapters.items():
        if ranks[name] != adapter.r:
            adapter.resize(ranks[name])
        adapter.reset_parameters(layer.base_layer)
        with torch.no_grad():
            adapter.down.copy_(directions[name][: adapter.r])
            adapter.up.zero_()
    return ranks


def _is_up_down(adapter: LoRA) -> bool:
    """Whether nothing but its own down and up, or leading parts of them, make the update."""
    down, up, core, gate, _ = adapter.factors()
    own = down.data_ptr() == adapter.down.data_ptr() and up.data_ptr() == adapter.up.data_ptr()
    return own and core is None and gate is None


def _redistribute(shares: dict[str, Tensor], budget: int) -> dict[str, int]:
    """One rank a layer, and the rest to the largest shares; in equal ones the layer that comes first has it."""
    ranks = dict.fromkeys(shares, 1)
    others = [(-share, place, name) for place, name in enumerate(shares) for share in shares[name][1:].tolist()]
    for _, _, name in sorted(others)[: budget - len(ranks)]:
        ranks[name] += 1
    return ranks
