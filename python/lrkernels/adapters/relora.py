"""ReLoRA: merge the update into the weight every so often and start another."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lrkernels.adapters.adapted_linear import adapted_layers


def restart(model: nn.Module, optimizer: torch.optim.Optimizer | None = None, prune: float = 0.99) -> None:
    """Merge the adapter that is set in every adapted layer into its weight, reset it, and forget its optimizer state.

        for step, batch in enumerate(data):
            …
            if step % 2000 == 1999:
                restart(model, optimizer)

    What the model computes does not change, and k restarts of rank r reach an update of rank k·r. Of every state tensor
    of the adapters' parameters (Adam's moments, also those of ``lrkernels.optim``'s projected gradients) the ``prune``
    share of smallest magnitude is set to zero: left alone it would steer the new factors where the old ones went. The
    paper also warms the learning rate up again.

    Raises ValueError when the model has no adapted layer or ``prune`` is outside [0, 1], and as
    ``AdaptedLinear.restart``; layers before the one that raised have restarted.

    Lialin, Shivagunde, Muckatira and Rumshisky, "ReLoRA: high-rank training through low-rank updates", ICLR 2024.
    """
    if not 0.0 <= prune <= 1.0:
        raise ValueError(f"restart: prune is {prune}, expected a share in [0, 1]")
    layers = [layer for layer in adapted_layers(model) if layer.adapter is not None]
    if not layers:
        raise ValueError("restart: the model has no adapted layer with an adapter set")
    for layer in layers:
        layer.restart()
    if optimizer is not None:
        for layer in layers:
            for parameter in layer.adapter.parameters():
                for moment in _moments(optimizer, parameter):
                    _prune_smallest(moment, prune)


def _moments(optimizer: torch.optim.Optimizer, parameter: Tensor) -> list[Tensor]:
    """Of lrkernels.optim the optimizer says them: they may be those of projected gradients, and not all tensors of a
    parameter's shape are moments."""
    if hasattr(optimizer, "moments"):
        return optimizer.moments(parameter)
    state = optimizer.state.get(parameter, {}).values()
    return [value for value in state if isinstance(value, Tensor) and value.shape == parameter.shape]


@torch.no_grad()
def _prune_smallest(state: Tensor, share: float) -> None:
    kept = state.numel() - round(share * state.numel())
    largest = state.abs().flatten().topk(kept).indices
    mask = torch.zeros(state.numel(), dtype=torch.bool, device=state.device)
    mask[largest] = True
    state.masked_fill_(~mask.view_as(state), 0.0)
