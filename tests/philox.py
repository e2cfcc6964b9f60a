"""Philox4x32-10 written from the paper in NumPy's uint64, not from our code: the answer the dropout tests compare with.

Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

import numpy as np


def philox_bits(seed: int, count: int) -> np.ndarray:
    """32 random bits for each element index below ``count``: element i is word i % 4 of counter i // 4."""
    block = np.arange((count + 3) // 4, dtype=np.uint64)
    mask = np.uint64(0xFFFFFFFF)
    counter = [block & mask, block >> np.uint64(32), np.zeros_like(block), np.zeros_like(block)]
    key = [np.uint64(seed % 2**64) & mask, np.uint64(seed % 2**64) >> np.uint64(32)]
    for _ in range(10):
        product0, product1 = np.uint64(0xD2511F53) * counter[0], np.uint64(0xCD9E8D57) * counter[2]
        counter = [
            (product1 >> np.uint64(32)) ^ counter[1] ^ key[0],
            product1 & mask,
            (product0 >> np.uint64(32)) ^ counter[3] ^ key[1],
            product0 & mask,
        ]
        key = [(key[0] + np.uint64(0x9E3779B9)) & mask, (key[1] + np.uint64(0xBB67AE85)) & mask]
    return np.stack(counter, axis=-1).reshape(-1)[:count]


def philox_mask(seed: int, count: int, dropout: float) -> np.ndarray:
    """The multiplier of every element: 0 with probability ``dropout``, else 1 / (1 - dropout)."""
    if dropout == 1.0:
        return np.zeros(count)
    return (philox_bits(seed, count) >= np.uint64(int(dropout * 2**32))) / (1.0 - dropout)
