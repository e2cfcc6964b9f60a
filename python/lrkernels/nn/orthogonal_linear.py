"""A linear layer whose weight is orthogonal."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lrkernels.nn.arguments import check_dtype, check_size
from lrkernels.nn.orthogonal_maps import make_map, orthonormalized


class OrthogonalLinear(nn.Module):
    """A linear layer with a trained orthogonal weight: orthonormal columns, or rows where out_features < in_features.

        y = x·Qᵀ + bias,    QᵀQ = I  or  QQᵀ = I,    Q = map(parameter)

    With out_features ≥ in_features it keeps lengths and angles, else it never lengthens. ``map`` is as in
    ``lrkernels.nn.orthogonal``, which does the same to a layer that exists. Q starts uniformly distributed over the
    orthonormal matrices, so a deep stack neither shrinks nor stretches what goes through it.

    Shapes: x ``[..., in_features]`` to ``[..., out_features]``. Dtypes: float32, float64, bfloat16, float16; a half Q
    is orthogonal to its rounding only. ``state_dict`` keys: ``parameter``, ``bias``, and the map's signs or base.

        layer = OrthogonalLinear(512, 512)

    Raises ValueError or TypeError for sizes below 1, another dtype or an unknown map.

    Saxe, McClelland and Ganguli, "Exact solutions to the nonlinear dynamics of learning in deep linear neural
    networks", ICLR 2014; Helfrich, Willmott and Ye, "Orthogonal recurrent neural networks with scaled Cayley
    transform", ICML 2018.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        map: str = "cayley",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_size("OrthogonalLinear", "in_features", in_features)
        check_size("OrthogonalLinear", "out_features", out_features)
        check_dtype("OrthogonalLinear", dtype)
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.map = make_map("OrthogonalLinear", map, out_features, in_features, device)
        self.parameter = nn.Parameter(torch.empty(self.map.parameter_shape, device=device, dtype=dtype))
        if bias:
            self.bias = nn.Parameter(torch.empty(out_features, device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw a uniformly distributed Q, and the bias as ``nn.Linear`` does."""
        if not self.parameter.is_meta:
            dtype = torch.promote_types(self.parameter.dtype, torch.float32)
            q = torch.empty((self.out_features, self.in_features), device=self.parameter.device, dtype=dtype)
            self.set_weight(orthonormalized(nn.init.normal_(q)))
        if self.bias is not None:
            bound = 1.0 / math.sqrt(self.in_features)
            nn.init.uniform_(self.bias, -bound, bound)

    @torch.no_grad()
    def set_weight(self, q: Tensor) -> None:
        """Make Q an orthonormal matrix. Raises ValueError when it is not, or has another shape."""
        self.parameter.copy_(self.map.right_inverse(q))

    @property
    def weight(self) -> Tensor:
        """Q, computed (differentiably) at each access."""
        return self.map(self.parameter)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def inverse(self, y: Tensor) -> Tensor:
        """(y − bias)·Q: the x of a y where out_features ≥ in_features, else the shortest one that has it."""
        return F.linear(y if self.bias is None else y - self.bias, self.weight.mT)

    @torch.inference_mode(False)
    @torch.no_grad()
    def to_linear(self) -> nn.Linear:
        """An ``nn.Linear`` with Q and a copy of the bias, for serving without the map."""
        weight = self.weight.clone(memory_format=torch.contiguous_format)
        linear = nn.Linear(self.in_features, self.out_features, self.bias is not None, "meta", weight.dtype)
        linear.weight = nn.Parameter(weight)
        if self.bias is not None:
            linear.bias = nn.Parameter(self.bias.clone())
        return linear.train(self.training)

    @torch.no_grad()
    def orthogonality_error(self) -> Tensor:
        """‖QᵀQ − I‖₂, or ‖QQᵀ − I‖₂, a float64 scalar; a diagnostic of O(size³)."""
        q = self.weight.double()
        q = q.mT if self.out_features < self.in_features else q
        return torch.linalg.matrix_norm(q.mT @ q - torch.eye(q.shape[1], dtype=q.dtype, device=q.device), 2)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
