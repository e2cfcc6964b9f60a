"""Argument checks of the 2:4 ops; csrc/torch/sparse24_checks.cpp makes the same for the raw ops, and
tests/sparse24/test_sparse24_errors.py holds the two together."""

from __future__ import annotations

import torch
from torch import Tensor

from lrkernels.ops import _lowrank_checks as checks

MASK_METHODS = ("exact", "greedy", "double_pruned")


def _bool(op: str, name: str, value) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{op}: {name} is a {type(value).__name__}, expected a bool")


def _groups(op: str, name: str, weight: Tensor, expected: str) -> None:
    checks._activation(op, name, weight)
    checks._matrix(op, name, weight, expected)
    if weight.shape[1] % 4:
        raise ValueError(f"{op}: {name} has shape {tuple(weight.shape)}, expected in to be a multiple of 4")


def _mask(op: str, weight: Tensor, mask: Tensor) -> None:
    if mask.dtype != torch.bool:
        raise TypeError(f"{op}: mask has dtype {mask.dtype}, expected torch.bool")
    if mask.shape != weight.shape:
        raise ValueError(
            f"{op}: mask has shape {tuple(mask.shape)}, expected {tuple(weight.shape)}, the shape of weight"
        )
    if mask.device != weight.device:
        raise ValueError(f"{op}: mask is on {mask.device}, but weight is on {weight.device}")


def _branch(op: str, x_name: str, x: Tensor, down: Tensor | None, up: Tensor | None, size: tuple[int, int]) -> None:
    checks._tensor(op, "down", down, optional=True)
    checks._tensor(op, "up", up, optional=True)
    if down is None and up is None:
        return
    if down is None or up is None:
        raise ValueError(
            f"{op}: {'down' if down is None else 'up'} is missing, expected both of down and up, or neither"
        )
    checks._matrix(op, "down", down, "(rank, in)")
    checks._matrix(op, "up", up, "(out, rank)")
    out, features = size
    rank = down.shape[0]
    if down.shape[1] != features:
        raise ValueError(f"{op}: down has shape {tuple(down.shape)}, expected (rank, {features})")
    if tuple(up.shape) != (out, rank):
        raise ValueError(
            f"{op}: up has shape {tuple(up.shape)}, expected {(out, rank)} because down is {tuple(down.shape)}"
        )
    checks._kind(op, "down", down, x_name, x, True)
    checks._kind(op, "up", up, x_name, x, True)


def packed_bytes(values: Tensor, transposable: bool) -> int:
    """Of what sparse24_pack returns for such values."""
    out, half = values.shape
    return torch.ops.lrk._sparse24_packed_bytes(out, 2 * half, values.dtype, values.device.type == "cuda", transposable)


def _packed(op: str, packed: Tensor | None, values: Tensor, transposable: bool) -> None:
    checks._tensor(op, "packed", packed, optional=True)
    if packed is None:
        return
    if packed.dtype != torch.uint8 or packed.dim() != 1:
        raise TypeError(
            f"{op}: packed has dtype {packed.dtype} and shape {tuple(packed.shape)}, expected what sparse24_pack "
            "returns"
        )
    if packed.numel() > 1 and packed.stride(0) != 1:
        raise ValueError(f"{op}: packed has stride {packed.stride(0)}, expected what sparse24_pack returns")
    if packed.device != values.device:
        raise ValueError(f"{op}: packed is on {packed.device}, but values is on {values.device}")
    expected = packed_bytes(values, transposable)
    if packed.numel() != expected:
        raise ValueError(
            f"{op}: packed has {packed.numel()} bytes, expected {expected}: pack these values, in this dtype and on "
            "this device"
        )


def check_mask(op: str, weight: Tensor, transposable: bool = False, method: str = "exact") -> None:
    checks._tensor(op, "weight", weight)
    _bool(op, "transposable", transposable)
    if not isinstance(method, str):
        raise TypeError(f"{op}: method is a {type(method).__name__}, expected 'exact', 'greedy' or 'double_pruned'")
    if method not in MASK_METHODS:
        raise ValueError(f"{op}: method is '{method}', expected 'exact', 'greedy' or 'double_pruned'")
    if not transposable and method != "exact":
        raise ValueError(f"{op}: method is '{method}', expected 'exact' unless transposable")
    _groups(op, "weight", weight, "(out, in)")
    if transposable and weight.shape[0] % 4:
        raise ValueError(
            f"{op}: weight has shape {tuple(weight.shape)}, expected out to be a multiple of 4 because the mask is "
            "transposable"
        )


