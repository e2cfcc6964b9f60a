"""What a trained orthogonal transform is: x·R and its inverse, without ever forming R."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lrkernels.nn.arguments import check_dtype, check_size
from lrkernels.nn.base_layer import factors_beside


class Rotation(nn.Module):
    """x·R of row vectors x ``[..., features]`` for a trained ``[features, features]`` matrix R that starts as I.

    A subclass writes ``reset_parameters()``, ``forward(x)`` = x·R, ``transposed(x)`` = x·Rᵀ and ``work``, and
    ``inverse(x)`` = x·R⁻¹ where R is only nearly orthogonal. Outputs have x's shape and dtype; half x is rotated in
    float32 and rounded once.

    Raises TypeError or ValueError for a size or dtype it cannot have.
    """

    def __init__(
        self, features: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        check_size(type(self).__name__, "features", features)
        check_dtype(type(self).__name__, dtype)
        super().__init__()
        self.features = features
        self._made_with: dict[str, Any] = {"device": device, "dtype": dtype}

    def parameter(self, *shape: int) -> nn.Parameter:
        return nn.Parameter(torch.empty(shape, **self._made_with))

    @property
    def work(self) -> float:
        """Multiply-adds that x·R costs per feature of a row: what applying it to x or to a weight is weighed by."""
        raise NotImplementedError

    def reset_parameters(self) -> None:
        """Make R the identity, in such a way that it can train."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def transposed(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def inverse(self, x: Tensor) -> Tensor:
        return self.transposed(x)

    def matrix(self) -> Tensor:
        """R, dense, in float32 or wider: features² numbers, for looking at."""
        parameter = next(self.parameters())
        dtype = torch.promote_types(parameter.dtype, torch.float32)
        return self(torch.eye(self.features, dtype=dtype, device=parameter.device))

    @torch.no_grad()
    def orthogonality_error(self) -> Tensor:
        """‖RᵀR − I‖₂ of R as it acts, a float64 scalar. A diagnostic: it forms R and takes O(features³)."""
        return gram_error(self.matrix())

    def extra_repr(self) -> str:
        return f"features={self.features}"


def gram_error(matrices: Tensor) -> Tensor:
    """The largest ‖RᵀR − I‖₂ of a batch of matrices, in float64."""
    r = matrices.double()
    excess = r.mT @ r - torch.eye(r.shape[-1], dtype=r.dtype, device=r.device)
    return torch.linalg.matrix_norm(excess, 2).max()


def beside(x: Tensor, parameter: Tensor) -> Tensor:
    """A parameter in a dtype that the products take beside x."""
    return factors_beside(x.dtype, parameter)[0]


def wide(parameter: Tensor) -> Tensor:
    """A parameter in float32 or wider, for a map whose result should not carry its rounding."""
    return parameter.to(torch.promote_types(parameter.dtype, torch.float32))


def full_precision(tensor: Tensor) -> torch.autocast:
    """Keeps autocast out of a block that computes a map of parameters."""
    return torch.autocast("cpu" if tensor.is_meta else tensor.device.type, enabled=False)  # "meta" has no autocast
