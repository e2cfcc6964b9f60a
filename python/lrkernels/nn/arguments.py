"""Checks of constructor arguments, so that every module refuses the same things in the same words."""

from __future__ import annotations

import math
from numbers import Real

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from lrkernels.ops._lowrank_checks import KERNEL_DTYPES


def check_size(module: str, argument: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{module}: {argument} is {value!r}, expected an int")
    if value < 1:
        raise ValueError(f"{module}: {argument} is {value}, expected at least 1")


def check_rank(module: str, argument: str, rank: int, in_features: int, out_features: int) -> None:
    """A rank above min(in, out) costs more and can express nothing new, so it is refused as a slip."""
    check_size(module, argument, rank)
    largest = min(in_features, out_features)
    if rank > largest:
        raise ValueError(
            f"{module}: {argument} is {rank}, expected at most {largest}, "
            f"because the layer maps {in_features} features to {out_features}"
        )


def check_finite(module: str, argument: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{module}: {argument} is {value!r}, expected a number")
    if not math.isfinite(value):
        raise ValueError(f"{module}: {argument} is {value}, expected a finite number")


def check_dtype(module: str, dtype: torch.dtype | None) -> None:
    if dtype is not None and dtype not in KERNEL_DTYPES:
        raise TypeError(f"{module}: dtype is {dtype!r}, expected one of {', '.join(map(str, KERNEL_DTYPES))}")


def check_dropout(module: str, dropout: float) -> None:
    check_finite(module, "dropout", dropout)
    if not 0.0 <= dropout <= 1.0:
        raise ValueError(f"{module}: dropout is {dropout}, expected a probability in [0, 1]")


def check_linear(module: str, argument: str, linear: nn.Module) -> None:
    if not isinstance(linear, nn.Linear):
        raise TypeError(f"{module}: {argument} is {type(linear).__name__}, expected torch.nn.Linear or a subclass")
    if isinstance(linear._parameters.get("weight"), UninitializedParameter):
        raise TypeError(f"{module}: {argument} is an uninitialised {type(linear).__name__}; run one forward first")


def is_ordinary(tensor: Tensor) -> bool:
    """Whether an op may read the tensor's memory: no DTensor, no quantised tensor that poses as a float one."""
    return type(tensor) in (nn.Parameter, Tensor) or not is_traceable_wrapper_subclass(tensor)


def has_dense_weight(linear: nn.Linear) -> bool:
    """Whether ``linear.weight`` is the [out, in] matrix itself, not a quantised one or the packed storage of one."""
    weight = linear.weight
    shape = (linear.out_features, linear.in_features)
    return weight.dtype in KERNEL_DTYPES and tuple(weight.shape) == shape and is_ordinary(weight)


def check_dense_weight(module: str, argument: str, linear: nn.Linear) -> None:
    if not has_dense_weight(linear):
        weight, shape = linear.weight, (linear.out_features, linear.in_features)
        kind = "" if is_ordinary(weight) else f"{type(weight).__name__}, "
        raise TypeError(
            f"{module}: {argument}.weight is {kind}{weight.dtype} of shape {tuple(weight.shape)}, expected {shape} in "
            f"one of {', '.join(map(str, KERNEL_DTYPES))}"
        )
