"""BOFT: a product of block-diagonal orthogonal factors, each in a permuted order of the features."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from lrkernels.nn.arguments import check_size
from lrkernels.nn.rotations.oft import check_blocks
from lrkernels.nn.rotations.rotated_linear import RotatedLinear
from lrkernels.nn.rotations.rotation import Rotation, beside, wide
from lrkernels.ops import block_diagonal_apply, cayley


def interleave_halves(x: Tensor, half: int, factor: int) -> Tensor:
    """The features in the order that factor number ``factor`` works in; ``separate_halves`` puts them back.

    Features move in half blocks. Of each group of 2^factor blocks the first half goes to the even places and the second
    half to the odd ones: a block then joins half blocks that are 2^factor half blocks apart. Factor 0 moves nothing.
    """
    return x.unflatten(-1, (-1, 2, 2**factor, half)).transpose(-3, -2).flatten(-4)


def separate_halves(x: Tensor, half: int, factor: int) -> Tensor:
    return x.unflatten(-1, (-1, 2**factor, 2, half)).transpose(-3, -2).flatten(-4)


class ButterflyRotation(Rotation):
    """R = M_{m−1}···M₁·M₀ with M_f = P_f·diag(R_f1, R_f2, …)·P_fᵀ, every R_fi of block_size x block_size.

    ``skew [factors, features // block_size, block_size·(block_size − 1) / 2]`` holds the row-major upper triangles of
    Q in R_fi = (I + Q)(I − Q)⁻¹ and starts at 0. P_f is the permutation of ``interleave_halves``.
    With m = log₂(features / block_size) + 1 factors every output depends on every input.
    """

    def __init__(self, features: int, block_size: int = 8, factors: int = 2, **placement: Any) -> None:
        super().__init__(features, **placement)
        check_blocks("BOFT", features, block_size)
        check_size("BOFT", "factors", factors)
        if factors > 1 and block_size % 2:
            raise ValueError(f"BOFT: block_size is {block_size}, expected an even number, because half blocks move")
        if features % (block_size * 2 ** (factors - 1)):
            raise ValueError(
                f"BOFT: factors is {factors}, expected in_features = {features} to be a multiple of "
                f"block_size·2^(factors − 1) = {block_size * 2 ** (factors - 1)}"
            )
        self.block_size, self.factors = block_size, factors
        self.skew = self.parameter(factors, features // block_size, block_size * (block_size - 1) // 2)
        self.reset_parameters()

    @property
    def work(self) -> float:
        return float(self.block_size * self.factors)

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.skew)

    def blocks(self) -> Tensor:
        """The matrices R_fi, ``[factors, blocks, block_size, block_size]``, in float32 or wider."""
        return cayley(wide(self.skew).flatten(0, 1), self.block_size).unflatten(0, (self.factors, -1))

    def _apply_factor(self, x: Tensor, blocks: Tensor, factor: int, transpose: bool) -> Tensor:
        if factor == 0:
            return block_diagonal_apply(x, blocks[0], transpose=transpose)
        half = self.block_size // 2
        y = block_diagonal_apply(interleave_halves(x, half, factor), blocks[factor], transpose=transpose)
        return separate_halves(y, half, factor)

    def forward(self, x: Tensor) -> Tensor:
        return self._product(x, range(self.factors - 1, -1, -1), transpose=False)

    def transposed(self, x: Tensor) -> Tensor:
        return self._product(x, range(self.factors), transpose=True)

    def _product(self, x: Tensor, order: range, transpose: bool) -> Tensor:
        """The factors applied in order; between them half x stays in float32, so that it is rounded once."""
        y = x if self.factors == 1 else wide(x)
        blocks = beside(y, self.blocks())
        for factor in order:
            y = self._apply_factor(y, blocks, factor, transpose)
        return y.to(x.dtype)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, block_size={self.block_size}, factors={self.factors}"


class BOFTLinear(RotatedLinear):
    """A frozen linear layer under a butterfly of block-diagonal orthogonal transforms of its input features (BOFT).

        y = scale ⊙ (x·R)·Wᵀ + bias,    R = M_{m−1}···M₁·M₀;    merged weight diag(scale)·W·Rᵀ

    ``rotation.skew [factors, in_features // block_size, block_size·(block_size − 1) / 2]`` starts at 0, the trained
    ``scale [out_features]`` at 1. A factor costs what OFT of that block size does; in_features has to be a multiple of
    block_size·2^(factors − 1). Permutations are copies in another order: nothing of in_features² is ever there. Else as
    ``RotatedLinear``; a base layer with a bias and a forward of its own has its bias taken off before scale acts.

        layer = BOFTLinear(nn.Linear(4096, 4096), block_size=8, factors=4)

    Liu et al., "Parameter-efficient orthogonal finetuning via butterfly factorization", ICLR 2024.
    """

    adapter_parameters = ("rotation", "scale")

    def __init__(self, base_layer: nn.Linear, block_size: int = 8, factors: int = 2, **placement: Any) -> None:
        super().__init__(base_layer, ButterflyRotation, block_size, factors, **placement)
        self.scale = nn.Parameter(self.rotation.skew.new_ones(self.out_features))

    def reset_parameters(self) -> None:
        super().reset_parameters()
        if self.scale is not None:
            nn.init.ones_(self.scale)
