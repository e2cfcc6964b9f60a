"""The orthogonal polar factor and the spectral norm in plain torch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lrkernels.reference.sketch import sketch_matrix

# Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024.
QUINTIC = (3.4445, -4.7750, 2.0315)


def _wide(a: Tensor) -> Tensor:
    return a.to(torch.promote_types(a.dtype, torch.float32))


def scaled_to_norm_one(x: Tensor) -> Tensor:
    """X/‖X‖_F, and 0 for X = 0; by its largest entry first, so that squares neither overflow nor vanish."""
    if x.numel() == 0:
        return x
    largest = x.detach().abs().amax((-2, -1), keepdim=True)
    x = x / torch.where(largest == 0, 1, largest)
    norm = x.square().sum((-2, -1), keepdim=True)
    return x / torch.where(norm == 0, 1, norm).sqrt()


def polar(
    a: Tensor, *, method: str = "newton_schulz", steps: int = 5, coefficients: Sequence[float] | None = None
) -> Tensor:
    """The factor Q of A = Q·H, or what ``steps`` iterations make of it.

    - ``newton_schulz``: X ← c₀X + (c₁M + c₂M²)X with M = XXᵀ from X = A/‖A‖_F; three ``coefficients``, or three a step.
      Muon's default ones do not converge: they bring the singular values near 1, fast.
    - ``cubic``: X ← (3X − XXᵀX)/2, which converges to Q from any X of full rank.
    - ``exact``: U·Vᵀ of the SVD.
    """
    if method == "exact":
        u, _, vh = torch.linalg.svd(_wide(a), full_matrices=False)
        return (u @ vh).to(a.dtype).contiguous()
    tall = a.shape[-2] > a.shape[-1]
    x = scaled_to_norm_one(_wide(a.mT if tall else a))
    given = [1.5, -0.5, 0.0] if method == "cubic" else list(QUINTIC if coefficients is None else coefficients)
    for step in range(steps):
        c0, c1, c2 = given[:3] if len(given) == 3 else given[3 * step : 3 * step + 3]
        m = x @ x.mT
        x = c0 * x + (c1 * m + c2 * (m @ m) if c2 else c1 * m) @ x
    return (x.mT if tall else x).to(a.dtype).contiguous()


def _times_power_of_two(x: Tensor, exponent: Tensor) -> Tensor:
    """x·2^exponent, exactly. torch.ldexp has no gradient."""
    one = torch.ones_like(exponent, dtype=x.dtype)
    half = exponent.div(2, rounding_mode="floor")  # of subnormal numbers the power alone would overflow
    return x * torch.ldexp(one, half) * torch.ldexp(one, exponent - half)


def _root(x: Tensor) -> Tensor:
    """√x with a gradient of 0 at 0."""
    return torch.where(x == 0, 0, torch.where(x == 0, 1, x).sqrt())


def _frobenius(g: Tensor) -> Tensor:
    return _root(g.square().sum((-2, -1)))


def _symmetric(g: Tensor) -> Tensor:
    """The lower triangle mirrored: a GEMM need not round both alike, and the bound is one of symmetric matrices."""
    return g.tril() + g.tril(-1).mT


def spectral_norm_bound(weight: Tensor, *, iters: int = 6) -> Tensor:
    """An upper bound of ‖W‖₂, never below it, and but for roundings within a factor (rank)^(2^−iters−1) of it.

    Gram iteration: with G₀ = WᵀW and G_t = G_{t−1}², ‖W‖₂² = ‖G_t‖₂^(2^−t) ≤ ‖G_t‖_F^(2^−t). In floating point
    G_{t+1} = G_t² + E with ‖E‖₂ ≤ γ‖G_t‖_F², γ = n·ε, so that b_t = √(b_{t+1} + γ‖G_t‖_F²) from b_T = ‖G_T‖_F bounds
    every ‖G_t‖₂, and ‖W‖₂² ≤ b₀ + γ‖W‖_F². Computed in float64; every G is scaled by a power of two, which is exact;
    what the sums and roots themselves round is below the same γ once more.

    Source: Delattre, Barthélemy, Araujo and Allauzen, "Efficient bound of Lipschitz constant for convolutional layers
    by Gram iteration", ICML 2023; the bound of the rounding is ours.
    """
    out = torch.promote_types(weight.dtype, torch.float32)
    if weight.numel() == 0:
        return weight.new_zeros(weight.shape[:-2], dtype=out)
    w = weight.double()
    w = w if w.shape[-2] >= w.shape[-1] else w.mT
    rows, size = w.shape[-2:]
    gamma = 2.0**-53 * (rows + 8)
    shift = torch.frexp(w.detach().abs().amax((-2, -1)))[1]
    w = _times_power_of_two(w, -shift[..., None, None])
    g = _symmetric(w.mT @ w)
    bounds = []
    frobenius = _frobenius(g)
    for _ in range(iters):
        exponent = torch.frexp(frobenius.detach())[1]
        g = _times_power_of_two(g, -exponent[..., None, None])
        bounds.append((_times_power_of_two(frobenius, -exponent), exponent))
        g = _symmetric(g @ g)
        frobenius = _frobenius(g)
    slack = 1 + 2.0**-53 * (size * size + 8)  # of the sums of squares
    bound = frobenius * slack
    for before, exponent in reversed(bounds):
        bound = _root(bound + gamma * (before * slack).square()) * (1 + 2.0**-50)
        bound = _times_power_of_two(bound, exponent)
    squared = bound + gamma * w.square().sum((-2, -1)) * slack
    bound = _times_power_of_two(_root(squared) * (1 + 2.0**-50), shift)
    rounded = bound.to(out)
    if out == torch.float64:
        subnormal = (rounded > 0) & (rounded < torch.finfo(out).tiny)  # scaled back by rounding
        return torch.where(subnormal, torch.nextafter(rounded.detach(), rounded.new_tensor(math.inf)), rounded)
    above = torch.nextafter(rounded.detach(), rounded.new_tensor(math.inf))
    return rounded + torch.where(rounded.double() < bound, above - rounded.detach(), 0)


def _unit(x: Tensor) -> Tensor:
    """x/‖x‖ along the last dimension, and the first unit vector for x = 0."""
    largest = x.abs().amax(-1, keepdim=True) if x.shape[-1] else x.sum(-1, keepdim=True)
    x = x / torch.where(largest == 0, 1, largest)
    first = torch.zeros_like(x)
    first[..., :1] = 1
    return torch.where(largest == 0, first, x / torch.where(largest == 0, 1, x.square().sum(-1, keepdim=True)).sqrt())


def power_iteration(
    weight: Tensor, v0: Tensor | None = None, *, iters: int = 8, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """σ ≈ ‖W‖₂, never above it beyond rounding, and its vectors u and v: u ← Wv/‖Wv‖, v ← Wᵀu/‖Wᵀu‖, σ = uᵀWv."""
    w = _wide(weight)
    if v0 is None:
        v = sketch_matrix(w.shape[-1], 1, seed=seed, device=w.device)[:, 0].to(w.dtype).expand(*w.shape[:-2], -1)
    else:
        v = v0.to(w.dtype)
    v = _unit(v)
    u = _unit((w @ v.unsqueeze(-1)).squeeze(-1))
    for _ in range(iters):
        v = _unit((w.mT @ u.unsqueeze(-1)).squeeze(-1))
        u = _unit((w @ v.unsqueeze(-1)).squeeze(-1))
    sigma = (u.unsqueeze(-2) @ w @ v.unsqueeze(-1)).flatten(-2).squeeze(-1)
    return sigma, u, v.contiguous()
