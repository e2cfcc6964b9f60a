"""The plain-torch twins of every op: slow, obvious, differentiable any number of times.

They define what the kernels must compute. ``LRK_REFERENCE=1`` runs them in place of the kernels ("my bug or yours?"), a
device without kernels falls back to them, and the second derivatives of the ops are theirs.
"""

from lrkernels.reference.lowrank import (
    dropout_mask,
    lowrank_expand,
    lowrank_expand_backward,
    lowrank_linear,
    lowrank_linear_backward,
    lowrank_linear_saving,
    lowrank_merge,
    lowrank_project,
    lowrank_project_backward,
    philox_bits,
)
from lrkernels.reference.lowrank_indexed import (
    lowrank_linear_indexed,
    lowrank_linear_indexed_backward,
    lowrank_linear_indexed_saving,
    lowrank_project_indexed_backward,
)
from lrkernels.reference.orthogonal import (
    block_diagonal_apply,
    block_diagonal_backward,
    cayley,
    cayley_backward,
    cayley_rectangular,
    cayley_rectangular_backward,
    cayley_rectangular_saving,
    givens_apply,
    givens_backward,
    givens_pairs,
    householder_apply,
    householder_backward,
    skew_matrices,
)

__all__ = [
    "block_diagonal_apply",
    "block_diagonal_backward",
    "cayley",
    "cayley_backward",
    "cayley_rectangular",
    "cayley_rectangular_backward",
    "cayley_rectangular_saving",
    "dropout_mask",
    "givens_apply",
    "givens_backward",
    "givens_pairs",
    "householder_apply",
    "householder_backward",
    "lowrank_expand",
    "lowrank_expand_backward",
    "lowrank_linear",
    "lowrank_linear_backward",
    "lowrank_linear_indexed",
    "lowrank_linear_indexed_backward",
    "lowrank_linear_indexed_saving",
    "lowrank_linear_saving",
    "lowrank_merge",
    "lowrank_project",
    "lowrank_project_backward",
    "lowrank_project_indexed_backward",
    "philox_bits",
    "skew_matrices",
]
