"""Argument checks of the low-rank ops, for the Python twins and the fakes; csrc/torch/lowrank_checks.cpp makes the same
for the raw ops, and tests/lowrank/test_errors.py holds the two together."""

from __future__ import annotations

from numbers import Real

import torch
from torch import Tensor

KERNEL_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
HALF_DTYPES = (torch.bfloat16, torch.float16)
_FLOAT32_MAX, _FLOAT64_MAX = torch.finfo(torch.float32).max, torch.finfo(torch.float64).max


def _tensor(op: str, name: str, value, optional: bool = False) -> None:
    if not (isinstance(value, Tensor) or (optional and value is None)):
        raise TypeError(f"{op}: {name} is a {type(value).__name__}, expected a torch.Tensor{' or None' * optional}")
    if value is not None and (value.layout != torch.strided or value.is_nested):
        layout = "a nested" if value.layout == torch.strided else str(value.layout)
        raise TypeError(f"{op}: {name} has {layout} layout, expected torch.strided: make it dense first")


def _number(op: str, name: str, value) -> None:
    if isinstance(value, bool) or not isinstance(value, (Real, torch.SymFloat, torch.SymInt)):
        raise TypeError(f"{op}: {name} is a {type(value).__name__}, expected a float")


def _activation(op: str, name: str, x: Tensor) -> None:
    if x.dtype not in KERNEL_DTYPES:
        raise TypeError(
            f"{op}: {name} has dtype {x.dtype}, expected torch.float32, torch.float64, torch.bfloat16 or torch.float16"
        )
    if x.dim() < 1:
        raise ValueError(f"{op}: {name} has no dimensions, expected (..., features)")


def _matrix(op: str, name: str, tensor: Tensor, expected: str) -> None:
    if tensor.dim() != 2:
        raise ValueError(f"{op}: {name} has shape {tuple(tensor.shape)}, expected {expected}")


def _kind(op: str, name: str, tensor: Tensor, x_name: str, x: Tensor, float_allowed: bool) -> None:
    if tensor.device != x.device:
        raise ValueError(f"{op}: {name} is on {tensor.device}, but {x_name} is on {x.device}")
    float_allowed = float_allowed and x.dtype in HALF_DTYPES
    if tensor.dtype != x.dtype and not (float_allowed and tensor.dtype == torch.float32):
        raise TypeError(
            f"{op}: {name} has dtype {tensor.dtype}, expected {x.dtype}{' or torch.float32' * float_allowed} "
            f"because {x_name} is {x.dtype}"
        )


def _bias(op: str, bias: Tensor, out: int, x_name: str, x: Tensor) -> None:
    if bias.dim() != 1 or bias.shape[0] != out:
        raise ValueError(f"{op}: bias has shape {tuple(bias.shape)}, expected ({out},)")
    _kind(op, "bias", bias, x_name, x, True)


def _scale(op: str, scale: float, x_name: str, x: Tensor) -> None:
    """Sums are float32 unless x is float64; there a larger scale is infinite, and infinity times zero is no number."""
    _number(op, "scale", scale)
    if not -_FLOAT64_MAX <= scale <= _FLOAT64_MAX:
        value = "too large an int" if isinstance(scale, int) else scale
        raise ValueError(f"{op}: scale is {value}, expected a finite number")
    if abs(scale) > _FLOAT32_MAX and x.dtype != torch.float64:
        raise ValueError(f"{op}: scale is {scale:g}, expected a float32 number because {x_name} is {x.dtype}")


def _dropout(op: str, seed: Tensor | None, dropout: float, x: Tensor) -> None:
    _number(op, "dropout", dropout)
    _tensor(op, "seed", seed, optional=True)
    if not 0.0 <= dropout <= 1.0:
        raise ValueError(f"{op}: dropout is {dropout:.6f}, expected a probability between 0 and 1")
    if dropout > 0.0 and seed is None:
        raise ValueError(f"{op}: seed is missing, expected an int64 0-dim tensor on {x.device} because dropout is > 0")
    if seed is None:
        return
    if seed.dtype != torch.int64 or seed.dim() != 0:
        raise TypeError(
            f"{op}: seed has dtype {seed.dtype} and shape {tuple(seed.shape)}, expected a 0-dim torch.int64 tensor"
        )
    if seed.device != x.device:
        raise ValueError(f"{op}: seed is on {seed.device}, but x is on {x.device}")


def _factors(op: str, x_name: str, x: Tensor, down: Tensor, up: Tensor) -> None:
    _matrix(op, "down", down, "(rank, in)")
    _matrix(op, "up", up, "(out, rank)")
    if down.shape[1] != x.shape[-1]:
        raise ValueError(
            f"{op}: down has shape {tuple(down.shape)}, expected (rank, {x.shape[-1]}) "
            f"because {x_name} is {tuple(x.shape)}"
        )
    if up.shape[1] != down.shape[0]:
        raise ValueError(
            f"{op}: up has shape {tuple(up.shape)}, expected (out, {down.shape[0]}) because down is {tuple(down.shape)}"
        )
    _kind(op, "down", down, x_name, x, True)
    _kind(op, "up", up, x_name, x, True)


def _core(op: str, core: Tensor | None, rank: int, x_name: str, x: Tensor) -> None:
    _tensor(op, "core", core, optional=True)
    if core is None:
        return
    if core.dim() != 2 or core.shape[0] != rank or core.shape[1] != rank:
        raise ValueError(f"{op}: core has shape {tuple(core.shape)}, expected ({rank}, {rank})")
    _kind(op, "core", core, x_name, x, True)


