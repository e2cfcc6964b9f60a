"""Argument checks of lowrank_linear_indexed; csrc/torch/lowrank_indexed_checks.cpp makes the same for the raw op, and
tests/lowrank/test_indexed_errors.py holds the two together."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch._guards import detect_fake_mode

from lrkernels.ops import _lowrank_checks as checks


def _stack(op: str, name: str, tensor: Tensor, expected: str) -> None:
    if tensor.dim() != 3:
        raise ValueError(f"{op}: {name} has shape {tuple(tensor.shape)}, expected {expected}")


def _device(op: str, name: str, tensor: Tensor, x: Tensor) -> None:
    if tensor.device != x.device:
        raise ValueError(f"{op}: {name} is on {tensor.device}, but x is on {x.device}")


def _index(op: str, index: Tensor, x: Tensor) -> None:
    if index.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"{op}: index has dtype {index.dtype}, expected torch.int32 or torch.int64")
    rows = math.prod(x.shape[:-1])
    if index.shape != x.shape[:-1] and index.shape != (rows,):
        raise ValueError(
            f"{op}: index has shape {tuple(index.shape)}, expected x's leading dimensions or ({rows},) "
            f"because x is {tuple(x.shape)}"
        )
    if rows >= 2**31:
        raise ValueError(f"{op}: x has {rows} rows, expected fewer than 2^31")
    _device(op, "index", index, x)


def _per_adapter(op: str, name: str, tensor: Tensor, downs: Tensor) -> None:
    if tensor.dim() != 1 or tensor.shape[0] != downs.shape[0]:
        raise ValueError(
            f"{op}: {name} has shape {tuple(tensor.shape)}, expected ({downs.shape[0]},) "
            f"because downs is {tuple(downs.shape)}"
        )


def _unwrapped(tensor: Tensor) -> Tensor:
    """The tensor behind those of torch.func's transforms, with every batch: what it holds can be looked at."""
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor


def _values(op: str, index: Tensor, ranks: Tensor | None, adapters: int, rank: int) -> None:
    index = _unwrapped(index)
    wrong = ((index < -1) | (index >= adapters)).flatten().nonzero()
    if wrong.numel():
        row = int(wrong[0])
        raise ValueError(
            f"{op}: index holds {int(index.flatten()[row])} for row {row}, expected -1 (no adapter) or one of the "
            f"{adapters} adapters of downs"
        )
    if ranks is None:
        return
    ranks = _unwrapped(ranks).flatten()
    wrong = ((ranks < 0) | (ranks > rank)).nonzero()
    if wrong.numel():
        adapter = int(wrong[0])
        raise ValueError(
            f"{op}: ranks holds {int(ranks[adapter])} for adapter {adapter}, expected 0 to {rank}, the rank of downs"
        )


def check_linear_indexed(
    op, x, downs, ups, index, ranks=None, scales=None, weight=None, bias=None, base=None, values: bool = True
) -> None:
    """``values``: also what ``index`` and ``ranks`` hold, where that can be read without waiting for a device."""
    for name, value in (("x", x), ("downs", downs), ("ups", ups), ("index", index)):
        checks._tensor(op, name, value)
    optional = (("ranks", ranks), ("scales", scales), ("weight", weight), ("bias", bias), ("base", base))
    for name, value in optional:
        checks._tensor(op, name, value, optional=True)
    checks._activation(op, "x", x)
    _stack(op, "downs", downs, "(adapters, rank, in)")
    _stack(op, "ups", ups, "(adapters, out, rank)")
    adapters, rank, in_features = downs.shape
    if in_features != x.shape[-1]:
        raise ValueError(
            f"{op}: downs has shape {tuple(downs.shape)}, expected (adapters, rank, {x.shape[-1]}) "
            f"because x is {tuple(x.shape)}"
        )
    if ups.shape[0] != adapters or ups.shape[2] != rank:
        raise ValueError(
            f"{op}: ups has shape {tuple(ups.shape)}, expected ({adapters}, out, {rank}) "
            f"because downs is {tuple(downs.shape)}"
        )
    checks._kind(op, "downs", downs, "x", x, True)
    checks._kind(op, "ups", ups, "x", x, True)
    _index(op, index, x)
    if ranks is not None:
        if ranks.dtype != torch.int64:
            raise TypeError(f"{op}: ranks has dtype {ranks.dtype}, expected torch.int64")
        _per_adapter(op, "ranks", ranks, downs)
        _device(op, "ranks", ranks, x)
    if scales is not None:
        _per_adapter(op, "scales", scales, downs)
        checks._kind(op, "scales", scales, "x", x, True)
    checks.check_dense(op, x, ups.shape[1], "ups", ups, weight, bias, base)
    if values and x.device.type == "cpu" and not torch.compiler.is_compiling() and detect_fake_mode((x, index)) is None:
        _values(op, index, ranks, adapters, rank)
