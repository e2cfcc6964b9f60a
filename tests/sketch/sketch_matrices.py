"""The sketching matrices from the words of tests/philox.py, entry by entry in NumPy: what all must give."""

import numpy as np
from philox import philox_bits


def rademacher(features, size, seed):
    words = philox_bits(seed, -(-size // 32) * features)
    matrix = np.empty((features, size))
    for i in range(features):
        for j in range(size):
            bit = int(words[j // 32 * features + i]) >> (j % 32) & 1
            matrix[i, j] = (-1.0) ** bit / np.sqrt(size)
    return matrix


def sparse_sign(features, size, seed):
    count = min(8, size)
    words = philox_bits(seed, 12 * features).reshape(features, 12)
    matrix = np.zeros((features, size))
    for i in range(features):
        for t in range(count):
            top = size - count + t
            column = int(words[i, t]) * (top + 1) >> 32
            if matrix[i, column] != 0:
                column = top
            matrix[i, column] = (-1.0) ** (int(words[i, 8]) >> t & 1) / np.sqrt(count)
    return matrix


def gaussian(features, size, seed):
    words = philox_bits(seed, 2 * -(-size // 2) * features).astype(float)
    matrix = np.empty((features, size))
    for i in range(features):
        for j in range(size):
            pair = j // 2 * features + i
            radius = np.sqrt(-2 * np.log((words[2 * pair] + 1) / 2**32))
            angle = 2 * np.pi * words[2 * pair + 1] / 2**32
            matrix[i, j] = radius * (np.sin(angle) if j % 2 else np.cos(angle)) / np.sqrt(size)
    return matrix


def hadamard(features, size, seed):
    whole = 1
    hadamard = np.ones((1, 1))
    while whole < features:
        hadamard, whole = np.kron([[1, 1], [1, -1]], hadamard), 2 * whole
    words = philox_bits(seed, whole + -(-features // 32))
    columns = sorted(range(whole), key=lambda c: (int(words[c]), c))[:size]
    flips = np.array([(-1.0) ** (int(words[whole + i // 32]) >> (i % 32) & 1) for i in range(features)])
    return flips[:, None] * hadamard[:features][:, columns] / np.sqrt(size)


def dct(features, size, seed):
    i, f = np.arange(features)[:, None], np.arange(size)
    return np.sqrt(np.where(f == 0, 1, 2) / features) * np.cos(np.pi * (2 * i + 1) * f / (2 * features))


MATRICES = {
    "rademacher": rademacher,
    "sparse_sign": sparse_sign,
    "gaussian": gaussian,
    "hadamard": hadamard,
    "dct": dct,
}
