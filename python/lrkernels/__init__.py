"""lrkernels: low-rank, sparse and orthogonal layers for PyTorch, as fast kernels behind ordinary ops."""

import importlib as _importlib
from pathlib import Path as _Path

import torch as _torch  # noqa: F401  (the extension resolves its symbols against the libraries torch has loaded)

from lrkernels import _C, reference  # noqa: F401
from lrkernels.inspection import build_info, explain, force, trace
from lrkernels.interop.peft import accelerate, restore
from lrkernels.nn import replace_linear
from lrkernels.ops import (
    block_diagonal_apply,
    cayley,
    cayley_rectangular,
    givens_apply,
    householder_apply,
    low_rank_approx,
    lowrank_expand,
    lowrank_linear,
    lowrank_linear_indexed,
    lowrank_merge,
    lowrank_project,
    orthonormalize,
    polar,
    power_iteration,
    range_finder,
    rsvd,
    rsvd_error,
    sketch,
    sparse24_compress,
    sparse24_decompress,
    sparse24_linear,
    sparse24_linear_ste,
    sparse24_mask,
    sparse24_pack,
    spectral_norm_bound,
    unsketch,
)

__version__ = (_Path(__file__).parent / "VERSION").read_text().strip()


def __getattr__(name: str):
    """lrkernels.adapters and the like, imported when somebody asks for them."""
    if name in ("adapters", "compress", "diagnostics", "optim", "testing"):
        return _importlib.import_module(f"lrkernels.{name}")
    raise AttributeError(f"module 'lrkernels' has no attribute {name!r}")


__all__ = [
    "accelerate",
    "block_diagonal_apply",
    "build_info",
    "cayley",
    "cayley_rectangular",
    "explain",
    "force",
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
    "reference",
    "replace_linear",
    "restore",
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
    "trace",
    "unsketch",
]
