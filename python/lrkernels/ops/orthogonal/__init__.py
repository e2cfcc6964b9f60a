"""Products with orthogonal matrices, an op a file."""

from lrkernels.ops.orthogonal.givens import givens_apply

__all__ = ["givens_apply"]
