"""Givens rounds: givens_apply beside what people write today, verified and in turn.

    python bench/givens.py [--device cuda] [--quick]

`gather` is lrkernels.reference.givens_apply, which selects and puts back the columns of every round. `views` needs
features that are a power of two: pairs as a dimension of their own, two products and a concatenation a round; `compile`
is `views` under torch.compile. `clone` copies x, a forward pass's floor (forward and backward: three copies, x to y,
y and its gradient to dx). Columns are the others' time over ours: 0.4× of a clone is 2.5 times its time. A butterfly:
strides 1, 2, 4, …, and float32 angles.
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

COLUMNS = ["clone", "gather", "views", "compile"]


def views(x: Tensor, angles: Tensor, strides: list[int]) -> Tensor:
    y = x.to(angles.dtype)
    for angle, stride in zip(angles, strides, strict=True):
        first, second = y.unflatten(-1, (-1, 2, stride)).unbind(-2)
        cos, sin = angle.cos().view(-1, stride), angle.sin().view(-1, stride)
        y = torch.stack([cos * first - sin * second, sin * first + cos * second], -2).flatten(-3)
    return y.to(x.dtype)


@dataclass(frozen=True)
class Case:
    rows: int
    features: int
    dtype: str
    backward: bool = False
    compiled: bool = True

    @property
    def strides(self) -> list[int]:
        return [1 << k for k in range((self.features - 1).bit_length())]

    @property
    def name(self) -> str:
        passes = "forward+backward" if self.backward else "forward"
        return f"{passes}, {self.rows} rows of {self.features}, {len(self.strides)} rounds, {self.dtype}"

    def hold(self, device: str, seconds: float) -> contest.Line:
        strides = self.strides
        x, grad = (torch.randn(self.rows, self.features).to(device, DTYPES[self.dtype]) for _ in range(2))
        angles = torch.randn(len(strides), self.features // 2).to(device)
        leaves = [t.requires_grad_(self.backward) for t in (x, angles)]

        def results(function, leaves=leaves, grad=grad) -> list[Tensor]:
            y = function(*leaves, strides)
            return [y, *torch.autograd.grad(y, leaves, grad)] if self.backward else [y]

        functions = {"lrkernels": lrkernels.givens_apply, "gather": reference.givens_apply}
        if self.features == 1 << len(strides):
            functions["views"] = views
            if self.compiled:
                functions["compile"] = torch.compile(views, dynamic=False)
        wide = [t.detach().double().requires_grad_(self.backward) for t in leaves]
        source, copies = x.detach(), 3 if self.backward else 1
        return contest.hold(
            self.name,
            {name: partial(results, function) for name, function in functions.items()},
            results(reference.givens_apply, wide, grad.double()),
            TOLERANCE[self.dtype],
            {"clone": lambda: [source.clone() for _ in range(copies)]},
            columns=COLUMNS,
            device=device,
            backward=self.backward,
            seconds=seconds,
        )


def cases(quick: bool) -> list[Case]:
    if quick:
        return [Case(8, 32, "bf16", compiled=False), Case(9, 40, "fp32", backward=True)]
    shapes = ((1, 4096), (1024, 4096), (1024, 3072), (8192, 1024))
    return [Case(*shape, dtype, b) for dtype in ("fp32", "bf16") for b in (False, True) for shape in shapes]


def main(words: list[str] | None = None) -> int:
    return contest.main(words, __doc__, COLUMNS, cases, results=contest.results_of(__file__))


if __name__ == "__main__":
    sys.exit(main())
