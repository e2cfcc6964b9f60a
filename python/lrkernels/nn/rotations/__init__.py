"""Trained orthogonal transforms R of a layer's input features, a file a parametrization, each with its layer."""

from lrkernels.nn.rotations.boft import BOFTLinear, ButterflyRotation
from lrkernels.nn.rotations.givens import GivensLinear, GivensRotation
from lrkernels.nn.rotations.goft import GOFTLinear, QuasiTreeRotation, TreeRotation
from lrkernels.nn.rotations.householder import HouseholderLinear, HouseholderRotation
from lrkernels.nn.rotations.oft import BlockRotation, OFTLinear, project_after_steps
from lrkernels.nn.rotations.rotated_linear import RotatedLinear
from lrkernels.nn.rotations.rotation import Rotation

__all__ = [
    "BOFTLinear",
    "BlockRotation",
    "ButterflyRotation",
    "GOFTLinear",
    "GivensLinear",
    "GivensRotation",
    "HouseholderLinear",
    "HouseholderRotation",
    "OFTLinear",
    "QuasiTreeRotation",
    "RotatedLinear",
    "Rotation",
    "TreeRotation",
    "project_after_steps",
]
