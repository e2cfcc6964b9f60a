"""Orthogonal starting points: delta-orthogonal kernels, ZerO, LSUV. (``torch.nn.init.orthogonal_`` is for matrices.)"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lrkernels.nn.orthogonal_maps import orthonormalized


@torch.no_grad()
def delta_orthogonal_(kernel: Tensor, gain: float = 1.0) -> Tensor:
    """Fill a convolution's kernel ``[out, in, …]`` with zeros but for its centre, gain times an orthonormal matrix.

    With out ≥ in and circular padding the convolution is gain times an isometry of images. Odd sizes alone have a
    centre, else ValueError.

    Xiao, Bahri, Sohl-Dickstein, Schoenholz and Pennington, "Dynamical isometry and a mean field theory of CNNs", ICML
    2018.
    """
    if kernel.dim() < 3 or any(size % 2 == 0 for size in kernel.shape[2:]):
        raise ValueError(
            f"delta_orthogonal_: kernel has shape {tuple(kernel.shape)}, expected (out, in, …) with odd sizes"
        )
    q = torch.empty(kernel.shape[:2], dtype=torch.promote_types(kernel.dtype, torch.float32), device=kernel.device)
    centre = (slice(None), slice(None), *(size // 2 for size in kernel.shape[2:]))
    kernel.zero_()
    kernel[centre] = (gain * orthonormalized(nn.init.normal_(q))).to(kernel.dtype)
    return kernel


def hadamard(order: int, **placement) -> Tensor:
    """The Hadamard matrix of Sylvester's construction, of ±1, ``[order, order]`` for a power of two."""
    if order < 1 or order & (order - 1):
        raise ValueError(f"hadamard: order is {order}, expected a power of two")
    matrix = torch.ones(1, 1, **placement)
    while len(matrix) < order:
        matrix = torch.cat([torch.cat([matrix, matrix], dim=1), torch.cat([matrix, -matrix], dim=1)])
    return matrix


@torch.no_grad()
def zero_one_(weight: Tensor) -> Tensor:
    """Fill a weight ``[out, in]``, or the centre of a kernel ``[out, in, …]`` of odd sizes, without randomness (ZerO).

    The (partial) identity where out ≤ in; where a layer widens, ones would leave some features without a signal, and
    the top left of a Hadamard matrix over the root of its order, out rounded up to a power of two, takes their place:
    orthonormal columns where out is one. Zeros elsewhere in a kernel.

    Zhao, Schäfer and Anandkumar, "ZerO initialization: initializing neural networks with only zeros and ones", TMLR
    2022.
    """
    if weight.dim() < 2 or any(size % 2 == 0 for size in weight.shape[2:]):
        raise ValueError(f"zero_one_: weight has shape {tuple(weight.shape)}, expected (out, in, …) with odd sizes")
    out, width = weight.shape[:2]
    centre = (slice(None), slice(None), *(size // 2 for size in weight.shape[2:]))
    weight.zero_()
    if out <= width:
        weight[centre] = torch.eye(out, width, dtype=weight.dtype, device=weight.device)
    else:
        order = 1 << (out - 1).bit_length()
        weight[centre] = hadamard(order, dtype=weight.dtype, device=weight.device)[:out, :width] / order**0.5
    return weight


LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@contextmanager
def _outputs_of(layers: list[nn.Module]) -> Iterator[list[tuple[nn.Module, Tensor]]]:
    """The calls of some layers, in order, with what they returned."""
    calls: list[tuple[nn.Module, Tensor]] = []
    handles = [layer.register_forward_hook(lambda module, _, y: calls.append((module, y))) for layer in layers]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def lsuv_(model: nn.Module, *inputs: Tensor, tolerance: float = 0.01, iterations: int = 10) -> nn.Module:
    """Start every linear and convolution layer orthonormal, then scale each to outputs of variance 1 (LSUV).

    ``model(*inputs)`` is run in eval mode on a batch: once to see in which order the layers are called, then a few
    times for each, until the variance of its output is within ``tolerance`` of 1 or ``iterations`` are spent. Biases
    become zero; a layer that is called several times is scaled by its first call, one that is not called is left as it
    was, as is one whose weight is computed (a parametrization). Weights are changed in place, train modes restored.

    Raises ValueError when no layer is called, or one puts out a constant, which no scale helps.

    Mishkin and Matas, "All you need is a good init", ICLR 2016.
    """
    layers = [module for module in model.modules() if isinstance(module, LAYERS) and "weight" in module._parameters]
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with _outputs_of(layers) as calls:
            model(*inputs)
        called = list(dict.fromkeys(layer for layer, _ in calls))
        if not called:
            raise ValueError("lsuv_: the model calls no linear or convolution layer")
        for layer in called:
            weight = layer.weight
            q = orthonormalized(nn.init.normal_(torch.empty_like(weight, dtype=torch.float32).flatten(1)))
            weight.copy_(q.reshape(weight.shape))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        for layer in called:
            _scale_to_unit_variance(model, inputs, layer, tolerance, iterations)
    finally:
        for module, training in modes:
            module.training = training
    return model


def _scale_to_unit_variance(
    model: nn.Module, inputs: tuple[Tensor, ...], layer: nn.Module, tolerance: float, iterations: int
) -> None:
    for _ in range(iterations):
        with _outputs_of([layer]) as calls:
            model(*inputs)
        variance = calls[0][1].double().var().item()
        if not 0.0 < variance < float("inf"):
            raise ValueError(f"lsuv_: {type(layer).__name__} puts out values of variance {variance} on this batch")
        if abs(variance - 1.0) <= tolerance:
            return
        layer.weight.div_(variance**0.5)