def check_compress(op: str, weight: Tensor, mask: Tensor) -> None:
    checks._tensor(op, "weight", weight)
    checks._tensor(op, "mask", mask)
    _groups(op, "weight", weight, "(out, in)")
    _mask(op, weight, mask)


def check_format(op: str, values: Tensor, bitmask: Tensor) -> None:
    checks._tensor(op, "values", values)
    checks._tensor(op, "bitmask", bitmask)
    checks._activation(op, "values", values)
    checks._matrix(op, "values", values, "(out, in / 2)")
    if values.shape[1] % 2:
        raise ValueError(
            f"{op}: values has shape {tuple(values.shape)}, expected in / 2 columns, where in is a multiple of 4"
        )
    if bitmask.dtype != torch.uint8:
        raise TypeError(f"{op}: bitmask has dtype {bitmask.dtype}, expected torch.uint8")
    expected = (values.shape[0], (2 * values.shape[1] + 7) // 8)
    if tuple(bitmask.shape) != expected:
        raise ValueError(
            f"{op}: bitmask has shape {tuple(bitmask.shape)}, expected {expected} because values is "
            f"{tuple(values.shape)}"
        )
    if bitmask.device != values.device:
        raise ValueError(f"{op}: bitmask is on {bitmask.device}, but values is on {values.device}")


def check_pack(op: str, values: Tensor, bitmask: Tensor, transposable: bool = False) -> None:
    check_format(op, values, bitmask)
    _bool(op, "transposable", transposable)
    if transposable and values.shape[0] % 4:
        raise ValueError(
            f"{op}: values has shape {tuple(values.shape)}, expected out to be a multiple of 4 because the mask is "
            "transposable"
        )


def check_linear(op, x, values, bitmask, packed=None, down=None, up=None, bias=None, scale=1.0, transposable=False):
    checks._tensor(op, "x", x)
    checks._activation(op, "x", x)
    check_format(op, values, bitmask)
    features = 2 * values.shape[1]
    if x.shape[-1] != features:
        raise ValueError(
            f"{op}: values has shape {tuple(values.shape)}, expected (out, {x.shape[-1] // 2}) because x is "
            f"{tuple(x.shape)}"
        )
    checks._kind(op, "values", values, "x", x, False)
    _bool(op, "transposable", transposable)
    _packed(op, packed, values, transposable)
    _branch(op, "x", x, down, up, (values.shape[0], features))
    checks._tensor(op, "bias", bias, optional=True)
    if bias is not None:
        checks._bias(op, bias, values.shape[0], "x", x)
    checks._scale(op, scale, "x", x)


def check_linear_ste(op, x, weight, mask, down=None, up=None, bias=None, scale=1.0, transposable=False):
    for name, value in (("x", x), ("weight", weight), ("mask", mask)):
        checks._tensor(op, name, value)
    checks._activation(op, "x", x)
    _groups(op, "weight", weight, "(out, in)")
    if x.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"{op}: weight has shape {tuple(weight.shape)}, expected (out, {x.shape[-1]}) because x is {tuple(x.shape)}"
        )
    checks._kind(op, "weight", weight, "x", x, False)
    _mask(op, weight, mask)
    _bool(op, "transposable", transposable)
    _branch(op, "x", x, down, up, (weight.shape[0], weight.shape[1]))
    checks._tensor(op, "bias", bias, optional=True)
    if bias is not None:
        checks._bias(op, bias, weight.shape[0], "x", x)
    checks._scale(op, scale, "x", x)


def check_malformed(op: str, name: str, kept: Tensor) -> None:
    """For the plain twins, which have no kernel that looks: of every four of ``kept`` exactly two."""
    wrong = kept.unflatten(-1, (kept.shape[1] // 4, 4)).sum(-1) != 2
    if bool(wrong.any()):
        row, group = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"{op}: {name} is malformed: of columns {4 * group} to {4 * group + 3} of row {row} not exactly two are "
            "kept, or bits past the last column are set"
        )
