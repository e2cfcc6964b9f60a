"""2:4 sparse matrices: masks, the portable format, and products with a low-rank term."""

from lrkernels.ops.sparse24.format import sparse24_compress, sparse24_decompress, sparse24_pack
from lrkernels.ops.sparse24.linear import sparse24_linear
from lrkernels.ops.sparse24.mask import sparse24_mask
from lrkernels.ops.sparse24.straight_through import sparse24_linear_ste

__all__ = [
    "sparse24_compress",
    "sparse24_decompress",
    "sparse24_linear",
    "sparse24_linear_ste",
    "sparse24_mask",
    "sparse24_pack",
]
