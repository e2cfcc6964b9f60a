"""The randomized SVD family beside what people write today, verified and in turn.

    python bench/sketch.py [--quick] [--only rsvd]

`svd_lowrank` is torch.svd_lowrank(a, q=rank, niter=2) in float32, six passes over a where ours are four; `svd` is
torch.linalg.svd. Both give a whole decomposition, of which a range finder is a part. `muon` is the Newton–Schulz loop
of torch.optim.Muon, one bfloat16 matrix after the other; `batched` the same of all at once in float32. Columns are the
others' time over ours. Bases are compared by the distance of A from its projection, over that of the best basis: within
5 % of it, or no time. The exact figures go to standard error.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial

import torch
from compare import contest
from compare.cases import DTYPES
from torch import Tensor

import lrkernels
from lrkernels import reference

COLUMNS = ["svd_lowrank", "svd", "muon", "batched"]


def decaying(rows: int, cols: int) -> Tensor:
    """Singular values that fall and then stay, as those of trained weights and gradients do."""
    inner = min(rows, cols) // 4
    scales = 0.99 ** torch.arange(inner)
    return (torch.randn(rows, inner) * scales) @ torch.randn(inner, cols) / inner**0.5 + 0.1 * torch.randn(rows, cols)


def residual(a: Tensor, basis: Tensor) -> Tensor:
    """‖A − QQᵀA‖_F in float64."""
    q = basis.double()
    return torch.linalg.matrix_norm(a - q @ (q.mT @ a)).reshape(1)


@dataclass(frozen=True)
class Approximation:
    """``what`` is "rsvd" or "range_finder"."""

    what: str
    rows: int
    cols: int
    rank: int
    dtype: str = "fp32"
    whole: bool = False  # torch.linalg.svd too, which takes seconds

    @property
    def name(self) -> str:
        return f"{self.what}, {self.rows} x {self.cols}, rank {self.rank}, {self.dtype}"

    def hold(self, device: str, seconds: float) -> contest.Line:
        a, rank = decaying(self.rows, self.cols).to(device, DTYPES[self.dtype]), self.rank
        wide, single = a.double(), a.float()
        best = residual(wide, torch.linalg.svd(wide, full_matrices=False)[0][:, :rank])

        def seen(results: list[Tensor]) -> list[Tensor]:
            error = residual(wide, results[0][:, :rank] if self.what == "rsvd" else results[0])
            print(f"{self.name}: {(error / best).item():.4f} of the best error", file=sys.stderr)
            return [error.maximum(best)]  # a basis with more columns may be better than the best of `rank`

        contenders = {
            "lrkernels": lambda: list(lrkernels.rsvd(a, rank)),
            "svd_lowrank": lambda: list(torch.svd_lowrank(single, q=rank, niter=2)),
        }
        if self.what == "range_finder":
            contenders["lrkernels"] = lambda: [lrkernels.range_finder(a, rank)]
        if self.whole:
            contenders["svd"] = lambda: [torch.linalg.svd(single, full_matrices=False)[0][:, :rank]]
        return contest.hold(
            self.name,
            contenders,
            [best],
            0.05,
            {},
            columns=COLUMNS,
            device=device,
            backward=False,
            seconds=seconds,
            seen=seen,
        )


def muons_iteration(x: Tensor) -> Tensor:
    """torch.optim.Muon's five steps, of a matrix or of a stack."""
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    c0, c1, c2 = 3.4445, -4.7750, 2.0315
    for _ in range(5):
        gram = x @ x.mT
        x = c0 * x + (c1 * gram + c2 * gram @ gram) @ x
    return x


@dataclass(frozen=True)
class Polar:
    count: int
    size: int

    @property
    def name(self) -> str:
        return f"polar, {self.count} matrices of {self.size} x {self.size}, fp32"

    def hold(self, device: str, seconds: float) -> contest.Line:
        stack = torch.randn(self.count, self.size, self.size).to(device)
        loop = lambda: [muons_iteration(matrix.bfloat16()).float() for matrix in stack]  # noqa: E731
        return contest.hold(
            self.name,
            {"lrkernels": lambda: [lrkernels.polar(stack)], "batched": lambda: [muons_iteration(stack)]},
            [reference.polar(stack.double())],
            1e-4,
            {"muon": loop},
            columns=COLUMNS,
            device=device,
            backward=False,
            seconds=seconds,
        )


def cases(quick: bool) -> list[contest.Case]:
    if quick:
        return [Approximation("rsvd", 60, 40, 5), Approximation("range_finder", 60, 40, 5, "bf16"), Polar(3, 16)]
    shapes = ((1024, 1024), (2048, 2048), (4096, 1024))
    rsvd = partial(Approximation, "rsvd")
    return [
        *(rsvd(*shape, rank, whole=shape[0] == 1024) for rank in (32, 128) for shape in shapes),
        rsvd(2048, 2048, 128, "bf16"),
        *(Approximation("range_finder", *shape, 128) for shape in shapes),
        Polar(126, 64),
        Polar(126, 128),
    ]


def main(words: list[str] | None = None) -> int:
    return contest.main(words, __doc__, COLUMNS, cases, results=contest.results_of(__file__))


if __name__ == "__main__":
    sys.exit(main())
