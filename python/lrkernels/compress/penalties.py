"""Penalties of a factorised layer that are penalties of its product."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lrkernels.nn.lowrank_linear import LowRankLinear


def frobenius_decay(model: nn.Module) -> Tensor:
    """½·Σ‖up·down‖_F² over the ``LowRankLinear`` layers of a model: weight decay of the products.

        loss = task_loss + 1e-4 * frobenius_decay(model)

    Ordinary decay of the factors is that of the nuclear norm (``nuclear_penalty``) and shrinks the rank; this one acts
    as decay does on a dense layer. Start the layers by ``LowRankLinear.from_linear`` of a fresh ``nn.Linear`` (spectral
    initialisation) and exclude the factors from the optimizer's own decay. tr(upᵀ·up·down·downᵀ), two [r, r] matrices.

    Raises ValueError when the model has no such layer. Khodak, Tenenholtz, Mackey and Fusi, "Initialization and
    regularization of factorized neural layers", ICLR 2021; Kamalakara et al., "Exploring low rank training of deep
    neural networks", 2022.
    """
    layers = _layers("frobenius_decay", model)
    return 0.5 * torch.stack([((f.up.mT @ f.up) * (f.down @ f.down.mT)).sum() for f in layers]).sum()


def nuclear_penalty(model: nn.Module) -> Tensor:
    """½·Σ(‖up‖_F² + ‖down‖_F²), which is never below Σσ(up·down), and equal where the factors are balanced.

    What decay of the factors amounts to; Srebro, Rennie and Jaakkola, "Maximum-margin matrix factorization", 2004.
    """
    layers = _layers("nuclear_penalty", model)
    return 0.5 * torch.stack([f.up.square().sum() + f.down.square().sum() for f in layers]).sum()


def _layers(function: str, model: nn.Module) -> list[LowRankLinear]:
    layers = [module for module in model.modules() if isinstance(module, LowRankLinear)]
    if not layers:
        raise ValueError(f"{function}: the model has no LowRankLinear")
    return layers
