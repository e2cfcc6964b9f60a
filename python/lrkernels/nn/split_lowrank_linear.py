"""A linear layer whose input features are split into groups, each with thin factors of its own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lrkernels.nn.arguments import check_dense_weight, check_dtype, check_linear, check_rank, check_size
from lrkernels.nn.factorized_linear import FactorizedLinear, check_statistics
from lrkernels.nn.weighted_svd import low_rank_factors
from lrkernels.ops import lowrank_expand, lowrank_project


class SplitLowRankLinear(FactorizedLinear):
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
        down, up = (groups, rank, in_features // groups), (out_features, groups * rank)
        super().__init__(in_features, out_features, rank, down, up, bias, device, dtype)
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1:] != (self.in_features,):
            raise ValueError(f"SplitLowRankLinear: x has shape {tuple(x.shape)}, expected (..., {self.in_features})")
        parts = zip(x.chunk(self.groups, dim=-1), self.down, strict=True)
        s = torch.cat([lowrank_project(part, down) for part, down in parts], dim=-1)
        return lowrank_expand(s, self.up, bias=self.bias)

    @staticmethod
    def product(down: Tensor, up: Tensor) -> Tensor:
        return torch.cat([u @ d for u, d in zip(up.chunk(len(down), dim=1), down, strict=True)], dim=1)

    @classmethod
    def from_linear(
        cls,
        linear: nn.Linear,
        groups: int,
        rank: int,
        *,
        input_moment: Tensor | None = None,
        input_mean: Tensor | None = None,
    ) -> SplitLowRankLinear:
        """The best approximation of a linear layer: every group of columns by its truncated SVD.

        ‖weight − [up_g·down_g]‖_F² is the sum of the groups' tails. With ``input_moment`` E[x·xᵀ] ``[in, in]``, or its
        diagonal ``[in]``, it is the error of outputs that every group makes by itself that is the least, Σ_g
        E‖(weight_g − up_g·down_g)·x_g‖²; how inputs of different groups go together is not looked at. ``input_mean`` is
        for the bias, as in ``LowRankLinear.from_linear``. Factors and a copy of the bias have the linear's device,
        dtype and ``requires_grad``. Raises as ``LowRankLinear.from_linear``.
        """
        name = f"{cls.__name__}.from_linear"
        check_linear(name, "linear", linear)
        check_dense_weight(name, "linear", linear)
        _check_groups(name, groups, linear.in_features)
        check_rank(name, "rank", rank, linear.in_features // groups, linear.out_features)
        check_statistics(name, linear, input_moment, input_mean)

        def factors(weight: Tensor, input_moment: Tensor | None) -> tuple[Tensor, Tensor]:
            moments = _of_groups(input_moment, groups)
            found = [
                low_rank_factors(name, columns, rank, moment)
                for columns, moment in zip(weight.chunk(groups, dim=1), moments, strict=True)
            ]
            return torch.cat([up for up, _ in found], dim=1), torch.stack([down for _, down in found])

        return cls._approximation(linear, (groups, rank), factors, input_moment, input_mean)

    def extra_repr(self) -> str:
        sizes = f"in_features={self.in_features}, out_features={self.out_features}"
        return f"{sizes}, groups={self.groups}, rank={self.rank}, bias={self.bias is not None}"


def _check_groups(name: str, groups: int, in_features: int) -> None:
    check_size(name, "groups", groups)
    if in_features % groups:
        raise ValueError(f"{name}: groups is {groups}, expected a divisor of in_features, which is {in_features}")


def _of_groups(moment: Tensor | None, groups: int) -> list[Tensor | None]:
    """The blocks on the diagonal of E[x·xᵀ], or the parts of its diagonal."""
    if moment is None:
        return [None] * groups
    if moment.dim() == 1:
        return list(moment.chunk(groups))
    return [rows.chunk(groups, dim=1)[i] for i, rows in enumerate(moment.chunk(groups))]
