"""The randomized SVD family: sketches, bases, truncated decompositions, polar factors and norms."""

from lrkernels.ops.sketch.estimates import power_iteration, rsvd_error
from lrkernels.ops.sketch.factorisations import orthonormalize, polar, spectral_norm_bound
from lrkernels.ops.sketch.rsvd import low_rank_approx, range_finder, rsvd
from lrkernels.ops.sketch.sketch import sketch, unsketch

__all__ = [
    "low_rank_approx",
    "orthonormalize",
    "polar",
    "power_iteration",
    "range_finder",
    "rsvd",
    "rsvd_error",
    "sketch",
    "spectral_norm_bound",
    "unsketch",
]
