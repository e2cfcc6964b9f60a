"""Every adapter of the kit, with options that make its equation show."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from lrkernels.adapters import (
    BOFT,
    GOFT,
    HRA,
    OFT,
    PSOFT,
    SORSA,
    SVFT,
    AdaLoRA,
    AdaptedLinear,
    Adapter,
    CoLA,
    DoRA,
    DyLoRA,
    Givens,
    LaMDA,
    LoRA,
    LoRAFA,
    LoRAXS,
    NoRA,
    OffsetLoRA,
    PiSSA,
    SingLoRA,
    TLoRA,
    VeRA,
)


@dataclass
class Case:
    adapter_class: type[Adapter]
    options: dict[str, Any] = field(default_factory=dict)
    # What check_adapter needs besides: options under which the gradient is the whole derivative, and prepare.
    checked_with: dict[str, Any] = field(default_factory=dict)

    def layer(self, in_features=12, out_features=10, dtype=torch.float64, **options) -> AdaptedLinear:
        """A layer as if it had been trained, outside training."""
        linear = nn.Linear(in_features, out_features, dtype=dtype)
        layer = self.adapter_class.wrap(linear, **{**self.options, **options}).eval()
        for parameter in layer.adapter.parameters():
            if parameter.requires_grad:
                nn.init.normal_(parameter)
        if self.adapter_class is SingLoRA:
            ramp_up(layer.adapter)
        return layer


def ramp_up(adapter: SingLoRA) -> None:
    adapter.step.fill_(30)  # of 100


def freeze_half(adapter: LaMDA) -> None:
    adapter.freeze_rows(0.5)


def use_three(adapter: TLoRA) -> None:
    adapter.rank = 3


CASES = {
    case.adapter_class.__name__: case
    for case in (
        Case(LoRA, {"r": 4, "alpha": 6.0, "rslora": True}, {"dropout": 0.25}),
        Case(LoRAFA, {"r": 4, "alpha": 6.0}),
        Case(DoRA, {"r": 4, "alpha": 6.0}, {"dropout": 0.25, "detach_norm": False}),
        Case(VeRA, {"r": 5}),
        Case(PiSSA, {"r": 4, "alpha": 6.0}, {"dropout": 0.25}),
        Case(OffsetLoRA, {"r": 4, "alpha": 6.0}, {"dropout": 0.25}),
        Case(LoRAXS, {"r": 4, "alpha": 6.0}),
        Case(LaMDA, {"r": 4, "alpha": 6.0}, {"prepare": freeze_half}),
        Case(TLoRA, {"r": 4, "alpha": 6.0}, {"dropout": 0.25, "prepare": use_three}),
        Case(NoRA, {"r": 4, "inner": 2, "alpha": 6.0}),
        Case(SVFT, {"r": 4, "alpha": 6.0, "band": 1}, {"dropout": 0.25}),
        Case(SingLoRA, {"r": 4, "alpha": 6.0}, {"prepare": ramp_up}),
        Case(AdaLoRA, {"r": 4, "alpha": 6.0}),
        Case(DyLoRA, {"r": 4, "alpha": 6.0}),
        Case(CoLA, {"r": 4}, {"dropout": 0.25}),
        Case(Givens),
        Case(OFT, {"block_size": 2}),
        Case(BOFT, {"block_size": 2, "factors": 1}),
        Case(HRA, {"r": 4}),
        Case(GOFT),
        Case(PSOFT, {"r": 4}, {"dropout": 0.25}),
        Case(SORSA, {"r": 4, "alpha": 6.0}, {"dropout": 0.25}),
    )
}

# Adapters that multiply the weight, so that no matrix that does not depend on it is their update.
MULTIPLICATIVE = ("DoRA", "Givens", "OFT", "BOFT", "HRA", "GOFT")
