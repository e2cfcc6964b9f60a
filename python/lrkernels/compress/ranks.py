"""Which rank each layer of a model shall have: by a threshold, or as many as a budget of numbers allows."""

from __future__ import annotations

import heapq
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lrkernels.nn.input_statistics import InputStatistics
from lrkernels.nn.weighted_svd import square_root


@torch.no_grad()
def singular_values(
    layers: Mapping[str, nn.Linear], statistics: Mapping[str, InputStatistics] | None = None
) -> dict[str, Tensor]:
    """All singular values of every weight, descending, in float64; with statistics, of W·R with R·Rᵀ = E[x·xᵀ].

    The tail of the latter is the error of the outputs, so that layers can be compared by what they see. By LAPACK: a
    threshold needs whole spectra. Raises ValueError where the statistics lack a layer.
    """
    if statistics is not None and (missing := [name for name in layers if name not in statistics]):
        raise ValueError(f"singular_values: statistics lacks {', '.join(missing[:5])}")
    found = {}
    for name, layer in layers.items():
        weight = layer.weight.to(torch.promote_types(layer.weight.dtype, torch.float32))
        if statistics is not None:
            weight = weight @ square_root(statistics[name].moment.to(weight.device)).to(weight)
        found[name] = torch.linalg.svdvals(weight).double()
    return found


def ranks_above(spectra: Mapping[str, Tensor], threshold: float) -> dict[str, int]:
    """The number of singular values of every layer that reach ``threshold`` times its largest, at least one.

    One threshold for a whole model gives layers ranks by how fast their spectra fall (WeLore). Where a spectrum falls
    slowly, factors of the rank may have more numbers than the weight; ``compress`` leaves such a layer as it is.

    Jaiswal et al., "From GaLore to WeLore: how low-rank weights non-uniformly emerge from low-rank gradients", 2024.
    """
    if not 0.0 <= threshold <= 1.0:
        raise ValueError(f"ranks_above: threshold is {threshold}, expected a share in [0, 1]")
    return {name: max(1, int((values >= threshold * values[0]).sum())) for name, values in spectra.items()}


def ranks_within(
    layers: Mapping[str, nn.Linear], spectra: Mapping[str, Tensor], numbers: int, relative: bool = True
) -> dict[str, int | None]:
    """Ranks whose factors have at most ``numbers`` numbers altogether, with little of Σσ² left over; None means dense.

    The next rank goes to the layer where it removes most of Σσ² a number (σ² / (in + out)), until none fits. A layer
    where the next rank would cost more than the weight itself keeps its weight, if that fits, at an error of zero. All
    layers have rank 1 at least. For layers of one shape and no dense one it is the optimum. Biases do not count.

    With ``relative`` every layer's whole Σσ² counts as one, for layers see inputs of different size and what their
    errors do further on is not known; without it, σ² of all layers are compared as they are.

    The first stage of MLoRQ, without its second choice of bits. Gul, Peretz and Habi, "MLoRQ: bridging low-rank and
    quantization for transformer compression", 2025.
    """
    if relative:
        tiny = torch.finfo(torch.float64).tiny
        spectra = {name: values / values.norm().clamp(min=tiny) for name, values in spectra.items()}
    sizes = {name: (layer.in_features, layer.out_features) for name, layer in layers.items()}
    least = sum(map(sum, sizes.values()))
    if numbers < least:
        raise ValueError(f"ranks_within: numbers is {numbers}, expected at least {least}, a rank of 1 in every layer")
    ranks: dict[str, int | None] = dict.fromkeys(layers, 1)
    left = numbers - least
    offers = []
    for place, name in enumerate(layers):
        _offer(offers, place, name, sizes[name], spectra[name], 1)
    while offers:
        _, place, name, cost, rank = heapq.heappop(offers)
        if cost <= left:  # a layer whose offer does not fit makes no other
            left -= cost
            ranks[name] = rank
            if rank is not None:
                _offer(offers, place, name, sizes[name], spectra[name], rank)
    return ranks


def _offer(offers: list, place: int, name: str, size: tuple[int, int], values: Tensor, rank: int) -> None:
    """What the layer would do with more: one rank, or the whole weight where that is no dearer."""
    factors, dense = sum(size), size[0] * size[1]
    if (rank + 1) * factors < dense:
        cost, gain, then = factors, float(values[rank] ** 2), rank + 1
    else:
        cost, gain, then = max(dense - rank * factors, 0), float((values[rank:] ** 2).sum()), None
    heapq.heappush(offers, (-gain / max(cost, 1), place, name, cost, then))
