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
from lrkernels.ops.sketch import (
    low_rank_approx,
    orthonormalize,
    polar,
    power_iteration,
    range_finder,
    rsvd,
    rsvd_error,
    sketch,
    spectral_norm_bound,
    unsketch,
)
from lrkernels.ops.sparse24 import (
    sparse24_compress,
    sparse24_decompress,
    sparse24_linear,
    sparse24_linear_ste,
    sparse24_mask,
    sparse24_pack,
)

__all__ = [
    "block_diagonal_apply",
    "cayley",
    "cayley_rectangular",
    "givens_apply",
    "householder_apply",
    "low_rank_approx",
    "lowrank_expand",
    "lowrank_linear",
    "lowrank_linear_indexed",
    "lowrank_merge",
    "lowrank_project",
    "orthonormalize",
    "polar",
    "power_iteration",
    "range_finder",
    "rsvd",
    "rsvd_error",
    "sketch",
    "sparse24_compress",
    "sparse24_decompress",
    "sparse24_linear",
    "sparse24_linear_ste",
    "sparse24_mask",
    "sparse24_pack",
    "spectral_norm_bound",
    "unsketch",
]
