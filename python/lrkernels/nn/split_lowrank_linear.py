"""A linear layer whose input features are split into groups, each with thin factors of its own."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lrkernels.nn.arguments import check_dense_weight, check_dtype, check_linear, check_rank, check_size
from lrkernels.nn.weighted_svd import low_rank_factors
from lrkernels.ops import lowrank_expand


class SplitLowRankLinear(nn.Module):
    """A linear layer whose weight is low-rank in every group of input features.

        y = Σ_g x_g·down_gᵀ·up_gᵀ + bias,    that is, weight = [up₁·down₁, …, up_k·down_k]

    Where the groups have different ranges it needs fewer numbers than one pair of factors, ``rank``·(in + groups·out),
    though the weight may have rank groups·``rank``. One group is ``LowRankLinear``.

    Shapes: x ``[..., in_features]``, down ``[groups, rank, in_features / groups]``, up ``[out_features, groups·rank]``,
    bias ``[out_features]``. Dtypes, initial variances and errors are ``LowRankLinear``'s; ValueError too for an
    ``in_features`` that is no multiple of ``groups`` and a rank above min(in_features / groups, out_features).

    Liebenwein, Maalouf, Gal, Feldman and Rus, "Compressing neural networks: towards determining the optimal layer-wise
    decomposition" (ALDS), NeurIPS 2021.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        groups: int,
        rank: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_size("SplitLowRankLinear", "in_features", in_features)
        check_size("SplitLowRankLinear", "out_features", out_features)
        _check_groups("SplitLowRankLinear", groups, in_features)
        check_rank("SplitLowRankLinear", "rank", rank, in_features // groups, out_features)
        check_dtype("SplitLowRankLinear", dtype)
        super().__init__()
        self.in_features, self.out_features, self.groups, self.rank = in_features, out_features, groups, rank
        made_with = {"device": device, "dtype": dtype}
        self.down = nn.Parameter(torch.empty((groups, rank, in_features // groups), **made_with))
        self.up = nn.Parameter(torch.empty((out_features, groups * rank), **made_with))
        if bias:
            self.bias = nn.Parameter(torch.empty(out_features, **made_with))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw fresh factors, whose product has the variance of ``nn.Linear``'s weight, and bias."""
        down_bound = math.sqrt(3.0 / self.in_features)
        up_bound = math.sqrt(1.0 / self.rank)
        nn.init.uniform_(self.down, -down_bound, down_bound)
        nn.init.uniform_(self.up, -up_bound, up_bound)
        if self.bias is not None:
            bias_bound = 1.0 / math.sqrt(self.in_features)
            nn.init.uniform_(self.bias, -bias_bound, bias_bound)

    def forward(self, x: Tensor) -> Tensor:
        s = torch.einsum("...gi,gri->...gr", x.unflatten(-1, (self.groups, -1)), self.down.to(x.dtype))
        return lowrank_expand(s.flatten(-2), self.up, bias=self.bias)

    @classmethod
    @torch.inference_mode(False)
    @torch.no_grad()
    def from_linear(cls, linear: nn.Linear, groups: int, rank: int) -> SplitLowRankLinear:
        """The best approximation of a linear layer: every group of columns by its truncated SVD.

        ‖weight − [up_g·down_g]‖_F² is the sum of the groups' tails. Factors and a copy of the bias have the linear's
        device, dtype and ``requires_grad``. Raises as ``LowRankLinear.from_linear``.
        """
        name = f"{cls.__name__}.from_linear"
        check_linear(name, "linear", linear)
        check_dense_weight(name, "linear", linear)
        _check_groups(name, groups, linear.in_features)
        check_rank(name, "rank", rank, linear.in_features // groups, linear.out_features)
        weight, bias = linear.weight, linear.bias
        layer = cls(linear.in_features, linear.out_features, groups, rank, bias is not None, "meta", weight.dtype)
        layer.train(linear.training)
        down, up = layer.down, layer.up
        if not weight.is_meta:
            factors = [low_rank_factors(name, columns, rank) for columns in weight.chunk(groups, dim=1)]
            up = torch.cat([up for up, _ in factors], dim=1)
            down = torch.stack([down for _, down in factors])
        layer.down = nn.Parameter(down.to(weight.dtype), requires_grad=weight.requires_grad)
        layer.up = nn.Parameter(up.to(weight.dtype), requires_grad=weight.requires_grad)
        if bias is not None:
            layer.bias = nn.Parameter(bias.clone(), requires_grad=bias.requires_grad)
        return layer

    def extra_repr(self) -> str:
        sizes = f"in_features={self.in_features}, out_features={self.out_features}"
        return f"{sizes}, groups={self.groups}, rank={self.rank}, bias={self.bias is not None}"


def _check_groups(name: str, groups: int, in_features: int) -> None:
    check_size(name, "groups", groups)
    if in_features % groups:
        raise ValueError(f"{name}: groups is {groups}, expected a divisor of in_features, which is {in_features}")
