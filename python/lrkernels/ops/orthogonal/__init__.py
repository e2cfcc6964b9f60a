"""Products with orthogonal matrices, and maps onto them, an op a file."""

from lrkernels.ops.orthogonal.block_diagonal import block_diagonal_apply
from lrkernels.ops.orthogonal.cayley import cayley
from lrkernels.ops.orthogonal.cayley_rectangular import cayley_rectangular
from lrkernels.ops.orthogonal.givens import givens_apply
from lrkernels.ops.orthogonal.householder import householder_apply

__all__ = ["block_diagonal_apply", "cayley", "cayley_rectangular", "givens_apply", "householder_apply"]
