"""The 2:4 sparse family in plain torch: masks, the portable format, products.

A 2:4 matrix keeps exactly two of every four consecutive entries of a row. Its portable format is ``values``
``[out, in / 2]``, the kept entries in order, and ``bitmask [out, ⌈in / 8⌉]`` uint8: bit i of byte j says whether entry
8j + i is kept; the spare bits of a row's last byte are zero.
"""

from __future__ import annotations

from itertools import combinations, product

import torch
from torch import Tensor

PAIRS = tuple(combinations(range(4), 2))  # the six ways to keep two of four


def _magnitudes(weight: Tensor) -> Tensor:
    """|w|, infinite where w is not finite."""
    wide = weight.abs().to(torch.promote_types(weight.dtype, torch.float32))
    return torch.where(torch.isfinite(wide), wide, torch.inf)


def _addable(magnitudes: Tensor) -> Tensor:
    """By a power of two: no sum of eight overflows, and what is not finite outweighs all that is."""
    largest = 2.0**124 if magnitudes.dtype == torch.float32 else 2.0**1020
    return torch.where(torch.isfinite(magnitudes), magnitudes * 2.0**-8, largest)


def _two_of_four(magnitudes: Tensor) -> Tensor:
    """Whether an entry is one of the two largest of its four, along the last dimension; of equal ones the first are."""
    fours = magnitudes.unflatten(-1, (-1, 4))
    order = fours.sort(dim=-1, descending=True, stable=True).indices
    return torch.zeros_like(fours, dtype=torch.bool).scatter(-1, order[..., :2], True).flatten(-2)


def _tiles(matrix: Tensor) -> Tensor:
    """``[out, in]`` as ``[out / 4, in / 4, 4, 4]``."""
    return matrix.unflatten(0, (-1, 4)).unflatten(2, (-1, 4)).transpose(1, 2)


def _untiled(tiles: Tensor) -> Tensor:
    return tiles.transpose(1, 2).flatten(2, 3).flatten(0, 1)


def _column_counts(first: int, second: int) -> tuple[int, ...]:
    return tuple((column in PAIRS[first]) + (column in PAIRS[second]) for column in range(4))


