"""``torch.ops.lrk.*`` made complete: fakes, gradients, autocast, vmap, and the Python twins with early checks."""

from lrkernels.ops.lowrank import lowrank_expand, lowrank_linear, lowrank_merge, lowrank_project
from lrkernels.ops.lowrank_indexed import lowrank_linear_indexed
from lrkernels.ops.orthogonal import (
    block_diagonal_apply,
    cayley,
    cayley_rectangular,
    givens_apply,
    householder_apply,
)

__all__ = [
    "block_diagonal_apply",
    "cayley",
    "cayley_rectangular",
    "givens_apply",
    "householder_apply",
    "lowrank_expand",
    "lowrank_linear",
    "lowrank_linear_indexed",
    "lowrank_merge",
    "lowrank_project",
]
