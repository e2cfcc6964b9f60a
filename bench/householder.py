"""Householder reflections: householder_apply beside what people write today, verified and in turn.

    python bench/householder.py [--device cuda] [--quick]

Two uses. A layer adapted by HRA, y = (x·H₁⋯H_r)·Wᵀ with W frozen: `one by one` reflects x r times, `dense` builds the
product of the reflections and turns W with it, as PEFT does (float32 and r = 8 only, since it takes seconds); `base` is
x·Wᵀ alone, so its column is the part of the layer's time that the layer had before. And an orthogonal matrix of n
reflections from an n × n matrix, forward and backward: `torch` is torch.linalg.householder_product, the "householder"
map of torch's orthogonal parametrization, whose vectors begin with zeros and a one; it takes no others, so beside full
vectors its column is the time for its own.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import torch
from compare import contest
from compare.cases import DTYPES
from compare.verify import TOLERANCE
from torch import Tensor

import lrkernels
from lrkernels import reference

COLUMNS = ["base", "one by one", "dense", "torch"]


@dataclass(frozen=True)
class Layer:
    rows: int
    features: int
    reflections: int
    dtype: str
    backward: bool = False

    @property
    def name(self) -> str:
        passes = "forward+backward" if self.backward else "forward"
        return f"HRA layer {passes}, {self.rows} rows of {self.features}, r = {self.reflections}, {self.dtype}"

    def hold(self, device: str, seconds: float) -> contest.Line:
        dtype = DTYPES[self.dtype]
        x, weight, vectors, grad = (
            torch.randn(count, self.features).to(device, dtype)
            for count in (self.rows, self.features, self.reflections, self.rows)
        )
        leaves = [t.requires_grad_(self.backward) for t in (x, vectors)]

        def results(turned, leaves=leaves, weight=weight, grad=grad) -> list[Tensor]:
            y = turned(*leaves, weight)
            return [y, *torch.autograd.grad(y, leaves, grad)] if self.backward else [y]

        def ours(x, vectors, weight):
            return lrkernels.householder_apply(x, vectors) @ weight.mT

        def one_by_one(x, vectors, weight):
            return reference.householder_apply(x, vectors) @ weight.mT

        def dense(x, vectors, weight):
            units = vectors / vectors.norm(dim=1, keepdim=True)
            product = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
            for unit in units:
                product = product @ (torch.eye(len(unit), dtype=x.dtype, device=x.device) - 2 * unit[:, None] * unit)
            return x @ (weight @ product.mT).mT

        def base():
            y = x @ weight.mT
            return torch.autograd.grad(y, x, grad) if self.backward else y

        contenders = {"lrkernels": lambda: results(ours), "one by one": lambda: results(one_by_one)}
        if self.reflections <= 8 and self.dtype == "fp32":
            contenders["dense"] = lambda: results(dense)
        wide = [t.detach().double().requires_grad_(self.backward) for t in (x, vectors)]
        return contest.hold(
            self.name,
            contenders,
            results(one_by_one, wide, weight.double(), grad.double()),
            TOLERANCE[self.dtype],
            {"base": base},
            columns=COLUMNS,
            device=device,
            backward=self.backward,
            seconds=seconds,
        )


@dataclass(frozen=True)
class Matrix:
    size: int
    full: bool = False

    @property
    def name(self) -> str:
        vectors = "full" if self.full else "torch's"
        return f"orthogonal matrix forward+backward, {self.size} reflections of {self.size}, {vectors} vectors, fp32"

    def hold(self, device: str, seconds: float) -> contest.Line:
        raw = torch.randn(self.size, self.size, device=device, requires_grad=True)
        grad, identity = torch.randn_like(raw), torch.eye(self.size, device=device)

        def results(function, raw=raw, identity=identity, grad=grad) -> list[Tensor]:
            q = function(raw, identity)
            return [q, *torch.autograd.grad(q, raw, grad)]

        def vectors_of(raw, identity):
            return raw if self.full else (raw.tril(-1) + identity).mT

        def ours(raw, identity):
            return lrkernels.householder_apply(identity, vectors_of(raw, identity))

        def exact(raw, identity):
            return reference.householder_apply(identity, vectors_of(raw, identity))

        def torchs(raw, identity):
            below = raw.tril(-1)
            return torch.linalg.householder_product(below, 2 / (1 + below.square().sum(0)))

        contenders = {"lrkernels": lambda: results(ours)}
        others = {"torch": lambda: results(torchs)}
        if not self.full:
            contenders, others = contenders | others, {}
        wide = raw.detach().double().requires_grad_()
        return contest.hold(
            self.name,
            contenders,
            results(exact, wide, identity.double(), grad.double()),
            TOLERANCE["fp32"],
            others,
            columns=COLUMNS,
            device=device,
            backward=True,
            seconds=seconds,
        )


def cases(quick: bool) -> list[Layer | Matrix]:
    if quick:
        return [Layer(9, 40, 3, "bf16"), Layer(8, 32, 4, "fp32", backward=True), Matrix(20), Matrix(16, full=True)]
    layers = [
        Layer(*shape, dtype, backward)
        for dtype in ("fp32", "bf16")
        for backward in (False, True)
        for shape in ((1, 2048, 8), (512, 2048, 8), (512, 2048, 32))
    ]
    return [*layers, Matrix(256), Matrix(1024), Matrix(1024, full=True)]


def main(words: list[str] | None = None) -> int:
    return contest.main(words, __doc__, COLUMNS, cases, results=contest.results_of(__file__))


if __name__ == "__main__":
    sys.exit(main())