def _best_transposable(magnitudes: Tensor) -> Tensor:
    """Of the 90 patterns of 4 × 4 with two in every row and column, the one that keeps the most.

    Two rows that keep columns c times each need two rows below that keep them 2 − c times, so the best upper half and
    the best lower half for each of the 19 c make the best of all 90. Sums are (two of a row + two of the next) +
    (the same below); of equal ones the first in lexicographic order of c, then of the pairs, is taken.
    """
    tiles = _tiles(magnitudes)
    rows = torch.stack([tiles[..., a] + tiles[..., b] for a, b in PAIRS], -1)  # [., ., 4, 6]
    best: dict[tuple[int, tuple[int, ...]], tuple[Tensor, Tensor]] = {}
    for first, second in product(range(6), repeat=2):
        for half in (0, 1):
            total = rows[..., 2 * half, first] + rows[..., 2 * half + 1, second]
            pattern = torch.full_like(total, 6 * first + second, dtype=torch.int64)
            key = half, _column_counts(first, second)
            if key in best:
                better = total > best[key][0]
                total = torch.where(better, total, best[key][0])
                pattern = torch.where(better, pattern, best[key][1])
            best[key] = total, pattern
    chosen = None
    for counts in sorted(counts for half, counts in best if half == 0):
        upper, lower = best[0, counts], best[1, tuple(2 - count for count in counts)]
        total = upper[0] + lower[0]
        if chosen is None:
            chosen = total, upper[1], lower[1]
        else:
            better = total > chosen[0]
            chosen = tuple(torch.where(better, new, old) for new, old in zip((total, upper[1], lower[1]), chosen))
    keeps = torch.tensor([[column in pair for column in range(4)] for pair in PAIRS], device=magnitudes.device)
    _, upper, lower = chosen
    pairs = torch.stack([upper // 6, upper % 6, lower // 6, lower % 6], -1)
    return _untiled(keeps[pairs])


def _greedy_transposable(magnitudes: Tensor) -> Tensor:
    """Of every 4 × 4 tile the largest entries in turn, unless two of their row or column are kept already."""
    tiles = _tiles(magnitudes).flatten(-2)
    order = tiles.sort(dim=-1, descending=True, stable=True).indices
    kept = torch.zeros_like(tiles, dtype=torch.bool)
    for place in range(16):
        entry = order[..., place : place + 1]
        grid = kept.unflatten(-1, (4, 4))
        row = grid.sum(-1).gather(-1, entry // 4)
        column = grid.sum(-2).gather(-1, entry % 4)
        kept = kept.scatter(-1, entry, (row < 2) & (column < 2))
    return _untiled(kept.unflatten(-1, (4, 4)))


def sparse24_mask(weight: Tensor, *, transposable: bool = False, method: str = "exact") -> Tensor:
    magnitudes = _magnitudes(weight)
    if not transposable:
        return _two_of_four(magnitudes)
    if method == "greedy":
        return _greedy_transposable(magnitudes)
    if method == "double_pruned":
        rows = _two_of_four(magnitudes)
        return rows & _two_of_four(torch.where(rows, magnitudes, -1.0).mT).mT
    return _best_transposable(_addable(magnitudes))


def _bits(mask: Tensor) -> Tensor:
    padded = torch.nn.functional.pad(mask.to(torch.uint8), (0, -mask.shape[-1] % 8))
    shifts = torch.arange(8, dtype=torch.uint8, device=mask.device)
    return (padded.unflatten(-1, (-1, 8)) << shifts).sum(-1, dtype=torch.uint8)


def sparse24_positions(bitmask: Tensor, features: int) -> Tensor:
    """``[out, in]`` bool: what the bits of ``bitmask`` say of each entry."""
    shifts = torch.arange(8, dtype=torch.uint8, device=bitmask.device)
    return ((bitmask.unsqueeze(-1) >> shifts) & 1).bool().flatten(-2)[..., :features]


def sparse24_indices(bitmask: Tensor, features: int) -> Tensor:
    """``[out, in / 2]`` int64: the column of each value. A nibble that does not keep two stands for the first two."""
    nibbles = torch.stack([bitmask & 15, bitmask >> 4], -1).flatten(-2)[..., : features // 4].long()
    pairs = torch.zeros(16, 2, dtype=torch.int64)
    pairs[:, 1] = 1
    for first, second in PAIRS:
        pairs[1 << first | 1 << second] = torch.tensor([first, second])
    groups = 4 * torch.arange(features // 4, device=bitmask.device)
    return (pairs.to(bitmask.device)[nibbles] + groups[:, None]).flatten(-2)


def sparse24_compress(weight: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    bitmask = _bits(mask)
    return weight.gather(1, sparse24_indices(bitmask, weight.shape[1])), bitmask


def sparse24_decompress(values: Tensor, bitmask: Tensor) -> Tensor:
    features = 2 * values.shape[1]
    dense = values.new_zeros(values.shape[0], features)
    return dense.scatter(1, sparse24_indices(bitmask, features), values)


def sparse24_pack(values: Tensor, bitmask: Tensor, *, transposable: bool = False) -> Tensor:
    """Empty: the plain products have no layout of their own, they read the portable format."""
    return bitmask.new_empty(0)


def _wide(*tensors: Tensor | None) -> torch.dtype:
    dtype = torch.float32
    for tensor in tensors:
        if tensor is not None:
            dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def _rows(tensor: Tensor) -> Tensor:
    return tensor.unsqueeze(0).flatten(0, -2)


def _linear(x, dense, down, up, bias, scale) -> Tensor:
    dtype = _wide(x, dense, down, bias)
    y = x.to(dtype) @ dense.to(dtype).mT
    if down is not None:
        y = y + scale * (x.to(dtype) @ down.to(dtype).mT @ up.to(dtype).mT)
    if bias is not None:
        y = y + bias.to(dtype)
    return y.to(x.dtype)


def sparse24_linear(
    x, values, bitmask, packed=None, down=None, up=None, bias=None, *, scale=1.0, transposable=False
) -> Tensor:
    return _linear(x, sparse24_decompress(values, bitmask), down, up, bias, scale)


def _straight_through(weight: Tensor, mask: Tensor) -> Tensor:
    """What the mask keeps of weight, with the gradient of weight itself, as if nothing had been left out."""
    through = torch.where(weight.isfinite(), weight - weight.detach(), 0)
    return torch.where(mask, weight, 0).detach() + through


def sparse24_linear_ste(x, weight, mask, down=None, up=None, bias=None, *, scale=1.0, transposable=False) -> Tensor:
    return _linear(x, _straight_through(weight, mask), down, up, bias, scale)


# Bit i of `needs` asks for the i-th gradient; what is not asked for comes back as an empty tensor.
NEEDS_X, NEEDS_VALUES, NEEDS_DOWN, NEEDS_UP = 1, 2, 4, 8


def sparse24_linear_backward(
    grad, values, bitmask, packed=None, down=None, up=None, x=None, *, scale, transposable, needs
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """dx = dy·W + scale·(dy·up)·down, dvalues = dyᵀ·x where W is kept, ddown = scale·(dy·up)ᵀ·x,
    dup = scale·dyᵀ·(x·downᵀ)."""
    dtype = _wide(grad, values, down)
    dy, rows = _rows(grad).to(dtype), None if x is None else _rows(x).to(dtype)
    dx, dvalues = grad.new_empty(0), values.new_empty(0)
    ddown, dup = (grad.new_empty(0) if t is None else t.new_empty(0) for t in (down, up))
    if needs & NEEDS_X:
        total = dy @ sparse24_decompress(values, bitmask).to(dtype)
        if down is not None:
            total = total + scale * (dy @ up.to(dtype) @ down.to(dtype))
        dx = total.to(grad.dtype).reshape(*grad.shape[:-1], 2 * values.shape[1])
    if needs & NEEDS_VALUES:
        dvalues = (dy.mT @ rows).gather(1, sparse24_indices(bitmask, rows.shape[1])).to(values.dtype)
    if needs & NEEDS_DOWN:
        ddown = (scale * (dy @ up.to(dtype)).mT @ rows).to(down.dtype)
    if needs & NEEDS_UP:
        dup = (scale * dy.mT @ (rows @ down.to(dtype).mT)).to(up.dtype)
    return dx, dvalues, ddown, dup


def sparse24_linear_ste_backward(
    grad, x, weight, mask, down=None, up=None, *, scale
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """dx, ddown and dup of the masked weight, dweight = dyᵀ·x; differentiated again, straight through as well."""
    dtype = _wide(grad, weight, down)
    dy, rows = _rows(grad).to(dtype), _rows(x).to(dtype)
    dx, ddown, dup = dy @ _straight_through(weight, mask).to(dtype), None, None
    if down is not None:
        branch = scale * (dy @ up.to(dtype))
        dx = dx + branch @ down.to(dtype)
        ddown = (branch.mT @ rows).to(down.dtype)
        dup = (scale * dy.mT @ (rows @ down.to(dtype).mT)).to(up.dtype)
    dweight = (dy.mT @ rows).to(weight.dtype)
    return dx.to(grad.dtype).reshape(*grad.shape[:-1], weight.shape[1]), dweight, ddown, dup
