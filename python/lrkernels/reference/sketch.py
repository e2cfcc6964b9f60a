"""Random and fixed sketches in plain torch: a·Ω and b·Ωᵀ, with every entry of Ω a function of (seed, row, column).

Ω is ``[features, size]``. Of the random kinds E[Ω·Ωᵀ] = I, so E‖a·Ω‖² = ‖a‖² and E[unsketch(sketch(a))] = a. The words
w(e) are ``philox_bits(seed)[e]``, e the element index of csrc/device/philox.h:

- ``rademacher``: Ω[i, j] = ±1/√size, − where bit j % 32 of w(j // 32 · features + i) is set. The first columns do not
  depend on the size.
- ``sparse_sign``: k = min(8, size) entries ±1/√k in every row i, so in every column of Ωᵀ. Their columns are k of size
  without repetition by Floyd's method: for t = 0 … k − 1, with top = size − k + t, column t is
  c = ⌊w(12·i + t)·(top + 1) / 2³²⌋, or ``top`` where c was taken before. Entry t is negative where bit t of w(12·i + 8)
  is set.
- ``gaussian``: N(0, 1)/√size by Box and Muller from pairs: with p = j // 2 · features + i, u = (w(2p) + 1) / 2³² and
  v = w(2p + 1) / 2³², √(−2 ln u) times cos 2πv for even j, sin 2πv for odd j. Equal across devices to rounding only.
- ``hadamard``: s_i·H[i, c_j]/√size with H the ±1 Walsh–Hadamard matrix of the next power of two N ≥ features,
  H[i, c] = (−1)^popcount(i & c); c_j the index of the j-th smallest of w(0) … w(N − 1), equal ones in order; s_i = −1
  where bit i % 32 of w(N + i // 32) is set.
- ``dct``: columns of the orthonormal DCT-II, √(2/n)·cos(π(2i + 1)f / 2n), of the frequencies f in ``columns``, or the
  first ``size``. Ωᵀ·Ω = I.

Sources: Halko, Martinsson and Tropp, SIAM Review 2011 (the sketches); Kane and Nelson, J. ACM 2014 (sparse signs);
Bentley and Floyd, CACM 1987 (sampling); Tropp, Adv. Adapt. Data Anal. 2011 (Hadamard).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lrkernels.reference.lowrank import philox_bits

SKETCH_KINDS = ("rademacher", "sparse_sign", "gaussian", "hadamard", "dct")
SPARSE_SIGNS = 8  # entries of a row of a sparse sign matrix
_SPARSE_WORDS = 12  # that a row takes: eight columns and one word of signs, in whole Philox blocks


def power_of_two(features: int) -> int:
    """The smallest power of two that is at least ``features``."""
    return 1 << max(features - 1, 0).bit_length()


def _signs(bits: Tensor) -> Tensor:
    """−1 where a bit is set, else 1."""
    return (1 - 2 * bits).to(torch.float64)


def _rademacher(features: int, size: int, seed: Tensor) -> Tensor:
    words = -(-size // 32)
    bits = philox_bits(seed, words * features).view(words, features, 1) >> torch.arange(32, device=seed.device)
    return _signs(bits & 1).permute(1, 0, 2).reshape(features, 32 * words)[:, :size] / math.sqrt(max(size, 1))


def _sparse_sign(features: int, size: int, seed: Tensor) -> Tensor:
    count = min(SPARSE_SIGNS, size)
    words = philox_bits(seed, _SPARSE_WORDS * features).view(features, _SPARSE_WORDS)
    columns = words.new_empty(features, count)
    for t in range(count):
        top = size - count + t
        pick = (words[:, t] * (top + 1)) >> 32
        taken = (columns[:, :t] == pick.unsqueeze(1)).any(1)
        columns[:, t] = torch.where(taken, top, pick)
    signs = _signs((words[:, SPARSE_SIGNS, None] >> torch.arange(count, device=seed.device)) & 1)
    matrix = torch.zeros(features, size, dtype=torch.float64, device=seed.device)
    return matrix.scatter(1, columns, signs / math.sqrt(max(count, 1)))


def _gaussian(features: int, size: int, seed: Tensor) -> Tensor:
    pairs = -(-size // 2)
    words = philox_bits(seed, 2 * pairs * features).view(pairs, features, 2).to(torch.float64) / 2.0**32
    radius, angle = (-2 * (words[..., 0] + 2.0**-32).log()).sqrt(), 2 * math.pi * words[..., 1]
    both = torch.stack([radius * angle.cos(), radius * angle.sin()], -1)
    return both.permute(1, 0, 2).reshape(features, 2 * pairs)[:, :size] / math.sqrt(max(size, 1))


def _hadamard(features: int, size: int, seed: Tensor) -> Tensor:
    whole = power_of_two(features)
    words = philox_bits(seed, whole + -(-features // 32))
    i = torch.arange(features, device=seed.device)
    parity = i.unsqueeze(1) & words[:whole].argsort(stable=True)[:size]
    for shift in (32, 16, 8, 4, 2, 1):
        parity = parity ^ (parity >> shift)
    flips = words[whole:][i // 32] >> (i % 32)
    return _signs((parity ^ flips.unsqueeze(1)) & 1) / math.sqrt(max(size, 1))


def _dct(features: int, columns: Tensor) -> Tensor:
    i = torch.arange(features, device=columns.device, dtype=torch.float64)
    matrix = (math.pi / (2 * max(features, 1)) * (2 * i + 1).unsqueeze(1) * columns).cos()
    return matrix * (1 + (columns != 0).to(torch.float64)).sqrt() / math.sqrt(max(features, 1))


def sketch_matrix(
    features: int,
    size: int,
    columns: Tensor | None = None,
    *,
    kind: str = "rademacher",
    seed: int = 0,
    device: torch.device | None = None,
) -> Tensor:
    """Ω ``[features, size]`` in float64."""
    if kind == "dct":
        return _dct(features, torch.arange(size, device=device) if columns is None else columns)
    make = {"rademacher": _rademacher, "sparse_sign": _sparse_sign, "gaussian": _gaussian, "hadamard": _hadamard}[kind]
    return make(features, size, torch.tensor(seed, dtype=torch.int64, device=device))


def _apply(x: Tensor, matrix: Tensor, dim: int) -> Tensor:
    wide = torch.promote_types(x.dtype, torch.float32)
    y = x.movedim(dim, -1).to(wide) @ matrix.to(wide)
    return y.movedim(-1, dim).to(x.dtype).contiguous()


def sketch(
    a: Tensor, size: int, columns: Tensor | None = None, *, kind: str = "rademacher", seed: int = 0, dim: int = -1
) -> Tensor:
    """a·Ω along dimension ``dim``, whose size becomes ``size``."""
    return _apply(a, sketch_matrix(a.shape[dim], size, columns, kind=kind, seed=seed, device=a.device), dim)


def unsketch(
    b: Tensor, full_size: int, columns: Tensor | None = None, *, kind: str = "rademacher", seed: int = 0, dim: int = -1
) -> Tensor:
    """b·Ωᵀ along dimension ``dim``, the adjoint of :func:`sketch`: ⟨sketch(a), b⟩ = ⟨a, unsketch(b)⟩."""
    return _apply(b, sketch_matrix(full_size, b.shape[dim], columns, kind=kind, seed=seed, device=b.device).mT, dim)


def dct_columns(a: Tensor, size: int, *, dim: int = -1) -> Tensor:
    """The ``size`` frequencies along ``dim`` in which a has the most energy, ascending; of equal ones the lower first.

    They are what ``sketch(..., kind="dct")`` takes as ``columns``, and all that a projected optimizer has to keep.
    """
    features = a.shape[dim]
    whole = sketch(a.to(torch.promote_types(a.dtype, torch.float32)), features, kind="dct", dim=dim).movedim(dim, 0)
    energy = whole.flatten(1).square().sum(1)
    return energy.argsort(descending=True, stable=True)[:size].sort().values
