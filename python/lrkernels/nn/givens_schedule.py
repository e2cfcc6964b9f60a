"""Which planes ``lrkernels.givens_apply`` rotates in which round: butterflies, and the tree of features − 1 rotations.

strides = givens_schedule.butterfly(48)                   # 1, 2, 4, 8, 16, 32: every output depends on every input
angles = givens_schedule.angles_to_first(x)               # givens_apply(x, angles, strides) is (‖x‖, 0, 0, …)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lrkernels.nn.arguments import check_size


def butterfly(features: int) -> list[int]:
    """Strides 1, 2, 4, … below features: ⌈log₂(features)⌉ rounds that lead from every feature to every other one."""
    check_size("givens_schedule.butterfly", "features", features)
    return [2**t for t in range((features - 1).bit_length())]


def tree(angles: Tensor, features: int) -> Tensor:
    """The tree's ``[features − 1]`` angles as ``[rounds, features // 2]``, for the strides ``butterfly(features)``.

    Entry j − 1 is the angle of the plane (j − 2ᵗ, j), with 2ᵗ the lowest bit of j: round t takes the pairs
    (2ᵗ⁺¹m, 2ᵗ⁺¹m + 2ᵗ), each pair number 2ᵗm of that round, and the others rest. Differentiable.
    """
    if angles.shape != (max(features - 1, 0),):
        raise ValueError(
            f"givens_schedule.tree: angles has shape {tuple(angles.shape)}, expected ({features - 1},) because "
            f"features is {features}"
        )
    pairs, rows = features // 2, []
    for stride in butterfly(features):
        spread = F.pad(angles[stride - 1 :: 2 * stride].unsqueeze(1), (0, stride - 1)).flatten()  # every stride-th pair
        rows.append(F.pad(spread, (0, pairs - len(spread))))
    return torch.stack(rows) if rows else angles.new_zeros(0, pairs)


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
