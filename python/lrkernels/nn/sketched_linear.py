"""A linear layer that keeps a random sketch of its input for the backward pass instead of the input."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lrkernels.nn.arguments import check_dense_weight, check_linear
from lrkernels.ops import sketch

KINDS = ("rademacher", "sparse_sign", "gaussian", "hadamard")


class SketchedLinear(nn.Linear):
    """``nn.Linear`` whose weight has an unbiased estimate of its gradient, from a sketch of all tokens' inputs.

        y = x·Wᵀ + bias,    dW ≈ (S·dY)ᵀ·(S·X) with S ``[size, tokens]`` random and E[Sᵀ·S] = I

    X ``[tokens, in]`` is not kept, only S·X with ``size`` = ``share``·tokens rows (at least one); S is made again from
    its seed. The gradients of x and of the bias are exact. With ``kind="gaussian"`` E‖dW − dYᵀX‖_F² is
    (‖X‖_F²·‖dY‖_F² + ‖dYᵀX‖_F²) / size; "rademacher" is no worse and faster, "hadamard" is exact where the tokens are a
    power of two and ``share`` is 1. It pays where activations of long batches do not fit, and costs noise.

    Each forward that needs a gradient draws a seed from the CPU generator, so that ``manual_seed`` and checkpointing
    repeat it; ``torch.compile`` breaks the graph there. Parameters and state are ``nn.Linear``'s.

    Raises ValueError for a share outside (0, 1] or another kind.

    Bershatsky et al., "Memory-efficient backpropagation through large linear layers", 2022.
    """

    def __init__(self, *args: Any, share: float = 0.25, kind: str = "rademacher", **kwargs: Any) -> None:
        if not 0.0 < share <= 1.0:
            raise ValueError(f"SketchedLinear: share is {share}, expected one in (0, 1]")
        if kind not in KINDS:
            raise ValueError(f"SketchedLinear: kind is {kind!r}, expected one of {', '.join(KINDS)}")
        super().__init__(*args, **kwargs)
        self.share, self.kind = share, kind

    def forward(self, x: Tensor) -> Tensor:
        if not (torch.is_grad_enabled() and self.weight.requires_grad):
            return super().forward(x)
        tokens = x.numel() // max(x.shape[-1], 1) if x.dim() else 0
        if not tokens:
            return super().forward(x)
        size, seed = max(1, round(self.share * tokens)), int(torch.randint(2**62, ()))
        return _SketchedProduct.apply(x, self.weight, self.bias, size, self.kind, seed)

    @classmethod
    @torch.inference_mode(False)
    def from_linear(cls, linear: nn.Linear, share: float = 0.25, kind: str = "rademacher") -> SketchedLinear:
        """A layer with the linear's own parameters, for ``replace_linear``. TypeError for what has no dense weight."""
        check_linear(f"{cls.__name__}.from_linear", "linear", linear)
        check_dense_weight(f"{cls.__name__}.from_linear", "linear", linear)
        has_bias = linear.bias is not None
        layer = cls(linear.in_features, linear.out_features, has_bias, "meta", share=share, kind=kind)
        layer.weight = linear.weight
        if has_bias:
            layer.bias = linear.bias
        return layer.train(linear.training)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, share={self.share:g}, kind={self.kind!r}"


class _SketchedProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None, size: int, kind: str, seed: int) -> Tensor:
        y = F.linear(x, weight, bias)
        seen = sketch(x.reshape(-1, x.shape[-1]).to(y.dtype), size, kind=kind, seed=seed, dim=0)
        ctx.save_for_backward(weight, seen)
        ctx.sketch = {"size": size, "kind": kind, "seed": seed}
        ctx.x_dtype, ctx.bias_dtype = x.dtype, None if bias is None else bias.dtype
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable  # a second derivative would be of an estimate
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, seen = ctx.saved_tensors
        rows = grad.reshape(-1, grad.shape[-1])
        dx = (grad @ weight.to(grad.dtype)).to(ctx.x_dtype) if ctx.needs_input_grad[0] else None
        dweight = (sketch(rows, dim=0, **ctx.sketch).mT @ seen).to(weight.dtype) if ctx.needs_input_grad[1] else None
        dbias = rows.sum(0, dtype=ctx.bias_dtype) if ctx.needs_input_grad[2] else None
        return dx, dweight, dbias, None, None, None
