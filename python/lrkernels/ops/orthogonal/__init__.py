"""Products with orthogonal matrices, and maps onto them, an op a file."""

from lrkernels.ops.orthogonal.cayley_rectangular import cayley_rectangular
from lrkernels.ops.orthogonal.givens import givens_apply
from lrkernels.ops.orthogonal.householder import householder_apply

__all__ = ["cayley_rectangular", "givens_apply", "householder_apply"]
