"""Which planes ``lrkernels.givens_apply`` rotates in which round: butterflies, and the tree of features − 1 rotations.

strides = givens_schedule.butterfly(48)                   # 1, 2, 4, 8, 16, 32: every output depends on every input
angles = givens_schedule.angles_to_first(x)               # givens_apply(x, angles, strides) is (‖x‖, 0, 0, …)
"""

from __future__ import annotations

import torch
from torch import Tensor

from lrkernels.nn.arguments import check_size


def butterfly(features: int) -> list[int]:
    """Strides 1, 2, 4, … below features: ⌈log₂(features)⌉ rounds that lead from every feature to every other one."""
    check_size("givens_schedule.butterfly", "features", features)
    return [2**t for t in range((features - 1).bit_length())]


def tree_pairs(features: int, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Where ``angles [rounds, features // 2]`` holds the tree's angles: rounds and places, each ``[features − 1]``.

    The tree's rotation number j − 1 is in the plane (j − 2ᵗ, j) with 2ᵗ the lowest bit of j, in round t: round t takes
    the pairs (2ᵗ⁺¹m, 2ᵗ⁺¹m + 2ᵗ) alone, each of which is pair number 2ᵗm of that round.
    """
    check_size("givens_schedule.tree_pairs", "features", features)
    j = torch.arange(1, features, device=device)
    stride = j & -j
    rounds = torch.frexp(stride.double()).exponent.long() - 1
    return rounds, (j - stride) // 2


def tree(angles: Tensor, features: int) -> Tensor:
    """The tree's ``[features − 1]`` angles as ``[rounds, features // 2]``, for the strides ``butterfly(features)``.

    Entry j − 1 is the angle of the plane (j − 2ᵗ, j), with 2ᵗ the lowest bit of j; other pairs rest. Differentiable.
    """
    if angles.shape != (max(features - 1, 0),):
        raise ValueError(
            f"givens_schedule.tree: angles has shape {tuple(angles.shape)}, expected ({features - 1},) because "
            f"features is {features}"
        )
    rounds, places = tree_pairs(features, angles.device)
    full = angles.new_zeros(len(butterfly(features)), features // 2)
    return full.index_put((rounds, places), angles)


@torch.no_grad()
def tree_to_first(x: Tensor) -> Tensor:
    """The ``[features − 1]`` angles of the tree that takes ``x [features]`` to (‖x‖, 0, 0, …), in float32 or wider.

    Ma et al., "Parameter efficient quasi-orthogonal fine-tuning via Givens rotation", ICML 2024, theorem 4.1.
    """
    if x.dim() != 1:
        raise ValueError(f"givens_schedule.tree_to_first: x has shape {tuple(x.shape)}, expected (features,)")
    remaining = x.to(torch.promote_types(x.dtype, torch.float32))
    angles = remaining.new_zeros(max(len(x) - 1, 0))
    for stride in butterfly(len(x)) if len(x) else ():
        first, second = remaining[0::2], remaining[1::2]
        paired = first[: len(second)]
        # sin θ·x_i + cos θ·x_j = 0 and cos θ·x_i − sin θ·x_j = √(x_i² + x_j²)
        angles[stride - 1 :: 2 * stride] = torch.atan2(-second, paired)
        remaining = first.clone()
        remaining[: len(second)] = torch.hypot(paired, second)
    return angles


def angles_to_first(x: Tensor) -> Tensor:
    """``tree_to_first(x)`` laid out for ``givens_apply(x, angles, butterfly(features))``."""
    return tree(tree_to_first(x), len(x))
