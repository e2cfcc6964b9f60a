"""How good rsvd's decompositions are, beside torch.svd_lowrank's, of matrices whose singular values are known.

    python bench/sketch_accuracy.py [--size 2048] [--rank 128] [--save NAME]

`rsvd` has its defaults, `svd_lowrank` is torch.svd_lowrank(a, q=rank, niter=2), both of a float32 matrix. A table of
‖A − U·diag(S)·Vᵀ‖_F over that of the best rank, (Σ_{j > rank} σⱼ²)^½, in float64 with A as float32 rounded it, and of
the largest entry of |UᵀU − I| and |VᵀV − I|. The largest of several matrices and seeds, each.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from compare import machine
from torch import Tensor

import lrkernels

RESULTS = Path(__file__).resolve().parent / "results" / "sketch_accuracy"
SEEDS = range(3)


def quarter_circle(size: int) -> Tensor:
    """The singular values of a large square Gaussian matrix: quantiles of the density (4 − x²)^½ / π on [0, 2]."""
    x = torch.linspace(0, 2, 100_001, dtype=torch.float64)
    share = (x * (4 - x * x).sqrt() / 2 + 2 * (x / 2).asin()) / math.pi
    quantiles = (torch.arange(size, dtype=torch.float64) + 0.5) / size
    return x[torch.searchsorted(share, quantiles).clamp(max=len(x) - 1)].flip(0)


def powers(base: float) -> Callable[[int], Tensor]:
    return lambda size: base ** torch.arange(size, dtype=torch.float64)


# An exponential decay whose tail at the rank were below float32's rounding of A would measure that alone.
SPECTRA: dict[str, Callable[[int], Tensor]] = {
    "exponential, 0.97ⁱ": powers(0.97),
    "exponential, 0.99ⁱ": powers(0.99),
    "exponential, 0.998ⁱ": powers(0.998),
    "exponential, 0.999ⁱ": powers(0.999),  # 0.88 at rank 128: nearly flat as far as the rank reaches
    "polynomial, 1 / i": lambda size: 1 / (1 + torch.arange(size, dtype=torch.float64)),
    "polynomial, 1 / √i": lambda size: (1 + torch.arange(size, dtype=torch.float64)) ** -0.5,
    "flat, Gaussian": quarter_circle,
    "flat, all equal": lambda size: torch.ones(size, dtype=torch.float64),
    "κ = 1e12": lambda size: torch.logspace(0, -12, size, dtype=torch.float64),
}


def hadamard_transformed(a: Tensor) -> Tensor:
    """H·a / √n with Sylvester's matrix, by n·log n additions a column."""
    size = len(a)
    step = 1
    while step < size:
        pairs = a.view(size // (2 * step), 2, step, -1)
        a = torch.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], 1).view(size, -1)
        step *= 2
    return a / size**0.5


def rotated(a: Tensor, generator: torch.Generator) -> Tensor:
    """Q·a with Q = H·D·H·D, signs D at random: orthogonal to rounding, with columns that are spread over all rows."""
    for _ in range(2):
        signs = torch.randint(2, (len(a), 1), generator=generator, dtype=a.dtype) * 2 - 1
        a = hadamard_transformed(signs * a)
    return a


def matrix(values: Tensor, seed: int) -> Tensor:
    """U·diag(values)·Vᵀ in float64."""
    generator = torch.Generator().manual_seed(seed)
    return rotated(rotated(values.diag(), generator).mT.contiguous(), generator)


def accuracy(a: Tensor, factors: tuple[Tensor, Tensor, Tensor], best: float) -> tuple[float, float]:
    """The error over the best one, and the distance from orthonormal columns."""
    u, s, v = (factor.double() for factor in factors)
    error = torch.linalg.matrix_norm(a - (u * s) @ v.mT).item()
    identity = torch.eye(s.numel(), dtype=torch.float64)
    return error / best, max((q.mT @ q - identity).abs().max().item() for q in (u, v))


def measured(values: Tensor, rank: int) -> dict[str, tuple[float, float]]:
    """The worst error and orthogonality of each contender."""
    worst: dict[str, tuple[float, float]] = {}
    for seed in SEEDS:
        a = matrix(values, seed).float()
        wide = a.double()
        torch.manual_seed(seed)
        for name, factors in (
            ("rsvd", lrkernels.rsvd(a, rank, seed=seed)),
            ("svd_lowrank", torch.svd_lowrank(a, q=rank, niter=2)),
        ):
            found = accuracy(wide, factors, values[rank:].norm().item())
            worst[name] = tuple(map(max, found, worst.get(name, (0.0, 0.0))))
    return worst


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=2048, help="of the square matrices, a power of two")
    parser.add_argument("--rank", type=int, default=128)
    parser.add_argument("--save", metavar="NAME", help="write bench/results/sketch_accuracy/NAME.json")
    arguments = parser.parse_args(words)
    if arguments.size < 2 or arguments.size & (arguments.size - 1):
        parser.error(f"--size is {arguments.size}, expected a power of two above 1")
    if not 1 <= arguments.rank < arguments.size:
        parser.error(f"--rank is {arguments.rank}, expected 1 to {arguments.size - 1}")
    print("| singular values | rsvd, error / best | svd_lowrank | rsvd, orthogonality | svd_lowrank |")
    print("|---|---:|---:|---:|---:|")
    results = []
    for name, spectrum in SPECTRA.items():
        found = measured(spectrum(arguments.size), arguments.rank)
        cells = [f"{error:.4f}" for error, _ in found.values()] + [f"{distance:.1e}" for _, distance in found.values()]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
        results += [
            {"spectrum": name, "contender": contender, "error_over_best": error, "orthogonality": distance}
            for contender, (error, distance) in found.items()
        ]
    if arguments.save:
        RESULTS.mkdir(parents=True, exist_ok=True)
        document = {
            "machine": machine.describe("cpu"),
            "size": arguments.size,
            "rank": arguments.rank,
            "seeds": list(SEEDS),
            "results": results,
        }
        (RESULTS / f"{arguments.save}.json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
