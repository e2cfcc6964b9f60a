"""ldmatrix and stmatrix: 8x8 matrices of 16-bit elements, which lie anywhere in shared memory, row by row."""

import fragments
import numpy as np
from models import model, permutations, random_bits


def loaded(count, transposed):
    rows, cols = fragments.matrix_8x8()

    def draw(rng, trials):
        return [random_bits(rng, np.uint16, trials, 8 * count, 8), permutations(rng, trials, 8 * count)]

    def expected(contents, row):
        matrices = np.take_along_axis(contents, row[..., None].astype(np.int64), axis=1).reshape(-1, count, 8, 8)
        if transposed:
            matrices = matrices.swapaxes(2, 3)
        return matrices[:, :, rows, cols].transpose(0, 2, 1, 3)  # trial, lane, register, half

    return draw, expected


def stored(count, transposed):
    rows, cols = fragments.matrix_8x8()

    def draw(rng, trials):
        return [
            random_bits(rng, np.uint16, trials, fragments.LANES, count, 2),
            permutations(rng, trials, 8 * count),
        ]

    def expected(registers, row):
        matrices = np.empty((len(registers), count, 8, 8), np.uint16)
        matrices[:, :, rows, cols] = registers.transpose(0, 2, 1, 3)
        if transposed:
            matrices = matrices.swapaxes(2, 3)
        contents = np.empty((len(registers), 8 * count, 8), np.uint16)
        np.put_along_axis(contents, row[..., None].astype(np.int64), matrices.reshape(-1, 8 * count, 8), axis=1)
        return contents

    return draw, expected


for count in (1, 2, 4):
    for suffix, transposed in (("", False), (".trans", True)):
        model(f"ldmatrix_x{count}{suffix}", "any", *loaded(count, transposed))
        model(f"stmatrix_x{count}{suffix}", "any", *stored(count, transposed))
