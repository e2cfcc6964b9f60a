"""Products with orthogonal matrices, an op a file."""

from lrkernels.ops.orthogonal.block_diagonal import block_diagonal_apply
from lrkernels.ops.orthogonal.cayley import cayley
from lrkernels.ops.orthogonal.givens import givens_apply

__all__ = ["block_diagonal_apply", "cayley", "givens_apply"]
