"""What PEFT's HRA does to its vectors with apply_GS."""

from __future__ import annotations

import torch
from torch import Tensor


def gram_schmidt(rows: Tensor) -> Tensor:
    """Orthonormal rows. Modified Gram-Schmidt: what PEFT takes off a row, in its order, but off all later rows at once.

    Rows that depend on each other, as PEFT's default initialisation makes them, leave rounding errors to normalise.
    """
    done = []
    while len(rows):
        first = rows[0] / torch.linalg.vector_norm(rows[0])
        done.append(first)
        rows = rows[1:] - torch.outer(rows[1:] @ first, first)
    return torch.stack(done)
