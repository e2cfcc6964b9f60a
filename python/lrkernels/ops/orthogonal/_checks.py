"""Argument checks of the orthogonal ops; csrc/torch/*_checks.cpp make the same for the raw ops, and
tests/orthogonal/ holds the two together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lrkernels.ops import _lowrank_checks as checks


def check_givens(op: str, x: Tensor, angles: Tensor, strides: Sequence[int], inverse: bool = False) -> None:
    checks._tensor(op, "x", x)
    checks._tensor(op, "angles", angles)
    if isinstance(strides, (str, Tensor)) or not isinstance(strides, Sequence):
        raise TypeError(f"{op}: strides is a {type(strides).__name__}, expected a sequence of int")
    for stride in strides:
        if isinstance(stride, bool) or not isinstance(stride, int):
            raise TypeError(f"{op}: strides holds a {type(stride).__name__}, expected a sequence of int")
    checks._activation(op, "x", x)
    checks._matrix(op, "angles", angles, "(rounds, features // 2)")
    expected = (len(strides), x.shape[-1] // 2)
    if tuple(angles.shape) != expected:
        raise ValueError(
            f"{op}: angles has shape {tuple(angles.shape)}, expected {expected} because strides has {len(strides)} "
            f"entries and x is {tuple(x.shape)}"
        )
    checks._kind(op, "angles", angles, "x", x, True)
    for stride in strides:
        if stride < 1:
            raise ValueError(f"{op}: strides holds {stride}, expected strides of at least 1")


def _int(op: str, name: str, value) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, torch.SymInt)):
        raise TypeError(f"{op}: {name} is a {type(value).__name__}, expected an int")


def check_cayley(op: str, skew: Tensor, block: int, method: str = "exact", terms: int = 5) -> None:
    checks._tensor(op, "skew", skew)
    _int(op, "block", block)
    if not isinstance(method, str):
        raise TypeError(f"{op}: method is a {type(method).__name__}, expected 'exact' or 'neumann'")
    _int(op, "terms", terms)
    if block < 1:
        raise ValueError(f"{op}: block is {block}, expected at least 1")
    if method not in ("exact", "neumann"):
        raise ValueError(f"{op}: method is '{method}', expected 'exact' or 'neumann'")
    if terms < 1:
        raise ValueError(f"{op}: terms is {terms}, expected at least 1")
    checks._matrix(op, "skew", skew, "(blocks, block * (block - 1) / 2)")
    checks._activation(op, "skew", skew)
    triangle = block * (block - 1) // 2
    if skew.shape[1] != triangle:
        raise ValueError(
            f"{op}: skew has shape {tuple(skew.shape)}, expected (blocks, {triangle}) because block is {block}"
        )


def check_block_diagonal(op: str, x: Tensor, blocks: Tensor, transpose: bool = False) -> None:
    checks._tensor(op, "x", x)
    checks._tensor(op, "blocks", blocks)
    checks._activation(op, "x", x)
    shape = tuple(blocks.shape)
    if blocks.dim() != 3 or shape[1] != shape[2] or shape[1] < 1:
        raise ValueError(f"{op}: blocks has shape {shape}, expected (features / block or 1, block, block)")
    features, block = x.shape[-1], shape[1]
    if features % block:
        raise ValueError(
            f"{op}: blocks has shape {shape}, expected a block that divides {features} because x is {tuple(x.shape)}"
        )
    if shape[0] not in (1, features // block):
        raise ValueError(
            f"{op}: blocks has shape {shape}, expected {(features // block, block, block)} or {(1, block, block)} "
            f"because x is {tuple(x.shape)}"
        )
    checks._kind(op, "blocks", blocks, "x", x, True)


def check_householder(op: str, x: Tensor, vectors: Tensor, transpose: bool = False) -> None:
    checks._tensor(op, "x", x)
    checks._tensor(op, "vectors", vectors)
    checks._activation(op, "x", x)
    checks._matrix(op, "vectors", vectors, "(reflections, features)")
    if vectors.shape[1] != x.shape[-1]:
        raise ValueError(
            f"{op}: vectors has shape {tuple(vectors.shape)}, expected (reflections, {x.shape[-1]}) because x is "
            f"{tuple(x.shape)}"
        )
    checks._kind(op, "vectors", vectors, "x", x, True)


def check_cayley_rectangular(op: str, weight: Tensor) -> None:
    checks._tensor(op, "weight", weight)
    if weight.dtype not in checks.KERNEL_DTYPES:
        raise TypeError(
            f"{op}: weight has dtype {weight.dtype}, expected torch.float32, torch.float64, torch.bfloat16 or "
            "torch.float16"
        )
    if weight.dim() < 2:
        raise ValueError(f"{op}: weight has shape {tuple(weight.shape)}, expected (..., rows, cols)")
