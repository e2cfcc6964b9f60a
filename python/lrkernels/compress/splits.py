"""ALDS: into how many groups each layer is split, and to which rank, so that the worst layer is as good as can be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


@torch.no_grad()
def splits_within(
    layers: Mapping[str, nn.Linear], numbers: int, groups: Sequence[int] = (1, 2, 4)
) -> dict[str, tuple[int, int] | None]:
    """(groups, rank) of every layer, with the least largest relative error that ``numbers`` numbers allow.

        compress(model, splits_within(linear_layers(model), 500_000))

    A layer of k groups and rank j has rank·(in + groups·out) numbers and the relative error (Σ of its groups' tails)^½
    / ‖W‖_F; of the choices that reach an error the smallest is taken, which is the weight itself (None) where no other
    is smaller. The error that all layers then reach is the least of those that fit. Spectra are LAPACK's. Biases do not
    count; ``groups`` that do not divide a layer's input features are passed over.

    Raises ValueError when not even the smallest choices fit. ``SplitLowRankLinear`` names the paper, whose relative
    error is that of the spectral norm.
    """
    choices = {name: _choices(layer, groups) for name, layer in layers.items()}
    least = sum(frontier[-1][1] for frontier in choices.values())
    if numbers < least:
        raise ValueError(f"splits_within: numbers is {numbers}, expected at least {least}, the smallest choices")
    errors = sorted({error for frontier in choices.values() for error, _, _ in frontier})
    low, high = 0, len(errors) - 1  # the last error fits
    while low < high:
        middle = (low + high) // 2
        size = sum(_reaching(frontier, errors[middle])[1] for frontier in choices.values())
        low, high = (low, middle) if size <= numbers else (middle + 1, high)
    return {name: _reaching(frontier, errors[low])[2] for name, frontier in choices.items()}


Choice = tuple[float, int, "tuple[int, int] | None"]


def _choices(layer: nn.Linear, groups: Sequence[int]) -> list[Choice]:
    """(relative error, numbers, choice), errors rising and numbers falling: what nothing else beats in both."""
    weight = layer.weight.to(torch.promote_types(layer.weight.dtype, torch.float32))
    rows, cols = weight.shape
    found: list[Choice] = [(0.0, rows * cols, None)]
    for count in groups:
        if cols % count == 0:
            tails = _tails(weight.unflatten(1, (count, -1)).transpose(0, 1))
            found += [(e, r * (cols + count * rows), (count, r)) for r, e in enumerate(tails.tolist(), 1)]
    frontier: list[Choice] = []
    for choice in sorted(found, key=lambda c: (c[0], c[1])):
        if not frontier or choice[1] < frontier[-1][1]:
            frontier.append(choice)
    return frontier


def _tails(blocks: Tensor) -> Tensor:
    """The relative error of the blocks at rank 1, 2, …, together."""
    energies = torch.linalg.svdvals(blocks).double().square().sum(0)
    kept = energies.cumsum(0)
    return ((kept[-1] - kept).clamp(min=0.0) / kept[-1].clamp(min=torch.finfo(torch.float64).tiny)).sqrt()


def _reaching(frontier: list[Choice], error: float) -> Choice:
    """The smallest choice whose error is no larger."""
    return [choice for choice in frontier if choice[0] <= error][-1]
