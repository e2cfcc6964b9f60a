"""Penalties that are zero for an orthonormal weight: terms to add to a loss, with a factor of your choice.

    loss = task_loss + 1e-3 * sum(soft_orthogonality(m.weight) for m in model.modules() if isinstance(m, nn.Linear))

A weight ``[out, …]`` is the matrix ``[out, rest]`` of its filters, of which a convolution has a row a filter. Sums are
in float32 or wider.

Bansal, Chen and Wang, "Can we gain more from orthogonality regularizations in training deep CNNs?", NeurIPS 2018;
``convolution_orthogonality`` and ``unit_spectral_norm`` say their own source.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lrkernels.nn.rotations.rotation import full_precision, wide
from lrkernels.ops import power_iteration


def _matrix(name: str, weight: Tensor) -> Tensor:
    if weight.dim() < 2:
        raise ValueError(f"{name}: weight has shape {tuple(weight.shape)}, expected at least two dimensions")
    return wide(weight).flatten(1)


def _gram_excess(w: Tensor) -> Tensor:
    """WWᵀ − I. Autocast would round it to a few thousandths, the size of what a penalty is to see."""
    with full_precision(w):
        return w @ w.mT - torch.eye(len(w), dtype=w.dtype, device=w.device)


def _excess(name: str, weight: Tensor) -> Tensor:
    """WWᵀ − I, or WᵀW − I where there are more rows than columns and the rows cannot all be orthogonal."""
    w = _matrix(name, weight)
    return _gram_excess(w if w.shape[0] <= w.shape[1] else w.mT)


def soft_orthogonality(weight: Tensor) -> Tensor:
    """SO: ‖WWᵀ − I‖_F² (of WᵀW where there are more rows than columns)."""
    return _excess("soft_orthogonality", weight).square().sum()


def double_soft_orthogonality(weight: Tensor) -> Tensor:
    """DSO: ‖WᵀW − I‖_F² + ‖WWᵀ − I‖_F², which at its least is |out − rest|: 0 for a square weight alone."""
    w = _matrix("double_soft_orthogonality", weight)
    return _gram_excess(w.mT).square().sum() + _gram_excess(w).square().sum()


def mutual_coherence(weight: Tensor) -> Tensor:
    """MC: the largest entry of |WWᵀ − I| (of WᵀW where there are more rows than columns)."""
    return _excess("mutual_coherence", weight).abs().amax()


def spectral_isometry(weight: Tensor, iterations: int = 2) -> Tensor:
    """SRIP: ‖WWᵀ − I‖₂ (of WᵀW where there are more rows than columns), by power iteration from below.

    It starts from the column of the largest length, so the same weight gives the same bits. The direction counts as a
    constant in the gradient, which at convergence is that of the norm.
    """
    if iterations < 1:
        raise ValueError(f"spectral_isometry: iterations is {iterations}, expected at least 1")
    excess = _excess("spectral_isometry", weight)
    with torch.no_grad(), full_precision(excess):
        longest = torch.linalg.vector_norm(excess, dim=0).argmax()
        direction = F.normalize(excess.index_select(1, longest.reshape(1)), dim=0)
        for _ in range(iterations - 1):
            direction = F.normalize(excess @ direction, dim=0)
    with full_precision(excess):
        return torch.linalg.vector_norm(excess @ direction)


def unit_spectral_norm(weight: Tensor, power: int = 2, iterations: int = 8) -> Tensor:
    """(‖W‖₂^power − 1)², the norm by :func:`lrkernels.power_iteration` from below: keeps a layer trainable over tasks.

    Zero for an orthonormal weight, and for any whose largest singular value is 1: it is the least that a penalty can
    ask for. The start is fixed, so the same weight gives the same bits; the gradient is that of the norm in the
    directions that the iteration found.

    Lewandowski et al., "Learning continually by spectral regularization", 2024.
    """
    if power < 1 or iterations < 1:
        raise ValueError(f"unit_spectral_norm: power is {power}, iterations {iterations}, expected at least 1")
    w = _matrix("unit_spectral_norm", weight)
    with full_precision(w):
        sigma, _, _ = power_iteration(w, iters=iterations)
        return (sigma**power - 1.0).square()


def convolution_orthogonality(kernel: Tensor, stride: int = 1) -> Tensor:
    """How far a convolution's map of images is from orthogonal, by its kernel ``[out, in, height, width]`` alone.

        L = ‖conv(K, K) − I‖_F² − max(out − in·stride², 0),    I the identity at the place of no shift

    N²·L is ‖MMᵀ − I‖_F², or ‖MᵀM − I‖_F² where M has more rows, of the matrix M of the circular convolution of N·stride
    x N·stride images. ``soft_orthogonality(kernel)`` sees the filters of one place alone.

    Achour, Malgouyres and Mamalet, "Existence, stability and scalability of orthogonal convolutional neural networks",
    JMLR 2022; Wang, Chen, Chakraborty and Yu, "Orthogonal convolutional neural networks", CVPR 2020.
    """
    if kernel.dim() != 4:
        raise ValueError(
            f"convolution_orthogonality: kernel has shape {tuple(kernel.shape)}, expected (out, in, height, width)"
        )
    if stride < 1:
        raise ValueError(f"convolution_orthogonality: stride is {stride}, expected at least 1")
    k = wide(kernel)
    out, channels, height, width = k.shape
    padding = [(size - 1) // stride * stride for size in (height, width)]
    with full_precision(k):
        products = F.conv2d(k, k, stride=stride, padding=padding)
    center = torch.zeros_like(products)
    center[:, :, padding[0] // stride, padding[1] // stride].fill_diagonal_(1.0)
    return (products - center).square().sum() - max(out - channels * stride**2, 0)
