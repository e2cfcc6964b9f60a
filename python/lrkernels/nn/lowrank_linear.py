"""A linear layer stored as the product of two thin factors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lrkernels.nn.arguments import check_dense_weight, check_dtype, check_linear, check_rank, check_size
from lrkernels.nn.factorized_linear import FactorizedLinear, check_statistics
from lrkernels.nn.weighted_svd import balanced, low_rank_factors
from lrkernels.ops import lowrank_linear


class LowRankLinear(FactorizedLinear):
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
        super().__init__(
            in_features, out_features, rank, (rank, in_features), (out_features, rank), bias, device, dtype
        )

    def forward(self, x: Tensor) -> Tensor:
        return lowrank_linear(x, self.down, self.up, bias=self.bias)

    @staticmethod
    def product(down: Tensor, up: Tensor) -> Tensor:
        return up @ down

    @classmethod
    def from_linear(
        cls,
        linear: nn.Linear,
        rank: int,
        *,
        input_moment: Tensor | None = None,
        output_moment: Tensor | None = None,
        input_mean: Tensor | None = None,
    ) -> LowRankLinear:
        """The best approximation of a linear layer at a rank, by (randomized) truncated SVD.

            weight ≈ U·diag(S)·Vᵀ;    up = U_r·√S_r,    down = √S_r·V_rᵀ

        The factors are balanced (upᵀ·up = down·downᵀ), so that neither sees the larger gradient. ‖weight − up·down‖_F
        is the smallest any rank-r product can reach where min(out, in) is at most 128 or the rank above an eighth of
        it, up to full rank, where it is zero up to rounding. Elsewhere ``rsvd`` decomposes the weight, many times
        faster, and it is at most 1.02 times that (1.03 on a flat spectrum).

        **What counts.** With ``input_moment``, E[x·xᵀ] of the layer's inputs (``lrkernels.nn.input_statistics``
        measures it), the error of the *output* is the least: E‖(weight − up·down)·x‖². The same factors have been
        derived by whitening the input (SVD-LLM), by projecting the output on the leading eigenvectors of its
        covariance (LoRD) and, of a residual, in the eigenspace of the input (EoRA). Its diagonal alone, ``[in]``,
        scales input channels (LoRAP; ASVD with a power of their mean magnitudes). ``output_moment`` ``[out, out]`` or
        ``[out]``, E[g·gᵀ] of the gradients g of the outputs, adds how much an output matters to the loss (GFWSVD).

        With ``input_mean`` E[x] ``[in]`` the bias takes over (weight − up·down)·E[x], so that the mean output is exact
        and the factors are spent on the rest (AFM: a PCA of the outputs); the layer then has a bias in any case.

        Runs in float32 (float64 for float64 weights; roots of moments in float64) on the weight's device; factors and
        bias have the linear's device, dtype and ``requires_grad``. A linear on the meta device gives meta factors.

        Raises TypeError for anything but an ``nn.Linear`` with a floating-point [out, in] weight, ValueError for a rank
        outside [1, min(in, out)], a weight with NaN or Inf, or a moment that cannot be one.

        Eckart and Young, "The approximation of one matrix by another of lower rank", Psychometrika 1936; Wang et al.,
        "SVD-LLM", ICLR 2025; Kaushal, Vaidhya and Rish, "LoRD", 2023; Liu et al., "EoRA", 2024; Chekalina et al.,
        "Generalized Fisher-weighted SVD", 2025; Yu et al., "Unified low-rank compression framework for click-through
        rate prediction" (AFM), KDD 2024.
        """
        name = f"{cls.__name__}.from_linear"
        check_linear(name, "linear", linear)
        check_dense_weight(name, "linear", linear)
        check_rank(name, "rank", rank, linear.in_features, linear.out_features)
        check_statistics(name, linear, input_moment, input_mean, output_moment)

        def factors(weight: Tensor, input_moment: Tensor | None) -> tuple[Tensor, Tensor]:
            on_outputs = None if output_moment is None else output_moment.to(weight.device)
            return low_rank_factors(name, weight, rank, input_moment, on_outputs)

        return cls._approximation(linear, (rank,), factors, input_moment, input_mean)

    @torch.no_grad()
    def balance_(self) -> None:
        """Factors of the same product with upᵀ·up = down·downᵀ, up = U·√S and down = √S·Vᵀ, in place.

        A step that low-rank pretraining repeats now and then, for training makes one factor outgrow the other. What the
        optimizer remembers belongs to the old factors: reset it. Restores full rank of neither.
        """
        wide = torch.promote_types(self.up.dtype, torch.float32)
        up, down = balanced(self.up.to(wide), self.down.to(wide))
        self.up.copy_(up)
        self.down.copy_(down)

    def extra_repr(self) -> str:
        sizes = f"in_features={self.in_features}, out_features={self.out_features}, rank={self.rank}"
        return f"{sizes}, bias={self.bias is not None}"
