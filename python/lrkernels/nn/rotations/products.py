"""The orthogonal products that rotations and maps are made of."""

from lrkernels.ops import block_diagonal_apply, cayley, cayley_rectangular, givens_apply, householder_apply

__all__ = ["block_diagonal_apply", "cayley", "cayley_rectangular", "givens_apply", "householder_apply"]
