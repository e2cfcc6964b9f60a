"""The best low-rank factors of a weight, where "best" may count some inputs and outputs for more than others."""

from __future__ import annotations

import torch
from torch import Tensor

from lrkernels.nn.truncated_svd import truncated_svd
from lrkernels.ops import orthonormalize


def low_rank_factors(
    name: str, weight: Tensor, rank: int, input_moment: Tensor | None = None, output_moment: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """up ``[out, rank]`` and down ``[rank, in]``, balanced, with the least ‖L·(W − up·down)·R‖_F.

        R·Rᵀ = input_moment ``[in, in]`` or its diagonal ``[in]``,    LᵀL = output_moment ``[out, out]`` or ``[out]``

    None is the identity. With U the leading left singular vectors of L·W·R, the product is L⁻¹·U·Uᵀ·L·W, so that R need
    not be inverted and may be singular; L is inverted where it is not. Neither weighted, up·down = U·S·Vᵀ. In float32
    or wider; roots in float64.
    """
    if input_moment is None and output_moment is None:
        u, s, vh = truncated_svd(name, weight, rank)
        root = s.sqrt()
        return u * root, root[:, None] * vh
    wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
    if output_moment is None:
        u, _, _ = truncated_svd(name, wide @ square_root(input_moment).to(wide), rank)
        return balanced(u, u.mT @ wide)
    left, inverse = root_and_inverse(output_moment)
    left, inverse = left.mT.to(wide), inverse.mT.to(wide)  # L and L⁻¹ of LᵀL
    if input_moment is None:
        _, _, vh = truncated_svd(name, left @ wide, rank)
        return balanced(wide @ vh.mT, vh)
    u, _, _ = truncated_svd(name, left @ wide @ square_root(input_moment).to(wide), rank)
    return balanced(inverse @ u, u.mT @ (left @ wide))


def balanced(up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """The same product from factors with upᵀ·up = down·downᵀ, diagonal and descending: neither has a larger gradient.

    up = U·√S, down = √S·Vᵀ of up·down = U·S·Vᵀ, from QR decompositions of the factors and an SVD ``[rank, rank]``
    """
    q_up, r_up = orthonormalize(up)
    q_down, r_down = orthonormalize(down.mT)
    u, s, vh = torch.linalg.svd(r_up @ r_down.mT)
    root = s.sqrt()
    return q_up @ (u * root), (root[:, None] * vh) @ q_down.mT


def square_root(moment: Tensor) -> Tensor:
    """R with R·Rᵀ = moment: Cholesky's factor, or Q·√Λ where the moment is singular."""
    moment = moment.double()
    if moment.dim() == 1:
        return moment.sqrt().diag()
    root, failed = torch.linalg.cholesky_ex(moment)
    return root if not failed.any() else root_and_inverse(moment)[0]


def root_and_inverse(moment: Tensor) -> tuple[Tensor, Tensor]:
    """R = Q·√Λ with R·Rᵀ = moment, and its pseudo-inverse."""
    moment = moment.double()
    if moment.dim() == 1:
        values, vectors = moment, torch.eye(len(moment), dtype=moment.dtype, device=moment.device)
    else:
        values, vectors = torch.linalg.eigh(moment)
    kept = values > len(values) * torch.finfo(values.dtype).eps * values.max()
    root = torch.where(kept, values, 0).sqrt()
    inverse = torch.where(kept, 1 / root, 0)
    return vectors * root, inverse[:, None] * vectors.mT


def check_moment(name: str, argument: str, moment: Tensor, size: int, what: str) -> None:
    """Raise unless it is a second moment ``[size, size]`` or the diagonal of one, ``[size]``."""
    if not isinstance(moment, Tensor) or not moment.is_floating_point():
        kind = moment.dtype if isinstance(moment, Tensor) else type(moment).__name__
        raise TypeError(f"{name}: {argument} is {kind}, expected a floating-point tensor")
    if tuple(moment.shape) not in ((size,), (size, size)):
        raise ValueError(
            f"{name}: {argument} has shape {tuple(moment.shape)}, expected ({size}, {size}) or its diagonal ({size},) "
            f"because the layer has {size} {what} features"
        )
    if not torch.isfinite(moment).all():
        raise ValueError(f"{name}: {argument} holds NaN or Inf")
    diagonal = moment if moment.dim() == 1 else moment.diagonal()
    if (diagonal < 0).any():
        raise ValueError(f"{name}: {argument} has a negative diagonal entry, but a second moment has none")
    if moment.dim() == 2 and moment.numel():
        wide = moment.double()
        # Of the products it was summed from, float32's at best, whatever the sum is kept in: ε·‖moment‖ and more.
        epsilon = max(torch.finfo(moment.dtype).eps, torch.finfo(torch.float32).eps)
        rounding = size * epsilon * wide.diagonal().max()
        if (wide - wide.mT).abs().max() > rounding:
            raise ValueError(f"{name}: {argument} is not symmetric, but a second moment is")
        _, failed = torch.linalg.cholesky_ex(
            wide + (2 * rounding + torch.finfo(wide.dtype).tiny) * torch.eye(size, dtype=wide.dtype, device=wide.device)
        )
        if failed:
            raise ValueError(f"{name}: {argument} has a negative eigenvalue, but a second moment has none")
