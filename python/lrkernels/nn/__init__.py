"""Modules built on lrkernels.ops, and ``replace_linear`` to put them in the place of a model's layers."""

from lrkernels.nn.lora_linear import LoRALinear
from lrkernels.nn.lowrank_linear import LowRankLinear
from lrkernels.nn.replace import replace_linear
from lrkernels.nn.replace_report import Replacement, ReplaceReport

__all__ = ["LoRALinear", "LowRankLinear", "ReplaceReport", "Replacement", "replace_linear"]
