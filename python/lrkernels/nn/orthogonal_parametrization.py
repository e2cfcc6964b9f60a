"""A module's weight kept orthogonal while it trains."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils import parametrize

from lrkernels.nn.orthogonal_maps import make_map, orthonormalized
from lrkernels.ops._lowrank_checks import KERNEL_DTYPES


def orthogonal(module: nn.Module, name: str = "weight", map: str = "cayley") -> nn.Module:
    """Keep a matrix of a module orthonormal: its columns, or its rows where there are fewer rows.

        orthogonal(linear)                      # linear.weight is orthonormal from now on
        linear.weight = q                       # sets it, to any orthonormal q
        parametrize.remove_parametrizations(linear, "weight")

    A ``torch.nn.utils.parametrize`` parametrization: what trains is ``module.parametrizations.NAME.original``, and
    ``module.NAME`` is computed from it at each access (``parametrize.cached()`` does so once). The weight starts as its
    own orthonormal factor, that of the QR decomposition with a positive diagonal of R.

    ``map``: "cayley" (any Q; one inverse), "householder" (any Q; one reflection a column) or "givens" (a butterfly of
    rotations of the start, log₂ of the size times cheaper; not every Q). All have a right inverse.

    Returns the module. Raises TypeError when there is no such floating-point parameter, ValueError when it is no
    matrix or not finite, for an unknown map, and when a matrix is assigned that is not orthonormal.

    Lezcano-Casado and Martínez-Rubio, "Cheap orthogonal constraints in neural networks", ICML 2019.
    """
    weight = getattr(module, name, None)
    if not isinstance(weight, torch.Tensor) or weight.dtype not in KERNEL_DTYPES:
        raise TypeError(f"orthogonal: {type(module).__name__}.{name} is no floating-point tensor")
    if weight.dim() != 2 or 0 in weight.shape:
        raise ValueError(f"orthogonal: {name} has shape {tuple(weight.shape)}, expected a matrix")
    if not weight.is_meta and not weight.isfinite().all():
        raise ValueError(f"orthogonal: {name} has NaN or Inf, so there is no orthonormal factor to start from")
    parametrization = make_map("orthogonal", map, *weight.shape, weight.device)
    with torch.no_grad():
        weight.copy_(orthonormalized(weight))
    parametrize.register_parametrization(module, name, parametrization)
    return module
