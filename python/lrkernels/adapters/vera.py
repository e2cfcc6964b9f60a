"""VeRA: random frozen factors, shared by the layers of a model, between two trained vectors."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from lrkernels.adapters.low_rank_adapter import Factors, LowRankAdapter
from lrkernels.nn.arguments import check_size


class VeRAFactors(nn.Module):
    """The frozen down ``[r, in_features]`` and up ``[out_features, r]``, which ``seed`` determines on every device.

    Made once for a model's largest layer, it serves them all: a layer reads the columns and rows it needs. No layer
    resets it; after ``to_empty()`` call its ``reset_parameters()``, which draws the same values again.
    """

    def __init__(
        self,
        r: int,
        in_features: int,
        out_features: int,
        seed: int = 0,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        for argument, value in (("r", r), ("in_features", in_features), ("out_features", out_features)):
            check_size("VeRAFactors", argument, value)
        super().__init__()
        self.seed = seed
        made_with = {"device": device, "dtype": dtype}
        self.down = nn.Parameter(torch.empty((r, in_features), **made_with), requires_grad=False)
        self.up = nn.Parameter(torch.empty((out_features, r), **made_with), requires_grad=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Uniform with variance 2 / fan-in (Kaiming), as the paper draws them."""
        generator = torch.Generator().manual_seed(self.seed)
        for factor in (self.down, self.up):
            bound = math.sqrt(6.0 / factor.shape[1])
            factor.copy_((2.0 * torch.rand(factor.shape, generator=generator) - 1.0) * bound)

    def extra_repr(self) -> str:
        return f"down={tuple(self.down.shape)}, up={tuple(self.up.shape)}, seed={self.seed}"


class VeRA(LowRankAdapter):
    """W + diag(row_scale)·up·diag(gate)·down: ``gate [r]`` and ``row_scale [out]`` train, ``VeRAFactors`` do not.

        shared = VeRAFactors(256, in_features=4096, out_features=11008)
        replace_linear(model, partial(VeRA.wrap, r=256, shared=shared), target_modules="all-linear")

    ``gate`` starts at ``gate_start``, row_scale at zero. Without ``shared`` the layer has factors of its own. They are
    in the ``state_dict`` of every layer, as one tensor.

    Raises as ``LowRankAdapter``, and ValueError for shared factors that are smaller than the layer or of another rank.

    Kopiczko, Blankevoort and Asano, "VeRA: vector-based random matrix adaptation", ICLR 2024.
    """

    def __init__(
        self,
        base_layer: nn.Linear,
        r: int,
        shared: VeRAFactors | None = None,
        gate_start: float = 0.1,
        **kwargs: Any,
    ) -> None:
        super().__init__(base_layer, r, **kwargs)
        self.owns_factors = shared is None
        if shared is None:
            shared = VeRAFactors(r, self.in_features, self.out_features, **self._made_with)
        self.shared = shared
        down, up = self.shared.down, self.shared.up
        if down.shape[0] != r or down.shape[1] < self.in_features or up.shape[0] < self.out_features:
            raise ValueError(
                f"VeRA: shared has factors {tuple(down.shape)} and {tuple(up.shape)}, expected rank {r}, at least "
                f"{self.in_features} columns and {self.out_features} rows"
            )
        self.gate_start = float(gate_start)
        self.gate = self.parameter(r)
        self.row_scale = self.parameter(self.out_features)

    def reset_parameters(self, base_layer: nn.Linear) -> None:
        if self.owns_factors:
            self.shared.reset_parameters()
        nn.init.constant_(self.gate, self.gate_start)
        nn.init.zeros_(self.row_scale)

    def factors(self) -> Factors:
        down, up = self.shared.down[:, : self.in_features], self.shared.up[: self.out_features]
        return Factors(down, self.row_scale[:, None] * up, gate=self.gate, scale=self.scale)
