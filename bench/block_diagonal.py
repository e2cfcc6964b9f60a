"""OFT's rotation of x: block_diagonal_apply beside what people write today, verified and in turn.

    python bench/block_diagonal.py [--device cuda] [--quick]

`einsum` is PEFT's expression in x's dtype, with the matrices in it too; `upcast` is what PEFT does beside float32
weights: x to float32, the expression, and back (of float32 x they are one). `compile` is `upcast` under torch.compile.
`clone` copies x, a forward pass's floor (forward and backward: three copies, x to y, y and its gradient to dx). Columns
are the others' time over ours. Matrices are float32 rotations, one a block.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial

import torch
from compare import contest
from compare.cases import DTYPES
from compare.verify import TOLERANCE
from torch import Tensor

import lrkernels
from lrkernels import reference

COLUMNS = ["clone", "einsum", "upcast", "compile"]


def einsum(x: Tensor, blocks: Tensor) -> Tensor:
    y = torch.einsum("...rk,rkc->...rc", x.unflatten(-1, (-1, blocks.shape[-1])), blocks.to(x.dtype))
    return y.flatten(-2)


def upcast(x: Tensor, blocks: Tensor) -> Tensor:
    return einsum(x.to(blocks.dtype), blocks).to(x.dtype)


@dataclass(frozen=True)
class Case:
    rows: int
    features: int
    block: int
    dtype: str
    backward: bool = False
    compiled: bool = True

    @property
    def name(self) -> str:
        passes = "forward+backward" if self.backward else "forward"
        return f"{passes}, {self.rows} rows of {self.features}, blocks of {self.block}, {self.dtype}"

    def hold(self, device: str, seconds: float) -> contest.Line:
        x, grad = (torch.randn(self.rows, self.features).to(device, DTYPES[self.dtype]) for _ in range(2))
        skew = torch.randn(self.features // self.block, self.block * (self.block - 1) // 2) / self.block
        leaves = [t.requires_grad_(self.backward) for t in (x, reference.cayley(skew, self.block).to(device))]

        def results(function, leaves=leaves, grad=grad) -> list[Tensor]:
            y = function(*leaves)
            return [y, *torch.autograd.grad(y, leaves, grad)] if self.backward else [y]

        functions = {"lrkernels": lrkernels.block_diagonal_apply, "einsum": einsum}
        if self.dtype != "fp32":
            functions["upcast"] = upcast
        if self.compiled:
            functions["compile"] = torch.compile(upcast, dynamic=False)
        wide = [t.detach().double().requires_grad_(self.backward) for t in leaves]
        source, copies = x.detach(), 3 if self.backward else 1
        return contest.hold(
            self.name,
            {name: partial(results, function) for name, function in functions.items()},
            results(reference.block_diagonal_apply, wide, grad.double()),
            TOLERANCE[self.dtype],
            {"clone": lambda: [source.clone() for _ in range(copies)]},
            columns=COLUMNS,
            device=device,
            backward=self.backward,
            seconds=seconds,
        )


def cases(quick: bool) -> list[Case]:
    if quick:
        return [Case(8, 32, 8, "bf16", compiled=False), Case(9, 40, 5, "fp32", backward=True, compiled=False)]
    shapes = ((1, 4096, 32), (1024, 4096, 32), (1024, 4096, 64), (1024, 4096, 128), (1024, 4096, 256), (1024, 4096, 8))
    return [Case(*shape, dtype, b) for dtype in ("fp32", "bf16") for b in (False, True) for shape in shapes]


def main(words: list[str] | None = None) -> int:
    return contest.main(words, __doc__, COLUMNS, cases, results=contest.results_of(__file__))


if __name__ == "__main__":
    sys.exit(main())