def _gate(op: str, gate: Tensor | None, rank: int, x_name: str, x: Tensor, per_token: bool) -> None:
    _tensor(op, "gate", gate, optional=True)
    if gate is None:
        return
    vector = gate.dim() == 1 and (gate.shape[0] == 1 or gate.shape[0] == rank)
    token = per_token and gate.dim() == x.dim() and gate.shape[:-1] == x.shape[:-1] and gate.shape[-1] == rank
    if not vector and not token:
        tokens = f" or x's leading dimensions with rank {rank} last" if per_token else ""
        raise ValueError(
            f"{op}: gate has shape {tuple(gate.shape)}, expected (1,), ({rank},){tokens} "
            f"because {x_name} is {tuple(x.shape)}"
        )
    _kind(op, "gate", gate, x_name, x, True)


def check_dense(
    op: str,
    x: Tensor,
    out: int,
    up_name: str,
    up: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    base: Tensor | None,
) -> None:
    """weight [out, in] or base [..., out], and bias [out]; ``up``, called ``up_name``, says what out is."""
    if weight is not None and base is not None:
        raise ValueError(f"{op}: base and weight were both given, expected at most one of them")
    if weight is not None:
        _matrix(op, "weight", weight, "(out, in)")
        if weight.shape[0] != out or weight.shape[1] != x.shape[-1]:
            raise ValueError(
                f"{op}: weight has shape {tuple(weight.shape)}, expected ({out}, {x.shape[-1]}) "
                f"because {up_name} is {tuple(up.shape)} and x is {tuple(x.shape)}"
            )
        _kind(op, "weight", weight, "x", x, False)
    if base is not None:
        if base.dim() != x.dim() or base.shape[:-1] != x.shape[:-1] or base.shape[-1] != out:
            raise ValueError(
                f"{op}: base has shape {tuple(base.shape)}, expected x's leading dimensions with out {out} last "
                f"because x is {tuple(x.shape)}"
            )
        _kind(op, "base", base, "x", x, False)
    if bias is not None:
        _bias(op, bias, out, "x", x)


def check_linear(
    op, x, down, up, weight=None, bias=None, core=None, gate=None, base=None, seed=None, scale=1.0, dropout=0.0
) -> None:
    for name, value in (("x", x), ("down", down), ("up", up)):
        _tensor(op, name, value)
    for name, value in (("weight", weight), ("bias", bias), ("base", base)):
        _tensor(op, name, value, optional=True)
    _activation(op, "x", x)
    _factors(op, "x", x, down, up)
    out, rank = up.shape
    check_dense(op, x, out, "up", up, weight, bias, base)
    _core(op, core, rank, "x", x)
    _gate(op, gate, rank, "x", x, True)
    _scale(op, scale, "x", x)
    _dropout(op, seed, dropout, x)


def check_project(op, x, down, gate=None, seed=None, dropout=0.0) -> None:
    _tensor(op, "x", x)
    _tensor(op, "down", down)
    _activation(op, "x", x)
    _matrix(op, "down", down, "(rank, in)")
    if down.shape[1] != x.shape[-1]:
        raise ValueError(
            f"{op}: down has shape {tuple(down.shape)}, expected (rank, {x.shape[-1]}) because x is {tuple(x.shape)}"
        )
    _kind(op, "down", down, "x", x, True)
    _gate(op, gate, down.shape[0], "x", x, True)
    _dropout(op, seed, dropout, x)


def check_expand(op, s, up, base=None, bias=None, scale=1.0) -> None:
    for name, value in (("s", s), ("up", up)):
        _tensor(op, name, value)
    for name, value in (("base", base), ("bias", bias)):
        _tensor(op, name, value, optional=True)
    _activation(op, "s", s)
    _matrix(op, "up", up, "(out, rank)")
    if up.shape[1] != s.shape[-1]:
        raise ValueError(
            f"{op}: up has shape {tuple(up.shape)}, expected (out, {s.shape[-1]}) because s is {tuple(s.shape)}"
        )
    _kind(op, "up", up, "s", s, True)
    out = up.shape[0]
    if base is not None:
        if base.dim() != s.dim() or base.shape[:-1] != s.shape[:-1] or base.shape[-1] != out:
            raise ValueError(
                f"{op}: base has shape {tuple(base.shape)}, expected s's leading dimensions with out {out} last "
                f"because s is {tuple(s.shape)}"
            )
        _kind(op, "base", base, "s", s, False)
    if bias is not None:
        _bias(op, bias, out, "s", s)
    _scale(op, scale, "s", s)


def check_merge(op, weight, down, up, core=None, gate=None, scale=1.0) -> None:
    for name, value in (("weight", weight), ("down", down), ("up", up)):
        _tensor(op, name, value)
    _activation(op, "weight", weight)
    _matrix(op, "weight", weight, "(out, in)")
    _factors(op, "weight", weight, down, up)
    if up.shape[0] != weight.shape[0]:
        raise ValueError(
            f"{op}: up has shape {tuple(up.shape)}, expected ({weight.shape[0]}, rank) "
            f"because weight is {tuple(weight.shape)}"
        )
    _core(op, core, down.shape[0], "weight", weight)
    _gate(op, gate, down.shape[0], "weight", weight, False)
    _scale(op, scale, "weight", weight)


def check_backward(op, grad, *_saved, **_scalars) -> None:
    """The forward has checked everything else."""
    _tensor(op, "grad", grad)
