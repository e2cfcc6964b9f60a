"""Options of optimizers: collected, and checked so that every optimizer refuses the same things in the same words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

from torch import Tensor


def given(arguments: dict[str, Any]) -> dict[str, Any]:
    """A group's options, of the ``locals()`` with which a constructor begins: its signature is where they stand."""
    return {name: value for name, value in arguments.items() if name not in ("self", "params", "__class__")}


def check_number(optimizer: str, option: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{optimizer}: {option} is {value!r}, expected a number")
    if not math.isfinite(value):
        raise ValueError(f"{optimizer}: {option} is {value}, expected a finite number")


def check_at_least(optimizer: str, option: str, value: Any, least: float) -> None:
    check_number(optimizer, option, value)
    if value < least:
        raise ValueError(f"{optimizer}: {option} is {value}, expected at least {least}")


def check_share(optimizer: str, option: str, value: Any) -> None:
    """A factor of a moving average."""
    check_number(optimizer, option, value)
    if not 0 <= value < 1:
        raise ValueError(f"{optimizer}: {option} is {value}, expected a number in [0, 1)")


def check_betas(optimizer: str, betas: Any) -> None:
    if not isinstance(betas, Sequence) or isinstance(betas, str) or len(betas) != 2:
        raise ValueError(f"{optimizer}: betas is {betas!r}, expected two numbers")
    for beta in betas:
        check_share(optimizer, "betas", beta)


def check_learning_rate(optimizer: str, lr: Any) -> None:
    """A tensor's value is not looked at: that would wait for its device."""
    if isinstance(lr, Tensor):
        if lr.numel() != 1:
            raise ValueError(f"{optimizer}: lr is a tensor of shape {tuple(lr.shape)}, expected one number")
        return
    check_at_least(optimizer, "lr", lr, 0)


def check_count(optimizer: str, option: str, value: Any, least: int = 1) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{optimizer}: {option} is {value!r}, expected an int")
    if value < least:
        raise ValueError(f"{optimizer}: {option} is {value}, expected at least {least}")


def check_choice(optimizer: str, option: str, value: Any, choices: Sequence[str]) -> None:
    if value not in choices:
        *others, last = (f"'{choice}'" for choice in choices)
        raise ValueError(f"{optimizer}: {option} is {value!r}, expected {', '.join(others)} or {last}")
