"""Intruder dimensions: singular vectors of a fine-tuned weight that its base does not know."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lrkernels.nn.truncated_svd import truncated_svd
from lrkernels.ops.sketch._checks import check_matrices


class Intruders(NamedTuple):
    """``similarity [top]``: the largest |cosine| of each leading left singular vector with all of the base's.
    ``indices``: those below epsilon, the intruders."""

    similarity: Tensor
    indices: Tensor

    @property
    def count(self) -> int:
        return len(self.indices)


@torch.no_grad()
def intruder_dimensions(weight: Tensor, base: Tensor, top: int = 10, epsilon: float = 0.5) -> Intruders:
    """The left singular vectors among the ``top`` of ``weight`` whose cosine with every one of ``base``'s is small.

    Low-rank fine-tuning makes them and full fine-tuning hardly does; they go with forgetting. Both are ``[out, in]``;
    the base is decomposed whole, since any of its vectors may be the one, the weight to rank ``top``.

    Raises ValueError where the shapes differ, top is outside [1, min(out, in)] or epsilon outside [0, 1].

    Shuttleworth, Andreas, Torralba and Sharma, "LoRA vs full fine-tuning: an illusion of equivalence", 2024.
    """
    check_matrices("intruder_dimensions", weight, "weight")
    if weight.dim() != 2 or weight.shape != base.shape:
        raise ValueError(
            f"intruder_dimensions: weight and base have shapes {tuple(weight.shape)} and {tuple(base.shape)}, expected "
            "one shape (out, in)"
        )
    if not 1 <= top <= min(weight.shape):
        raise ValueError(f"intruder_dimensions: top is {top}, expected 1 to {min(weight.shape)}")
    if not 0.0 <= epsilon <= 1.0:
        raise ValueError(f"intruder_dimensions: epsilon is {epsilon}, expected a cosine in [0, 1]")
    vectors, _, _ = truncated_svd("intruder_dimensions", weight, top)
    known, _, _ = truncated_svd("intruder_dimensions", base, min(base.shape))
    similarity = (vectors.mT @ known.to(vectors)).abs().amax(1)
    return Intruders(similarity, (similarity < epsilon).nonzero().flatten())
