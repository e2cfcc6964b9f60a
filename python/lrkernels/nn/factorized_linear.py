"""What layers with two factors in the place of a weight share: how they start, and how they come from linear layers."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from lrkernels.nn.weighted_svd import check_moment


class FactorizedLinear(nn.Module):
    """A layer with ``down``, ``up`` and perhaps ``bias``; a subclass has ``forward`` and says what their product is."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int,
        down: tuple[int, ...],
        up: tuple[int, int],
        bias: bool,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features, self.rank = in_features, out_features, rank
        self.down = nn.Parameter(torch.empty(down, device=device, dtype=dtype))
        self.up = nn.Parameter(torch.empty(up, device=device, dtype=dtype))
        if bias:
            self.bias = nn.Parameter(torch.empty(out_features, device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw fresh factors, whose product has the variance of ``nn.Linear``'s weight, and bias.

        What ``to_empty()`` on a meta module needs next.
        """
        down_bound = math.sqrt(3.0 / self.in_features)
        up_bound = math.sqrt(1.0 / self.rank)
        nn.init.uniform_(self.down, -down_bound, down_bound)
        nn.init.uniform_(self.up, -up_bound, up_bound)
        if self.bias is not None:
            bias_bound = 1.0 / math.sqrt(self.in_features)
            nn.init.uniform_(self.bias, -bias_bound, bias_bound)

    @staticmethod
    def product(down: Tensor, up: Tensor) -> Tensor:
        """The weight ``[out, in]`` that the factors stand for."""
        raise NotImplementedError

    @classmethod
    @torch.inference_mode(False)  # the factors shall be able to train, wherever they are made
    @torch.no_grad()
    def _approximation(
        cls,
        linear: nn.Linear,
        sizes: tuple[int, ...],
        factors: Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]],
        input_moment: Tensor | None,
        input_mean: Tensor | None,
    ) -> FactorizedLinear:
        """A layer of these sizes with ``up, down = factors(weight, input_moment)``.

        With a mean the moment is taken about it, and the bias takes over what the factors lose of the mean output.
        Factors and bias have the linear's device, dtype and ``requires_grad``.
        """
        weight, bias = linear.weight, linear.bias
        with_bias = bias is not None or input_mean is not None
        layer = cls(linear.in_features, linear.out_features, *sizes, with_bias, "meta", weight.dtype)
        layer.train(linear.training)
        down, up = layer.down, layer.up
        if not weight.is_meta:
            if input_moment is not None:
                input_moment = input_moment.to(weight.device)
            if input_mean is not None:
                input_mean = input_mean.to(weight.device, torch.promote_types(weight.dtype, torch.float32))
                input_moment = _about_the_mean(input_moment, input_mean)
            up, down = factors(weight, input_moment)
            if input_mean is not None:
                missing = (weight.to(up) - cls.product(down, up)) @ input_mean
                bias = (missing if bias is None else bias.to(up) + missing).to(weight.dtype)
        layer.down = nn.Parameter(down.to(weight.dtype), requires_grad=weight.requires_grad)
        layer.up = nn.Parameter(up.to(weight.dtype), requires_grad=weight.requires_grad)
        if bias is not None:
            trained = weight.requires_grad if linear.bias is None else linear.bias.requires_grad
            layer.bias = nn.Parameter(bias.clone(), requires_grad=trained)
        return layer

    @torch.inference_mode(False)
    @torch.no_grad()
    def to_linear(self) -> nn.Linear:
        """The ``nn.Linear`` with the product, made in float32 or wider and rounded once, and a copied bias."""
        dtype = self.down.dtype
        wide = torch.promote_types(dtype, torch.float32)
        linear = nn.Linear(self.in_features, self.out_features, self.bias is not None, "meta", dtype)
        weight = self.product(self.down.to(wide), self.up.to(wide)).to(dtype)
        linear.weight = nn.Parameter(weight, self.down.requires_grad)
        if self.bias is not None:
            linear.bias = nn.Parameter(self.bias.clone(), self.bias.requires_grad)
        return linear.train(self.training)


def check_statistics(
    name: str,
    linear: nn.Linear,
    input_moment: Tensor | None,
    input_mean: Tensor | None,
    output_moment: Tensor | None = None,
) -> None:
    """What a ``from_linear`` is told of inputs and of outputs' gradients has the layer's sizes, or is None."""
    if input_moment is not None:
        check_moment(name, "input_moment", input_moment, linear.in_features, "input")
    if output_moment is not None:
        check_moment(name, "output_moment", output_moment, linear.out_features, "output")
    if input_mean is not None and input_mean.shape != (linear.in_features,):
        raise ValueError(f"{name}: input_mean has shape {tuple(input_mean.shape)}, expected ({linear.in_features},)")


def _about_the_mean(moment: Tensor | None, mean: Tensor) -> Tensor | None:
    """The covariance, of E[x·xᵀ] or of its diagonal; rounding must not make a variance negative."""
    if moment is None:
        return None
    mean = mean.double()
    if moment.dim() == 1:
        return (moment.double() - mean.square()).clamp(min=0.0)
    return moment.double() - torch.outer(mean, mean)
