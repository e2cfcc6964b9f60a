"""A linear layer stored as the product of two thin factors."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lrkernels.nn.arguments import check_dense_weight, check_dtype, check_linear, check_rank, check_size
from lrkernels.nn.weighted_svd import balanced, check_moment, low_rank_factors
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
        for argument, moment, size, what in (
            ("input_moment", input_moment, linear.in_features, "input"),
            ("output_moment", output_moment, linear.out_features, "output"),
        ):
            if moment is not None:
                check_moment(name, argument, moment, size, what)
        if input_mean is not None and input_mean.shape != (linear.in_features,):
            raise ValueError(
                f"{name}: input_mean has shape {tuple(input_mean.shape)}, expected ({linear.in_features},)"
            )
        weight, bias = linear.weight, linear.bias
        with_bias = bias is not None or input_mean is not None
        layer = cls(linear.in_features, linear.out_features, rank, with_bias, "meta", weight.dtype)
        layer.train(linear.training)
        if weight.is_meta:
            down, up = layer.down, layer.up
        else:
            moments = (None if m is None else m.to(weight.device) for m in (input_moment, output_moment))
            input_moment, output_moment = moments
            if input_mean is not None:
                input_mean = input_mean.to(weight.device, torch.promote_types(weight.dtype, torch.float32))
                input_moment = _about_the_mean(input_moment, input_mean)
            up, down = low_rank_factors(name, weight, rank, input_moment, output_moment)
            if input_mean is not None:
                missing = weight.to(up) @ input_mean - up @ (down @ input_mean)
                bias = (missing if bias is None else bias.to(up) + missing).to(weight.dtype)
        layer.down = nn.Parameter(down.to(weight.dtype), requires_grad=weight.requires_grad)
        layer.up = nn.Parameter(up.to(weight.dtype), requires_grad=weight.requires_grad)
        if bias is not None:
            trained = weight.requires_grad if linear.bias is None else linear.bias.requires_grad
            layer.bias = nn.Parameter(bias.clone(), requires_grad=trained)
        return layer

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


def _about_the_mean(moment: Tensor | None, mean: Tensor) -> Tensor | None:
    """The covariance, of E[x·xᵀ] or of its diagonal; rounding must not make a variance negative."""
    if moment is None:
        return None
    mean = mean.double()
    if moment.dim() == 1:
        return (moment.double() - mean.square()).clamp(min=0.0)
    return moment.double() - torch.outer(mean, mean)
