"""The rotations of lrkernels.nn as dense matrices R of x·R, entry by entry from their equations; differentiable."""

import torch


def plane(features, i, j, block):
    """The map of row vectors that takes (x_i, x_j) to block·(x_i, x_j), as the matrix M of x·M."""
    matrix = torch.eye(features, dtype=block.dtype)
    row, column = torch.tensor([i, j, i, j]), torch.tensor([i, i, j, j])
    return matrix.index_put((row, column), block.reshape(-1))  # M[i, i] = b00, M[j, i] = b01, M[i, j] = b10


def turn(angle):
    return torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])])


def givens(angles, strides, features):
    r = torch.eye(features, dtype=angles.dtype)
    for row, stride in zip(angles, strides, strict=True):
        pairs = [(i, i + stride) for i in range(features) if (i // stride) % 2 == 0 and i + stride < features]
        for (i, j), angle in zip(pairs, row, strict=False):
            r = r @ plane(features, i, j, turn(angle))
    return r


def tree(blocks):
    """Rᵀ of GOFT: the 2 x 2 matrices in the planes (2ᵗ⁺¹m, 2ᵗ⁺¹m + 2ᵗ), round by round (equation 3 of the paper)."""
    features = len(blocks) + 1
    r = torch.eye(features, dtype=blocks.dtype)
    stride = 1
    while stride < features:
        for j in range(stride, features, 2 * stride):
            r = r @ plane(features, j - stride, j, blocks[j - 1])
        stride *= 2
    return r


def skew(vector, size):
    q = torch.zeros(size, size, dtype=vector.dtype)
    place = 0
    for i in range(size):
        for j in range(i + 1, size):
            unit = torch.zeros(size, size, dtype=vector.dtype)
            unit[i, j], unit[j, i] = 1.0, -1.0
            q = q + vector[place] * unit
            place += 1
    return q


def cayley(vector, size):
    q, identity = skew(vector, size), torch.eye(size, dtype=vector.dtype)
    return (identity + q) @ torch.linalg.inv(identity - q)


def neumann(vector, size):
    """PEFT's five terms."""
    q = skew(vector, size)
    return torch.eye(size, dtype=q.dtype) + 2 * q + 2 * q @ q + 2 * q @ q @ q + q @ q @ q @ q


def block_diagonal(skews, size, features, block_of=cayley):
    count = features // size
    return torch.block_diag(*(block_of(skews[min(k, len(skews) - 1)], size) for k in range(count)))


def butterfly(skews, size, features):
    """M_{m−1}···M₀ with M_f = P·blockdiag·Pᵀ; P's permutation written out half block by half block."""
    half, product = size // 2, torch.eye(features, dtype=skews.dtype)
    for factor, factor_skews in enumerate(skews):
        group = 2 ** (factor + 1)
        sequence = [*range(0, group, 2), *range(1, group, 2)]
        p = torch.zeros(features, features, dtype=skews.dtype)
        for start in range(0, features, group * half):
            for k, place in enumerate(sequence):
                for offset in range(half):
                    p[start + k * half + offset, start + place * half + offset] = 1.0
        product = p @ block_diagonal(factor_skews, size, features) @ p.T @ product
    return product


def householder(vectors):
    """H₁·H₂···"""
    product = torch.eye(vectors.shape[1], dtype=vectors.dtype)
    for v in vectors:
        product = product @ (torch.eye(len(v), dtype=v.dtype) - 2 * torch.outer(v, v) / (v @ v))
    return product
