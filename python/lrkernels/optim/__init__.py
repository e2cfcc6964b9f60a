"""Optimizers of matrices: steps in few directions of the gradient, orthogonal steps, and a sorting of parameters."""

from lrkernels.optim.basis import Basis, MatrixBasis
from lrkernels.optim.coefficients import polar_express
from lrkernels.optim.dct import DCT
from lrkernels.optim.dion import Dion
from lrkernels.optim.fira import Fira
from lrkernels.optim.flora import Flora
from lrkernels.optim.galore import GaLore
from lrkernels.optim.matrix_optimizer import MatrixOptimizer
from lrkernels.optim.muon import Muon
from lrkernels.optim.normuon import NorMuon
from lrkernels.optim.param_groups import ParamGroups, param_groups
from lrkernels.optim.projected import ProjectedOptimizer

__all__ = [
    "DCT",
    "Basis",
    "Dion",
    "Fira",
    "Flora",
    "GaLore",
    "MatrixBasis",
    "MatrixOptimizer",
    "Muon",
    "NorMuon",
    "ParamGroups",
    "ProjectedOptimizer",
    "param_groups",
    "polar_express",
]
