"""A weight with rows of equal length, in the forward pass."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lrkernels.nn.rotations.rotation import wide
from lrkernels.ops._lowrank_checks import KERNEL_DTYPES


class RowEquilibration(nn.Module):
    """P·W with P = diag(1 / ‖w_i‖): every row of length 1; a row of zeros stays zero."""

    def forward(self, weight: Tensor) -> Tensor:
        w = wide(weight)
        norm = torch.linalg.vector_norm(w.flatten(1), dim=1).clamp(min=torch.finfo(w.dtype).tiny)
        return (w / norm.reshape(-1, *(1,) * (w.dim() - 1))).to(weight.dtype)

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight


def condition_rows(module: nn.Module, name: str = "weight") -> nn.Module:
    """Let a module act with P·W, its weight W ``[out, …]`` with rows scaled to length 1 (weight conditioning).

    Row equilibration is within a factor √out of the best condition number that any diagonal P reaches (van der Sluis,
    1969); a better conditioned weight makes a smoother loss. A ``torch.nn.utils.parametrize`` parametrization: W trains
    as ``module.parametrizations.NAME.original``; ``parametrize.remove_parametrizations`` writes P·W into the module.

    Returns the module. Raises TypeError when there is no such floating-point tensor, ValueError when it is a vector.

    Saratchandran, Wang and Lucey, "Weight conditioning for smooth optimization of neural networks", ECCV 2024.
    """
    weight = getattr(module, name, None)
    if not isinstance(weight, torch.Tensor) or weight.dtype not in KERNEL_DTYPES:
        raise TypeError(f"condition_rows: {type(module).__name__}.{name} is no floating-point tensor")
    if weight.dim() < 2:
        raise ValueError(f"condition_rows: {name} has shape {tuple(weight.shape)}, expected at least two dimensions")
    parametrize.register_parametrization(module, name, RowEquilibration())
    return module
