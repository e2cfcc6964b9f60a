"""What an approximation left over, as low-rank factors beside it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lrkernels.nn.arguments import check_dense_weight, check_linear, check_rank, check_size
from lrkernels.nn.lora_linear import LoRALinear
from lrkernels.nn.weighted_svd import check_moment, low_rank_factors


@torch.no_grad()
def compensate(compressed: nn.Linear, original: Tensor, rank: int, input_moment: Tensor | None = None) -> LoRALinear:
    """``compressed`` (quantised and dequantised, pruned, 2:4) plus the best low-rank repair of what that lost.

        Ŵ + lora_B·lora_A,    lora_B·lora_A the rank-r approximation of W − Ŵ, W = ``original [out, in]``

    With ``input_moment`` E[x·xᵀ] the error of the output is the least, E‖(W − Ŵ − lora_B·lora_A)·x‖² (EoRA); without,
    that of the weight (LoRC). No training; the factors may train afterwards. Raises as ``LowRankLinear.from_linear``.

    Liu et al., "EoRA: training-free compensation for compressed LLM with eigenspace low-rank approximation", 2024; Yao
    et al., "ZeroQuant-V2" (LoRC), 2023.
    """
    check_linear("compensate", "compressed", compressed)
    check_dense_weight("compensate", "compressed", compressed)
    check_rank("compensate", "rank", rank, compressed.in_features, compressed.out_features)
    weight = compressed.weight
    if original.shape != weight.shape:
        raise ValueError(f"compensate: original has shape {tuple(original.shape)}, expected {tuple(weight.shape)}")
    if input_moment is not None:
        check_moment("compensate", "input_moment", input_moment, compressed.in_features, "input")
        input_moment = input_moment.to(weight.device)
    wide = torch.promote_types(torch.promote_types(original.dtype, weight.dtype), torch.float32)
    up, down = low_rank_factors("compensate", original.to(weight.device, wide) - weight.to(wide), rank, input_moment)
    layer = LoRALinear(compressed, r=rank, alpha=rank)
    layer.lora_A.copy_(down)
    layer.lora_B.copy_(up)
    return layer


@torch.no_grad()
def weight_residuals(
    tuned: Mapping[str, Tensor], base: Mapping[str, Tensor], rank: int
) -> dict[str, Tensor | tuple[Tensor, Tensor]]:
    """What a fine-tuned state_dict adds to its base, each matrix's difference as factors (up, down) of a rank.

    To store many fine-tuned versions of one model. Tensors that are no floating-point matrices, and those where factors
    would not be smaller, are kept as they are in ``tuned``; equal ones are left out. Lossless to rounding where a
    difference has no more than that rank, as of a merged LoRA. Factors are in float32 or wider; round them as you like.

    Raises ValueError where the two do not have the same names and shapes, or the rank is below 1.

    Ryu, Seo and Yoo, "Efficient storage of fine-tuned models via low-rank approximation of weight residuals", 2023.
    """
    check_size("weight_residuals", "rank", rank)
    if set(tuned) != set(base):
        different = ", ".join(sorted(set(tuned) ^ set(base))[:5])
        raise ValueError(f"weight_residuals: only one of tuned and base has {different}")
    found: dict[str, Tensor | tuple[Tensor, Tensor]] = {}
    for name, value in tuned.items():
        start = base[name]
        if start.shape != value.shape:
            raise ValueError(f"weight_residuals: {name} has shapes {tuple(value.shape)} and {tuple(start.shape)}")
        if torch.equal(value, start):
            continue
        if value.dim() == 2 and value.is_floating_point() and rank * sum(value.shape) < value.numel():
            wide = torch.promote_types(value.dtype, torch.float32)
            found[name] = low_rank_factors("weight_residuals", value.to(wide) - start.to(wide), rank)
        else:
            found[name] = value.clone()
    return found


@torch.no_grad()
def apply_residuals(
    base: Mapping[str, Tensor], residuals: Mapping[str, Tensor | tuple[Tensor, Tensor]]
) -> dict[str, Tensor]:
    """The fine-tuned state_dict again; a matrix is base + up·down, added in float32 or wider and rounded once."""
    found = dict(base)
    for name, residual in residuals.items():
        if isinstance(residual, Tensor):
            found[name] = residual
        else:
            up, down = residual
            found[name] = (base[name].to(up.dtype) + up @ down).to(base[name].dtype)
    return found
