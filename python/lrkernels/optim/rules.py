"""Adam's and momentum's rules, in place, on lists of tensors of any shapes: a handful of kernels for all of them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch import _foreach_add as add
from torch import _foreach_add_ as add_
from torch import _foreach_addcmul_ as addcmul_
from torch import _foreach_div as div
from torch import _foreach_div_ as div_
from torch import _foreach_lerp_ as lerp_
from torch import _foreach_mul_ as mul_
from torch import _foreach_sqrt as sqrt


def adam(
    gradients: list[Tensor],
    mean: list[Tensor],
    square: list[Tensor],
    step: int,
    betas: tuple[float, float],
    eps: float,
) -> list[Tensor]:
    """m ← β₁m + (1 − β₁)g, v ← β₂v + (1 − β₂)g²; the direction m̂ / (√v̂ + ε) with m̂ = m / (1 − β₁ᵗ), v̂ alike.

    ``step`` is t, 1 at the first. Kingma and Ba, "Adam: a method for stochastic optimization", ICLR 2015.
    """
    # torch's fused kernel passes over memory once; on a GPU it wants t there, where the host cannot read it.
    rule = _fused_adam if gradients[0].device.type == "cpu" else _foreach_adam
    return rule(gradients, mean, square, step, betas, eps)


def _fused_adam(gradients, mean, square, step, betas, eps):
    direction = [torch.zeros_like(tensor) for tensor in gradients]
    steps = [torch.tensor(float(step))] * len(gradients)
    options = {"beta1": betas[0], "beta2": betas[1], "eps": eps, "weight_decay": 0.0, "amsgrad": False}
    torch._fused_adam_(direction, gradients, mean, square, [], steps, lr=-1.0, maximize=False, **options)
    return direction


def _foreach_adam(gradients, mean, square, step, betas, eps):
    beta1, beta2 = betas
    lerp_(mean, gradients, 1 - beta1)
    mul_(square, beta2)
    addcmul_(square, gradients, gradients, 1 - beta2)
    divisor = sqrt(square)
    div_(divisor, (1 - beta2**step) ** 0.5)
    add_(divisor, eps)
    direction = div(mean, divisor)
    div_(direction, 1 - beta1**step)
    return direction


def momentum(gradients: list[Tensor], buffer: list[Tensor], factor: float, nesterov: bool) -> list[Tensor]:
    """b ← μb + g; the direction is b, or g + μb with Nesterov's: torch.optim.SGD's, without dampening."""
    mul_(buffer, factor)
    add_(buffer, gradients)
    return add(gradients, buffer, alpha=factor) if nesterov else [tensor.clone() for tensor in buffer]
