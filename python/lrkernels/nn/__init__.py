"""Modules built on lrkernels.ops, and ``replace_linear`` to put them in the place of a model's layers."""

from lrkernels.nn import givens_schedule
from lrkernels.nn.initialization import delta_orthogonal_, lsuv_, zero_one_
from lrkernels.nn.input_statistics import InputStatistics, input_statistics
from lrkernels.nn.lora_linear import LoRALinear
from lrkernels.nn.lowrank_linear import LowRankLinear
from lrkernels.nn.orthogonal_linear import OrthogonalLinear
from lrkernels.nn.orthogonal_parametrization import orthogonal
from lrkernels.nn.orthogonality import (
    convolution_orthogonality,
    double_soft_orthogonality,
    mutual_coherence,
    soft_orthogonality,
    spectral_isometry,
    unit_spectral_norm,
)
from lrkernels.nn.psoft_linear import PSOFTLinear
from lrkernels.nn.replace import replace_linear
from lrkernels.nn.replace_report import Replacement, ReplaceReport
from lrkernels.nn.rotations import (
    BOFTLinear,
    GivensLinear,
    GOFTLinear,
    HouseholderLinear,
    OFTLinear,
    RotatedLinear,
    Rotation,
    project_after_steps,
)
from lrkernels.nn.row_conditioning import condition_rows
from lrkernels.nn.sandwich_linear import SandwichLinear
from lrkernels.nn.sketched_linear import SketchedLinear
from lrkernels.nn.sparse24_lowrank_linear import Sparse24LowRankLinear
from lrkernels.nn.split_lowrank_linear import SplitLowRankLinear

__all__ = [
    "BOFTLinear",
    "GOFTLinear",
    "GivensLinear",
    "HouseholderLinear",
    "InputStatistics",
    "LoRALinear",
    "LowRankLinear",
    "OFTLinear",
    "OrthogonalLinear",
    "PSOFTLinear",
    "ReplaceReport",
    "Replacement",
    "RotatedLinear",
    "Rotation",
    "SandwichLinear",
    "SketchedLinear",
    "Sparse24LowRankLinear",
    "SplitLowRankLinear",
    "condition_rows",
    "convolution_orthogonality",
    "delta_orthogonal_",
    "double_soft_orthogonality",
    "givens_schedule",
    "input_statistics",
    "lsuv_",
    "mutual_coherence",
    "orthogonal",
    "project_after_steps",
    "replace_linear",
    "soft_orthogonality",
    "spectral_isometry",
    "unit_spectral_norm",
    "zero_one_",
]
