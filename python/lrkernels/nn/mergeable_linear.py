"""A frozen linear layer under an update that can be merged into its weight, and taken out again to the last bit."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lrkernels.nn.arguments import has_dense_weight
from lrkernels.nn.base_layer import BaseCall, is_plain_linear


def _refresh_after_load(module: MergeableLinear, _incompatible_keys: Any) -> None:
    """What ``load_state_dict`` does to a merged module: see ``MergeableLinear``."""
    if module._folded:
        module._folded = False
    elif module.merged_weight is not None:
        module.merged_weight = module._merged()


class MergeableLinear(nn.Module):
    """A frozen ``nn.Linear`` under an update; a subclass says what the update computes and what it does to the weight.

    Merging: ``merge()`` computes the merged weight once and then costs what the base costs; the base weight is kept as
    it is, so ``unmerge()`` restores the very same bits. ``merge(keep=False)`` keeps the merged weight alone and clears
    the update; ``unmerge()`` then raises. A ``state_dict`` taken while merged with ``keep=True`` holds the unmerged
    weight and the update, and loading one recomputes the merged weight. Loading into a module merged with
    ``keep=False`` leaves it unmerged, with what was loaded.

    The base layer runs its own forward wherever it is more than F.linear: a subclass, a parametrized or hooked layer.
    """

    # Whether there is one weight that the updated layer acts with; a nonlinear update has none.
    mergeable = True

    def __init__(self, base_layer: nn.Linear) -> None:
        super().__init__()
        self.in_features = base_layer.in_features
        self.out_features = base_layer.out_features
        self.base_layer = base_layer.requires_grad_(False)
        # The merged weight beside the base's own: dropping it is an unmerge that cannot change a bit, .to() moves both,
        # a tied base weight stays tied, and a state_dict holds the unmerged weight without any hook.
        self.register_buffer("merged_weight", None, persistent=False)
        self._folded = False
        self.register_load_state_dict_post_hook(_refresh_after_load)
        self.train(base_layer.training)

    def _updated(self, base: BaseCall) -> Tensor:
        """The layer's output, update included."""
        raise NotImplementedError

    def _merged_with(self, weight: Tensor) -> Tensor:
        """The weight that acts as ``weight`` and the update together, accumulated wide and rounded once."""
        raise NotImplementedError

    def _clear_update(self) -> None:
        """Make the update one that changes nothing."""
        raise NotImplementedError

    @property
    def merged(self) -> bool:
        return self._folded or self.merged_weight is not None

    @property
    def weight(self) -> Tensor:
        """The weight this layer acts with, base and update together, computed (differentiably) at each access.

        For code that reads ``layer.weight`` where it should call ``layer``: it sees the update, not the base alone.
        """
        if self.merged_weight is not None:
            return self.merged_weight
        if not self.mergeable or not has_dense_weight(self.base_layer):
            raise AttributeError(f"{type(self).__name__}: there is no one floating-point [out, in] weight it acts with")
        if self._folded:
            return self.base_layer.weight
        return self._merged_with(self.base_layer.weight)

    @property
    def bias(self) -> Tensor | None:
        return self.base_layer.bias

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """y as the class says; further arguments go to the forward of a base layer that takes them."""
        base_layer = self.base_layer
        if self.merged_weight is not None:
            if is_plain_linear(base_layer) and not args and not kwargs:
                return F.linear(x, self.merged_weight, base_layer.bias)
            return torch.func.functional_call(base_layer, {"weight": self.merged_weight}, (x, *args), kwargs)
        if self._folded:
            return base_layer(x, *args, **kwargs)
        return self._updated(BaseCall(base_layer, x, args, kwargs))

    def _merged(self) -> Tensor:
        """The merged weight, finite."""
        name = f"{type(self).__name__}.merge"
        base_weight = self.base_layer._parameters.get("weight")
        if base_weight is None or not has_dense_weight(self.base_layer):
            raise TypeError(
                f"{name}: base_layer ({type(self.base_layer).__name__}) has no plain floating-point "
                "[out, in] weight to merge into: it is parametrized or quantised"
            )
        if base_weight.is_meta:
            raise RuntimeError(f"{name}: base_layer.weight is on the meta device; load the weights first")
        # A tensor made in inference mode could never take part in training again.
        with torch.inference_mode(False), torch.no_grad():
            merged = self._merged_with(base_weight)
            if merged.dtype != base_weight.dtype or merged.shape != base_weight.shape:
                raise TypeError(
                    f"{name}: the merged weight is {merged.dtype} {tuple(merged.shape)}, expected "
                    f"{base_weight.dtype} {tuple(base_weight.shape)}, as the base layer's"
                )
            if not torch.isfinite(merged).all():
                raise ValueError(f"{name}: the merged weight has NaN or Inf in {merged.dtype}; nothing was changed")
        return merged

    def merge(self, *, keep: bool = True) -> None:
        """Compute the merged weight once, so that the forward costs what the base layer's does.

        With ``keep=False`` the unmerged weight is dropped (another module tied to it keeps it) and ``unmerge()`` is
        given up. Reads the merged weight once to check it, a host sync on CUDA.

        Raises RuntimeError when already merged or on the meta device, TypeError for a quantised or parametrized base,
        ValueError when the merged weight would not be finite; nothing is changed then.
        """
        if self.merged:
            raise RuntimeError(f"{type(self).__name__}.merge: already merged; call unmerge() first")
        merged = self._merged()
        if keep:
            self.merged_weight = merged
            return
        self.base_layer.weight = nn.Parameter(merged, requires_grad=False)
        self._clear_update()
        self._folded = True

    def unmerge(self) -> None:
        """Go back to base and update, the very bits they were. Raises RuntimeError when that cannot be."""
        name = f"{type(self).__name__}.unmerge"
        if self._folded:
            raise RuntimeError(f"{name}: merged with keep=False, so the unmerged weight is gone")
        if self.merged_weight is None:
            raise RuntimeError(f"{name}: not merged")
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
