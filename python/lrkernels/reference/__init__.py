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
from lrkernels.reference.polar import polar, power_iteration, spectral_norm_bound
from lrkernels.reference.rsvd import low_rank_approx, orthonormalize, range_finder, rsvd
from lrkernels.reference.sketch import dct_columns, sketch, sketch_matrix, unsketch
from lrkernels.reference.sparse24 import (
    sparse24_compress,
    sparse24_decompress,
    sparse24_indices,
    sparse24_linear,
    sparse24_linear_backward,
    sparse24_linear_ste,
    sparse24_mask,
    sparse24_pack,
    sparse24_positions,
)
from lrkernels.reference.svd_gradient import (
    low_rank_approx_backward,
    orthonormalize_backward,
    polar_exact_backward,
    rsvd_backward,
)

__all__ = [
    "block_diagonal_apply",
    "block_diagonal_backward",
    "cayley",
    "cayley_backward",
    "cayley_rectangular",
    "cayley_rectangular_backward",
    "cayley_rectangular_saving",
    "dct_columns",
    "dropout_mask",
    "givens_apply",
    "givens_backward",
    "givens_pairs",
    "householder_apply",
    "householder_backward",
    "low_rank_approx",
    "low_rank_approx_backward",
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
    "orthonormalize",
    "orthonormalize_backward",
    "philox_bits",
    "polar",
    "polar_exact_backward",
    "power_iteration",
    "range_finder",
    "rsvd",
    "rsvd_backward",
    "sketch",
    "sketch_matrix",
    "skew_matrices",
    "sparse24_compress",
    "sparse24_decompress",
    "sparse24_indices",
    "sparse24_linear",
    "sparse24_linear_backward",
    "sparse24_linear_ste",
    "sparse24_mask",
    "sparse24_pack",
    "sparse24_positions",
    "spectral_norm_bound",
    "unsketch",
]
