"""Orthogonal matrices by Cayley transforms: cayley_rectangular beside what people write today, verified and in turn.

    python bench/cayley_rectangular.py [--device cuda] [--quick]

All forward and backward, float32. A square matrix: `solve` is the "cayley" map of torch's orthogonal parametrization,
`solve, times base` the same with the product by a fixed matrix that the parametrization makes by default. A Lipschitz
layer (a sandwich layer of LBDN), y = √2·Aᵀ·e^ψ·σ(√2·e^−ψ·B·x + b) with [Aᵀ; Bᵀ] the map of its weight: `inverse` is
the published expression. σ is tanh, since at the kink of a relu rounding decides the gradient. The map alone is
measured too.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

import torch
from compare import contest
from compare.verify import TOLERANCE
from torch import Tensor

import lrkernels
from lrkernels import reference

COLUMNS = ["solve", "solve, times base", "inverse"]


def inverse(weight: Tensor) -> Tensor:
    """[(I + A)⁻¹(I − A); −2V(I + A)⁻¹] as it is written."""
    cols = weight.shape[1]
    u, v = weight[:cols], weight[cols:]
    identity = torch.eye(cols, dtype=weight.dtype, device=weight.device)
    a = u - u.mT + v.mT @ v
    inverted = torch.linalg.inv(identity + a)
    return torch.cat([inverted @ (identity - a), -2 * v @ inverted])


@dataclass(frozen=True)
class Square:
    size: int

    @property
    def name(self) -> str:
        return f"orthogonal matrix of {self.size}"

    def hold(self, device: str, seconds: float) -> contest.Line:
        raw = (torch.randn(self.size, self.size, device=device) / math.sqrt(self.size)).requires_grad_()
        grad, identity = torch.randn_like(raw), torch.eye(self.size, device=device)

        def results(function, raw=raw, identity=identity, grad=grad) -> list[Tensor]:
            q = function(raw, identity)
            return [q, *torch.autograd.grad(q, raw, grad)]

        def ours(raw, identity):
            return lrkernels.cayley_rectangular(raw.tril() * -0.5)

        def solve(raw, identity):
            lower = raw.tril()
            skew = lower - lower.mT
            return torch.linalg.solve(torch.add(identity, skew, alpha=-0.5), torch.add(identity, skew, alpha=0.5))

        wide = raw.detach().double().requires_grad_()
        return contest.hold(
            self.name,
            {
                "lrkernels": lambda: results(ours),
                "solve": lambda: results(solve),
                "solve, times base": lambda: results(lambda raw, identity: identity @ solve(raw, identity)),
            },
            results(solve, wide, identity.double(), grad.double()),
            TOLERANCE["fp32"],
            {},
            columns=COLUMNS,
            device=device,
            backward=True,
            seconds=seconds,
        )


@dataclass(frozen=True)
class Sandwich:
    inputs: int
    outputs: int
    rows: int = 0  # of x; 0: the map alone

    @property
    def name(self) -> str:
        shape = f"{self.inputs} to {self.outputs}"
        return f"sandwich layer, {shape}, {self.rows} rows" if self.rows else f"map of a sandwich layer, {shape}"

    @property
    def tolerance(self) -> float:
        """The layer's scale is one number, whose gradient is a sum that cancels: it keeps four digits in float32."""
        return 1e-3 if self.rows else TOLERANCE["fp32"]

    def hold(self, device: str, seconds: float) -> contest.Line:
        outputs = self.outputs
        weight = torch.randn(outputs, self.inputs + outputs) / math.sqrt(self.inputs + outputs)
        # The published layer divides by the Frobenius norm and multiplies by a scale that begins as that norm.
        leaves = [weight, weight.norm(), torch.randn(outputs) / 4, torch.randn(outputs) / 4]
        leaves = [t.to(device).requires_grad_() for t in (leaves if self.rows else leaves[:1])]
        x = torch.randn(self.rows, self.inputs, device=device)
        grad = torch.randn((self.rows, outputs) if self.rows else (self.inputs + outputs, outputs), device=device)

        def results(function, leaves=leaves, x=x, grad=grad) -> list[Tensor]:
            y = layer(function, x, *leaves) if self.rows else function(leaves[0].mT)
            return [y, *torch.autograd.grad(y, leaves, grad)]

        def layer(function, x, weight, scale, psi, bias):
            q = function((scale / weight.norm() * weight).mT)
            hidden = torch.tanh(math.sqrt(2) * torch.exp(-psi) * (x @ q[outputs:]) + bias)
            return math.sqrt(2) * (torch.exp(psi) * hidden) @ q[:outputs]

        wide = [t.detach().double().requires_grad_() for t in leaves]
        return contest.hold(
            self.name,
            {
                "lrkernels": lambda: results(lrkernels.cayley_rectangular),
                "inverse": lambda: results(inverse),
            },
            results(reference.cayley_rectangular, wide, x.double(), grad.double()),
            self.tolerance,
            {},
            columns=COLUMNS,
            device=device,
            backward=True,
            seconds=seconds,
        )


def cases(quick: bool) -> list[Square | Sandwich]:
    if quick:
        return [Square(24), Sandwich(12, 20), Sandwich(12, 20, 7)]
    return [
        Square(256), Square(1024), Sandwich(1024, 1024), Sandwich(1024, 1024, 64), Sandwich(2048, 1024, 64),
    ]  # fmt: skip


def main(words: list[str] | None = None) -> int:
    return contest.main(words, __doc__, COLUMNS, cases, results=contest.results_of(__file__), seconds=4.0)


if __name__ == "__main__":
    sys.exit(main())
