"""Argument checks of the sketch family; csrc/torch/sketch_checks.cpp makes the same for the raw ops, and
tests/sketch/test_sketch_errors.py holds the two together."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real

import torch
from torch import Tensor

from lrkernels.ops import _lowrank_checks as checks
from lrkernels.reference.sketch import SKETCH_KINDS, power_of_two

POLICIES = ("auto", "raise", "nan", "ignore")
METHODS = ("newton_schulz", "cubic", "exact")


def _int(op: str, name: str, value) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, torch.SymInt)):
        raise TypeError(f"{op}: {name} is a {type(value).__name__}, expected an int")


def _at_least(op: str, name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{op}: {name} is {value}, expected at least {least}")


def _choice(op: str, name: str, value, choices: Sequence[str]) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{op}: {name} is a {type(value).__name__}, expected a str")
    if value not in choices:
        *others, last = (f"'{choice}'" for choice in choices)
        raise ValueError(f"{op}: {name} is '{value}', expected {', '.join(others)} or {last}")


def _sketch(op, name, a, size_name, size, columns, kind, seed, dim, adjoint) -> None:
    checks._tensor(op, name, a)
    checks._tensor(op, "columns", columns, optional=True)
    _int(op, size_name, size)
    _int(op, "seed", seed)
    _int(op, "dim", dim)
    checks._activation(op, name, a)
    _choice(op, "kind", kind, SKETCH_KINDS)
    _at_least(op, size_name, size, 0)
    if not -a.dim() <= dim < a.dim():
        raise ValueError(f"{op}: dim is {dim}, expected a dimension of {name}, which has shape {tuple(a.shape)}")
    features, sketched = (size, a.shape[dim]) if adjoint else (a.shape[dim], size)
    if kind in ("hadamard", "dct"):
        most = power_of_two(features) if kind == "hadamard" else features
        if sketched > most:
            raise ValueError(
                f"{op}: a sketch of size {sketched} was asked for, expected at most {most} of {features} features "
                f"because kind is '{kind}'"
            )
    if columns is None:
        return
    if kind != "dct":
        raise ValueError(f"{op}: columns was given, expected none because kind is '{kind}'")
    if columns.dtype != torch.int64:
        raise TypeError(f"{op}: columns has dtype {columns.dtype}, expected torch.int64")
    if columns.dim() != 1 or columns.shape[0] != sketched:
        raise ValueError(f"{op}: columns has shape {tuple(columns.shape)}, expected ({sketched},)")
    if columns.device != a.device:
        raise ValueError(f"{op}: columns is on {columns.device}, but {name} is on {a.device}")


def check_sketch(op, a, size, columns=None, kind="rademacher", seed=0, dim=-1) -> None:
    _sketch(op, "a", a, "size", size, columns, kind, seed, dim, adjoint=False)


def check_unsketch(op, b, full_size, columns=None, kind="rademacher", seed=0, dim=-1) -> None:
    _sketch(op, "b", b, "full_size", full_size, columns, kind, seed, dim, adjoint=True)


def check_matrices(op: str, a: Tensor, name: str = "a") -> None:
    checks._tensor(op, name, a)
    if a.dtype not in checks.KERNEL_DTYPES:
        raise TypeError(
            f"{op}: {name} has dtype {a.dtype}, expected torch.float32, torch.float64, torch.bfloat16 or torch.float16"
        )
    if a.dim() < 2:
        raise ValueError(f"{op}: {name} has shape {tuple(a.shape)}, expected (..., rows, cols)")


def _rank(op: str, a: Tensor, rank: int) -> None:
    _int(op, "rank", rank)
    most = min(a.shape[-2:])
    if rank < 0 or rank > most:
        raise ValueError(f"{op}: rank is {rank}, expected 0 to {most} because a is {tuple(a.shape)}")


def basis_size(a: Tensor, rank: int, oversample: int) -> int:
    """Columns of a range finder's basis, of symbolic sizes too."""
    more = torch.sym_max(10, rank // 2) if oversample < 0 else oversample
    return torch.sym_min(rank + more, torch.sym_min(a.shape[-2], a.shape[-1]))


def check_range_finder(op, a, rank, q0=None, oversample=-1, power_iters=1, seed=0) -> None:
    check_matrices(op, a)
    checks._tensor(op, "q0", q0, optional=True)
    _rank(op, a, rank)
    for name, value in (("oversample", oversample), ("power_iters", power_iters), ("seed", seed)):
        _int(op, name, value)
    _at_least(op, "oversample", oversample, -1)
    _at_least(op, "power_iters", power_iters, 0)
    if q0 is None:
        return
    size = basis_size(a, rank, oversample)
    if q0.dim() != a.dim() or q0.shape[:-1] != a.shape[:-1] or q0.shape[-1] > size:
        raise ValueError(
            f"{op}: q0 has shape {tuple(q0.shape)}, expected a's shape with at most {size} columns because a is "
            f"{tuple(a.shape)}"
        )
    checks._kind(op, "q0", q0, "a", a, True)


def check_rsvd(op, a, rank, q0=None, oversample=-1, power_iters=1, seed=0, check="auto", broadening=0.0) -> None:
    check_range_finder(op, a, rank, q0, oversample, power_iters, seed)
    _choice(op, "check", check, POLICIES)
    checks._number(op, "broadening", broadening)
    if not broadening >= 0:
        raise ValueError(f"{op}: broadening is {broadening:f}, expected a number of at least 0")


def check_low_rank_approx(op, a, rank, seed=0) -> None:
    check_matrices(op, a)
    _rank(op, a, rank)
    _int(op, "seed", seed)


def check_polar(op, a, method="newton_schulz", steps=5, coefficients=None) -> None:
    check_matrices(op, a)
    _choice(op, "method", method, METHODS)
    _int(op, "steps", steps)
    _at_least(op, "steps", steps, 0)
    if coefficients is None:
        return
    if method != "newton_schulz":
        raise ValueError(f"{op}: coefficients were given, expected none because method is '{method}'")
    if isinstance(coefficients, (str, Tensor)) or not isinstance(coefficients, Sequence):
        raise TypeError(f"{op}: coefficients is a {type(coefficients).__name__}, expected a sequence of float")
    if not all(isinstance(value, Real) for value in coefficients):
        raise TypeError(f"{op}: coefficients holds something else than numbers, expected a sequence of float")
    if len(coefficients) not in (3, 3 * steps):
        raise ValueError(
            f"{op}: coefficients has {len(coefficients)} numbers, expected 3, or 3 for each of {steps} steps"
        )


def check_spectral_norm_bound(op, weight, iters=6) -> None:
    check_matrices(op, weight, "weight")
    _int(op, "iters", iters)
    _at_least(op, "iters", iters, 0)
