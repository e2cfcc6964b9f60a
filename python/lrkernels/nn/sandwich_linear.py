"""A layer that is 1-Lipschitz whatever its parameters are."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lrkernels.nn.arguments import check_dtype, check_finite, check_size
from lrkernels.nn.rotations.rotation import full_precision, wide
from lrkernels.ops import cayley_rectangular


class SandwichLinear(nn.Module):
    """A nonlinear layer that never stretches: ‖y(x) − y(x')‖ ≤ scale·‖x − x'‖ for all parameters (LBDN).

        y = √2·(e^psi ⊙ act(√2·e^−psi ⊙ (scale·x·Q_bᵀ) + bias))·Q_a
        [Q_a  Q_b] = cayley_rectangular(alpha·weight / ‖weight‖_F),    Q_a·Q_aᵀ + Q_b·Q_bᵀ = I

    weight ``[out_features, out_features + in_features]``; alpha ``[1]`` starts at ‖weight‖_F, psi and the bias
    ``[out_features]`` as 0 and ``nn.Linear``'s. ``activation`` must be monotone with slopes in [0, 1], entry by entry:
    ReLU (the default), tanh, sigmoid, the identity; GELU and SiLU are not, and would void the bound. Stacked layers are
    1-Lipschitz together, and end in ``SandwichLinear(…, activation=None)``: y = 2·(scale·x·Q_bᵀ)·Q_a + bias.

    Shapes: x ``[..., in_features]`` to ``[..., out_features]``. Dtypes: float32, float64, bfloat16, float16; Q is
    computed in float32 or wider. Rounding adds to the bound what it adds to any product; e^psi overflows float32 from
    |psi| = 89 on.

        model = nn.Sequential(SandwichLinear(784, 256), SandwichLinear(256, 10, activation=None))

    Raises ValueError or TypeError for sizes below 1, another dtype, a scale that is no positive number, or an
    activation that cannot be called.

    Wang and Manchester, "Direct parameterization of Lipschitz-bounded deep networks", ICML 2023.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        scale: float = 1.0,
        activation: Callable[[Tensor], Tensor] | None = F.relu,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_size("SandwichLinear", "in_features", in_features)
        check_size("SandwichLinear", "out_features", out_features)
        check_finite("SandwichLinear", "scale", scale)
        check_dtype("SandwichLinear", dtype)
        if activation is not None and not callable(activation):
            raise TypeError(f"SandwichLinear: activation is {activation!r}, expected a function of a tensor or None")
        if scale <= 0.0:
            raise ValueError(f"SandwichLinear: scale is {scale}, expected a positive number")
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.scale, self.activation = float(scale), activation
        made_with = {"device": device, "dtype": dtype}
        self.weight = nn.Parameter(torch.empty((out_features, out_features + in_features), **made_with))
        self.alpha = nn.Parameter(torch.empty(1, **made_with))
        for name, there in (("psi", activation is not None), ("bias", bias)):
            self.register_parameter(name, nn.Parameter(torch.empty(out_features, **made_with)) if there else None)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        bound = 1.0 / math.sqrt(self.in_features + self.out_features)
        nn.init.uniform_(self.weight, -bound, bound)
        self.alpha.copy_(torch.linalg.vector_norm(self.weight))
        if self.psi is not None:
            nn.init.zeros_(self.psi)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def directions(self) -> Tensor:
        """[Q_a  Q_b] ``[out_features, out_features + in_features]``, orthonormal rows, in float32 or wider."""
        with full_precision(self.weight):
            weight = wide(self.weight)
            norm = torch.linalg.vector_norm(weight)
            # Zero has no direction, and is mapped as it is.
            return cayley_rectangular(wide(self.alpha) / torch.where(norm == 0, 1, norm) * weight)

    def forward(self, x: Tensor) -> Tensor:
        q_a, q_b = self.directions().to(self.weight.dtype).split([self.out_features, self.in_features], dim=1)
        z = F.linear(self.scale * x, q_b)
        if self.activation is None:
            y = 2.0 * F.linear(z, q_a.mT)
            return y if self.bias is None else (y + self.bias).to(y.dtype)
        dtype = z.dtype
        z = math.sqrt(2.0) * torch.exp(-self.psi) * z
        z = self.activation(z if self.bias is None else z + self.bias)
        return F.linear((math.sqrt(2.0) * torch.exp(self.psi) * z).to(dtype), q_a.mT)

    @torch.no_grad()
    def orthogonality_error(self) -> Tensor:
        """‖QQᵀ − I‖₂ of Q = [Q_a  Q_b] in float32 or wider, a float64 scalar; a diagnostic of O(out_features³)."""
        q = self.directions().double()
        return torch.linalg.matrix_norm(q @ q.mT - torch.eye(len(q), dtype=q.dtype, device=q.device), 2)

    def extra_repr(self) -> str:
        sizes = f"in_features={self.in_features}, out_features={self.out_features}"
        return f"{sizes}, bias={self.bias is not None}, scale={self.scale:g}"
