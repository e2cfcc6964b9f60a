"""A frozen linear layer with a trainable low-rank update beside it."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lrkernels.nn.arguments import check_dropout, check_dtype, check_finite, check_linear, check_rank, has_dense_weight
from lrkernels.nn.base_layer import factors_beside, is_plain_linear
from lrkernels.ops import lowrank_linear, lowrank_merge


def _refresh_after_load(module: LoRALinear, _incompatible_keys: Any) -> None:
    """What ``load_state_dict`` does to a merged module: see ``LoRALinear``."""
    if module._folded:
        module._folded = False
    elif module.merged_weight is not None:
        module.merged_weight = module._merged()


class LoRALinear(nn.Module):
    """A frozen linear layer plus a trainable low-rank update (LoRA).

        y = base_layer(x) + scale·drop(x)·lora_Aᵀ·lora_Bᵀ,    scale = alpha / r,  or alpha / √r with ``rslora``

    ``base_layer`` is any ``nn.Linear``; it is kept, frozen. Exactly ``nn.Linear`` runs fused with the update in one
    op; a subclass, a parametrized layer, or one with hooks runs its own forward, whose output the op adds to.

    Shapes: x ``[..., in_features]``, lora_A ``[r, in_features]``, lora_B ``[out_features, r]``;
    y is ``[..., out_features]``, in the dtype that base_layer(x) has.
    Dtypes: the factors are float32 where the base weight is half precision or quantised (small updates would round
    away in bfloat16), else the base weight's dtype; ``dtype`` overrides. float32 factors serve bfloat16 and float16
    activations without casting them up. Factors that the op does not take beside the activations are cast in every
    forward, to float32 beside half precision, else to the activations' dtype: ``dtype=torch.bfloat16`` over a float32
    base saves memory, not time. The device is the base weight's unless ``device`` says otherwise.
    ``state_dict`` keys: ``lora_A``, ``lora_B`` and the base layer's, ``base_layer.weight`` and ``base_layer.bias``.

    ``alpha`` defaults to r, a scale of 1 without ``rslora``. lora_A starts as ``nn.Linear``'s weight would, lora_B at
    zero: the layer starts as its base. ``dropout`` acts on the update's input in training only; its mask comes from a
    seed drawn from torch's generator once a forward, so ``manual_seed`` and activation checkpointing repeat it.

    Merging: ``merge()`` computes weight + scale·lora_B·lora_A once and then costs what the base costs; the base
    weight is kept as it is, so ``unmerge()`` restores the very same bits. ``merge(keep=False)`` keeps the merged
    weight alone and resets lora_B to zero; ``unmerge()`` then raises. While merged the factors get no gradient and
    dropout does not act. A ``state_dict`` taken while merged with ``keep=True`` holds the unmerged weight and
    factors, and loading one recomputes the merged weight. Loading into a module merged with ``keep=False`` leaves it
    unmerged, with what was loaded.

    Raises TypeError when ``base_layer`` is no ``nn.Linear``, ValueError for r outside [1, min(in, out)], a dropout
    outside [0, 1] or a non-finite alpha.

    Hu et al., "LoRA: low-rank adaptation of large language models", ICLR 2022; Kalajdzievski, "A rank stabilization
    scaling factor for fine-tuning with LoRA", 2023.
    """

    # Names of the parameters that train; replace_linear freezes the rest of the model when a module has this attribute.
    adapter_parameters = ("lora_A", "lora_B")

    def __init__(
        self,
        base_layer: nn.Linear,
        r: int,
        alpha: float | None = None,
        dropout: float = 0.0,
        rslora: bool = False,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_linear("LoRALinear", "base_layer", base_layer)
        check_rank("LoRALinear", "r", r, base_layer.in_features, base_layer.out_features)
        check_finite("LoRALinear", "alpha", r if alpha is None else alpha)
        check_dropout("LoRALinear", dropout)
        check_dtype("LoRALinear", dtype)
        super().__init__()
        self.in_features = base_layer.in_features
        self.out_features = base_layer.out_features
        self.r = r
        self.alpha = float(r if alpha is None else alpha)
        self.dropout = float(dropout)
        self.rslora = rslora
        self.base_layer = base_layer.requires_grad_(False)
        weight = base_layer.weight
        if dtype is None:
            dtype = weight.dtype if weight.dtype in (torch.float32, torch.float64) else torch.float32
        device = weight.device if device is None else device
        self.lora_A = nn.Parameter(torch.empty((r, self.in_features), device=device, dtype=dtype))
        self.lora_B = nn.Parameter(torch.empty((self.out_features, r), device=device, dtype=dtype))
        # The merged weight beside the base's own: dropping it is an unmerge that cannot change a bit, .to() moves both,
        # a tied base weight stays tied, and a state_dict holds the unmerged weight without any hook.
        self.register_buffer("merged_weight", None, persistent=False)
        self._folded = False
        self.register_load_state_dict_post_hook(_refresh_after_load)
        self.train(base_layer.training)
        self.reset_parameters()

    @property
    def scale(self) -> float:
        return self.alpha / (math.sqrt(self.r) if self.rslora else self.r)

    @property
    def merged(self) -> bool:
        return self._folded or self.merged_weight is not None

    @property
    def weight(self) -> Tensor:
        """The weight this layer acts with, base + scale·lora_B·lora_A, computed (differentiably) at each access.

        For code that reads ``layer.weight`` where it should call ``layer``: it sees the update, not the base alone.
        """
        if self.merged_weight is not None:
            return self.merged_weight
        if not has_dense_weight(self.base_layer):
            raise AttributeError("LoRALinear: base_layer.weight is not a floating-point [out, in] matrix")
        if self._folded:
            return self.base_layer.weight
        return self._merged_with(self.base_layer.weight)

    @property
    def bias(self) -> Tensor | None:
        return self.base_layer.bias

    def reset_parameters(self) -> None:
        """Restart the update at zero: lora_A as ``nn.Linear`` starts its weight, lora_B zero."""
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        nn.init.zeros_(self.lora_B)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """y as the class says; further arguments go to the forward of a base layer that takes them."""
        base_layer = self.base_layer
        plain = is_plain_linear(base_layer) and not args and not kwargs
        if self.merged_weight is not None:
            if plain:
                return F.linear(x, self.merged_weight, base_layer.bias)
            return torch.func.functional_call(base_layer, {"weight": self.merged_weight}, (x, *args), kwargs)
        if self._folded:
            return base_layer(x, *args, **kwargs)
        dropout = self.dropout if self.training else 0.0
        seed = torch.randint(0, 2**62, (), device=x.device) if dropout > 0.0 else None
        if plain:
            operands = {"weight": base_layer.weight, "bias": base_layer.bias}
        else:
            base = base_layer(x, *args, **kwargs)
            x, operands = x.to(base.dtype), {"base": base}
        down, up = factors_beside(x.dtype, self.lora_A, self.lora_B)
        return lowrank_linear(x, down, up, seed=seed, scale=self.scale, dropout=dropout, **operands)

    def _merged_with(self, weight: Tensor) -> Tensor:
        down, up = factors_beside(weight.dtype, self.lora_A, self.lora_B)
        return lowrank_merge(weight, down, up, scale=self.scale)

    def _merged(self) -> Tensor:
        """weight + scale·lora_B·lora_A, accumulated in float32 or wider, rounded once, and finite."""
        base_weight = self.base_layer._parameters.get("weight")
        if base_weight is None or not has_dense_weight(self.base_layer):
            raise TypeError(
                f"LoRALinear.merge: base_layer ({type(self.base_layer).__name__}) has no plain floating-point "
                "[out, in] weight to merge into: it is parametrized or quantised"
            )
        if base_weight.is_meta:
            raise RuntimeError("LoRALinear.merge: base_layer.weight is on the meta device; load the weights first")
        # A tensor made in inference mode could never take part in training again.
        with torch.inference_mode(False), torch.no_grad():
            merged = self._merged_with(base_weight)
            if not torch.isfinite(merged).all():
                raise ValueError(
                    f"LoRALinear.merge: the merged weight has NaN or Inf in {merged.dtype}; nothing was changed"
                )
        return merged

    def merge(self, *, keep: bool = True) -> None:
        """Compute the merged weight once, so that the forward costs what the base layer's does.

        With ``keep=False`` the unmerged weight is dropped (another module tied to it keeps it) and ``unmerge()`` is
        given up. Reads the merged weight once to check it, a host sync on CUDA.

        Raises RuntimeError when already merged or on the meta device, TypeError for a quantised or parametrized base,
        ValueError when the merged weight would not be finite; nothing is changed then.
        """
        if self.merged:
            raise RuntimeError("LoRALinear.merge: already merged; call unmerge() first")
        merged = self._merged()
        if keep:
            self.merged_weight = merged
            return
        with torch.inference_mode(self.lora_B.is_inference()):  # where such a tensor may be written
            nn.init.zeros_(self.lora_B)
        self.base_layer.weight = nn.Parameter(merged, requires_grad=False)
        self._folded = True

    def unmerge(self) -> None:
        """Go back to base and update, the very bits they were. Raises RuntimeError when that cannot be."""
        if self._folded:
            raise RuntimeError("LoRALinear.unmerge: merged with keep=False, so the unmerged weight is gone")
        if self.merged_weight is None:
            raise RuntimeError("LoRALinear.unmerge: not merged")
        self.merged_weight = None

    @torch.inference_mode(False)
    def to_linear(self) -> nn.Linear:
        """A copy of the base layer with the merged weight (and the base's class, bias, hooks and frozen state).

        This module is left as it is. Raises as ``merge`` does.
        """
        base_weight = self.base_layer.weight
        if self.merged_weight is not None:
            merged = self.merged_weight.detach().clone()
        else:
            merged = base_weight.detach().clone() if self._folded else self._merged()
        # A weight already in the memo is not copied: the copy gets the merged one in its place.
        return copy.deepcopy(self.base_layer, {id(base_weight): nn.Parameter(merged, base_weight.requires_grad)})

    def extra_repr(self) -> str:
        sizes = f"in_features={self.in_features}, out_features={self.out_features}, r={self.r}"
        return f"{sizes}, alpha={self.alpha:g}, dropout={self.dropout:g}, rslora={self.rslora}, merged={self.merged}"
