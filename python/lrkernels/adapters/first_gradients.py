"""Starting points from the gradient of the frozen weights: LoRA-GA and LoRA-SB."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from lrkernels.adapters.adapted_linear import active_adapters
from lrkernels.adapters.lora_xs import LoRAXS
from lrkernels.adapters.offset_lora import OffsetLoRA
from lrkernels.nn.arguments import check_dense_weight, check_rank
from lrkernels.nn.truncated_svd import truncated_svd


def lora_ga_(model: nn.Module, loss: Callable[[Any], Tensor], batches: Iterable[Any], gamma: float = 16.0) -> None:
    """Start every ``OffsetLoRA`` where its first step is nearest to a step of the whole weight.

        replace_linear(model, partial(OffsetLoRA.wrap, r=8), target_modules="all-linear")
        lora_ga_(model, lambda batch: F.cross_entropy(model(batch.x), batch.y), batches)

    With G = U·S·Vᵀ the gradient of the mean loss over the batches, up = c·U_{r+1…2r} and down = c·V_{1…r}ᵀ, c =
    out^¼ / √gamma. A gradient step of the factors then changes the weight by up·upᵀ·G + G·downᵀ·down = c²·G_2r, the
    best approximation of rank 2r. The layer still begins as its base: the paper takes scale·up·down off the weight,
    ``OffsetLoRA`` in the update, so the weight stays what it was. ``check_rank`` asks 2r ≤ min(in, out).

    All gradients of the layers' weights are held at once, in float32. The mode of the model (training or not) is the
    caller's; the adapters' own parameters do not matter, since they cancel.

    Raises ValueError when the model has no such adapter, r is too large, there is no batch, or a gradient is not
    finite; TypeError for a base weight that is not dense.

    Wang, Yu and Li, "LoRA-GA: low-rank adaptation with gradient approximation", NeurIPS 2024.
    """
    if not gamma > 0.0:
        raise ValueError(f"lora_ga_: gamma is {gamma}, expected a positive number")
    adapters = active_adapters("lora_ga_", model, OffsetLoRA)
    for name, layer, adapter in adapters:
        check_rank(f"lora_ga_: '{name}'", "2·r", 2 * adapter.r, layer.in_features, layer.out_features)
    gradients = mean_gradients("lora_ga_", [(name, layer.base_layer) for name, layer, _ in adapters], loss, batches)
    for (_, _, adapter), gradient in zip(adapters, gradients, strict=True):
        u, _, vh = truncated_svd("lora_ga_", gradient, 2 * adapter.r)
        size = adapter.out_features**0.25 / gamma**0.5
        adapter.start_from(size * vh[: adapter.r], size * u[:, adapter.r :])


def lora_sb_(
    model: nn.Module, loss: Callable[[Any], Tensor], batches: Iterable[Any], lr: float, sign: bool = True
) -> None:
    """Start every ``LoRAXS`` as the best approximation of the first step that full fine-tuning would take.

        U·S·Vᵀ ≈ −lr·sign(G),    up = U_r,    down = V_rᵀ,    core = diag(S_r) / scale

    sign(G) is AdamW's first step; with ``sign=False`` it is SGD's, −lr·G. The layer does not begin as its base but one
    step further. As the factors are orthonormal, gradients of the core are gradients of the weight seen through them:
    up·(upᵀ·G·downᵀ)·down = G_r. Otherwise as :func:`lora_ga_`.

    Ponkshe et al., "Initialization using update approximation is a silver bullet for extremely efficient low-rank
    fine-tuning", 2024.
    """
    adapters = active_adapters("lora_sb_", model, LoRAXS)
    for name, _, adapter in adapters:
        if adapter.scale == 0.0:
            raise ValueError(f"lora_sb_: '{name}' has alpha 0, expected another, because its core is divided by it")
    gradients = mean_gradients("lora_sb_", [(name, layer.base_layer) for name, layer, _ in adapters], loss, batches)
    for (_, _, adapter), gradient in zip(adapters, gradients, strict=True):
        u, s, vh = truncated_svd("lora_sb_", -lr * (gradient.sign() if sign else gradient), adapter.r)
        with torch.no_grad():
            adapter.up.copy_(u)
            adapter.down.copy_(vh)
            adapter.core.copy_((s / adapter.scale).diag())


def mean_gradients(
    function: str, layers: list[tuple[str, nn.Linear]], loss: Callable[[Any], Tensor], batches: Iterable[Any]
) -> list[Tensor]:
    """The gradients of the mean of ``loss(batch)`` by the layers' weights, in float32 or wider; ``.grad`` stays."""
    for name, layer in layers:
        check_dense_weight(function, name, layer)
    weights = [layer.weight for _, layer in layers]
    flags = [weight.requires_grad for weight in weights]
    sums, count = [torch.zeros_like(w, dtype=torch.promote_types(w.dtype, torch.float32)) for w in weights], 0
    try:
        for weight in weights:
            weight.requires_grad_(True)
        for batch in batches:
            with torch.enable_grad():
                gradients = torch.autograd.grad(loss(batch), weights, allow_unused=True)
            for total, gradient in zip(sums, gradients, strict=True):
                if gradient is not None:
                    total.add_(gradient)
            count += 1
    finally:
        for weight, flag in zip(weights, flags, strict=True):
            weight.requires_grad_(flag)
    if not count:
        raise ValueError(f"{function}: there was no batch")
    for (name, _), total in zip(layers, sums, strict=True):
        if not torch.isfinite(total).all():
            raise ValueError(f"{function}: the gradient of '{name}' holds NaN or Inf")
        total.div_(count)
    return sums
