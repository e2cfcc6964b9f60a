"""Shared and global accesses, and cp.async."""

import numpy as np
from models import model, permutations, random_bits, scatter

THREADS = 64


def values_and_slots(dtype, *shape):
    def draw(rng, trials):
        return [random_bits(rng, dtype, trials, THREADS, *shape), permutations(rng, trials, THREADS)]

    return draw


model("shared_16", "any", values_and_slots(np.uint32, 4), scatter)
model("shared_2", "any", values_and_slots(np.uint16), scatter)


def values_and_predicates(rng, trials):
    exists = random_bits(rng, np.uint32, trials, THREADS) * rng.integers(0, 2, (trials, THREADS), dtype=np.uint32)
    return [random_bits(rng, np.uint16, trials, THREADS), exists]


model("load_global_2", "any", values_and_predicates, lambda v, exists: np.where(exists != 0, v, 0).astype(np.uint32))


def async_copies(size):
    def draw(rng, trials):
        source = random_bits(rng, np.uint8, trials, THREADS, size)
        return [
            source,
            permutations(rng, trials, THREADS),
            rng.integers(0, size, (trials, THREADS), dtype=np.uint32, endpoint=True),
        ]

    return draw


def zero_filled(source, slots, kept):
    return scatter(np.where(np.arange(source.shape[-1]) < kept[..., None], source, 0).astype(np.uint8), slots)


for size in (4, 8, 16):
    model(f"cp_async<{size}>", "zero-fill", async_copies(size), zero_filled)


def async_groups(rng, trials):
    return [random_bits(rng, np.uint32, trials, 5, THREADS), permutations(rng, trials, THREADS)]


def scattered_rows(source, slots):
    return np.stack([scatter(source[:, row], slots) for row in range(source.shape[1])], axis=1)


model("cp_async_groups", "any", async_groups, scattered_rows)
