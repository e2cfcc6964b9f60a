"""A linear layer stored as the product of two thin factors."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lrkernels.nn.arguments import check_dense_weight, check_dtype, check_linear, check_rank, check_size
from lrkernels.nn.truncated_svd import truncated_svd
from lrkernels.ops import lowrank_linear


class LowRankLinear(nn.Module):
    """A linear layer whose weight is a product of two thin factors.

        y = x·downᵀ·upᵀ + bias,    that is, weight = up·down

    It holds rank·(in + out) numbers where ``nn.Linear`` holds in·out, so it is smaller for rank < in·out / (in + out).

    Shapes: x ``[..., in_features]``, down ``[rank, in_features]``, up ``[out_features, rank]``,
    bias ``[out_features]``; y is ``[..., out_features]``, in x's dtype.
    Dtypes: float32, float64, bfloat16, float16; float32 factors also serve bfloat16 or float16 activations.
    ``state_dict`` keys: ``down``, ``up`` and, with a bias, ``bias``.

    Initialisation: an entry of up·down has the variance of a fresh ``nn.Linear`` weight, 1 / (3·in): ``down`` is
    uniform with variance 1 / in, so that x·downᵀ keeps the size of x, and ``up`` has the variance 1 / (3·rank) that
    ``nn.Linear(rank, out)`` has. The bias is ``nn.Linear``'s.

    Raises ValueError when a size is below 1 or the rank above min(in, out), TypeError when a size is no int
    or ``dtype`` is another than these.

    Denil, Shakibi, Dinh, Ranzato and de Freitas, "Predicting parameters in deep learning", NeurIPS 2013.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_size("LowRankLinear", "in_features", in_features)
        check_size("LowRankLinear", "out_features", out_features)
        check_rank("LowRankLinear", "rank", rank, in_features, out_features)
        check_dtype("LowRankLinear", dtype)
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.rank = rank
        self.down = nn.Parameter(torch.empty((rank, in_features), device=device, dtype=dtype))
        self.up = nn.Parameter(torch.empty((out_features, rank), device=device, dtype=dtype))
        if bias:
            self.bias = nn.Parameter(torch.empty(out_features, device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw fresh factors and bias, as the class says; what ``to_empty()`` on a meta module needs next."""
        down_bound = math.sqrt(3.0 / self.in_features)
        up_bound = math.sqrt(1.0 / self.rank)
        nn.init.uniform_(self.down, -down_bound, down_bound)
        nn.init.uniform_(self.up, -up_bound, up_bound)
        if self.bias is not None:
            bias_bound = 1.0 / math.sqrt(self.in_features)
            nn.init.uniform_(self.bias, -bias_bound, bias_bound)

    def forward(self, x: Tensor) -> Tensor:
        return lowrank_linear(x, self.down, self.up, bias=self.bias)

    @classmethod
    @torch.inference_mode(False)  # the factors shall be able to train, wherever they are made
    @torch.no_grad()
    def from_linear(cls, linear: nn.Linear, rank: int) -> LowRankLinear:
        """The best approximation of a linear layer at a rank, by truncated SVD.

            weight = U·diag(S)·Vᵀ;    up = U_r·√S_r,    down = √S_r·V_rᵀ

        The factors are balanced (upᵀ·up = down·downᵀ), so that neither sees the larger gradient. ‖weight − up·down‖ is
        the smallest any rank-r product can reach, in Frobenius and spectral norm alike, and zero up to rounding at full
        rank. The SVD runs in float32 (float64 for float64 weights) on the weight's device; factors and a copy of the
        bias have the linear's device, dtype and ``requires_grad``. A linear on the meta device gives meta factors.

        Raises TypeError for anything but an ``nn.Linear`` with a floating-point [out, in] weight, ValueError for a rank
        outside [1, min(in, out)] or a weight with NaN or Inf.

        Eckart and Young, "The approximation of one matrix by another of lower rank", Psychometrika 1936.
        """
        name = f"{cls.__name__}.from_linear"
        check_linear(name, "linear", linear)
        check_dense_weight(name, "linear", linear)
        check_rank(name, "rank", rank, linear.in_features, linear.out_features)
        weight = linear.weight
        layer = cls(linear.in_features, linear.out_features, rank, linear.bias is not None, "meta", weight.dtype)
        layer.train(linear.training)
        if weight.is_meta:
            down, up = layer.down, layer.up
        else:
            u, s, vh = truncated_svd(name, weight, rank)
            root = s.sqrt()
            down = (root[:, None] * vh).to(weight.dtype)
            up = (u * root).to(weight.dtype)
        layer.down = nn.Parameter(down, requires_grad=weight.requires_grad)
        layer.up = nn.Parameter(up, requires_grad=weight.requires_grad)
        if linear.bias is not None:
            layer.bias = nn.Parameter(linear.bias.clone(), requires_grad=linear.bias.requires_grad)
        return layer

    @torch.inference_mode(False)
    @torch.no_grad()
    def to_linear(self) -> nn.Linear:
        """The ``nn.Linear`` with weight up·down, multiplied in float32 or wider and rounded once, and a copied bias."""
        dtype = self.down.dtype
        wide = torch.promote_types(dtype, torch.float32)
        linear = nn.Linear(self.in_features, self.out_features, self.bias is not None, "meta", dtype)
        linear.weight = nn.Parameter((self.up.to(wide) @ self.down.to(wide)).to(dtype), self.down.requires_grad)
        if self.bias is not None:
            linear.bias = nn.Parameter(self.bias.clone(), self.bias.requires_grad)
        return linear.train(self.training)

    def extra_repr(self) -> str:
        sizes = f"in_features={self.in_features}, out_features={self.out_features}, rank={self.rank}"
        return f"{sizes}, bias={self.bias is not None}"
