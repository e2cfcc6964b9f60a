"""Coefficients of Newton–Schulz iterations X ← aX + b(XXᵀ)X + c(XXᵀ)²X."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from lrkernels.optim import options
from lrkernels.reference.polar import QUINTIC

__all__ = ["QUINTIC", "check_coefficients", "flat", "polar_express"]


def _minimax(lower: float, upper: float) -> tuple[float, float, float]:
    """The odd polynomial ax + bx³ + cx⁵ nearest to 1 on [lower, upper].

    Remez: its error takes its largest value with alternating signs at the ends and at the two points between where the
    derivative is zero. Solving for the error at four points and moving the inner two there converges in a few rounds.
    """
    if lower >= (1 - 5e-6) * upper:  # the four points fall together; Padé's iteration is the limit
        return 15 / 8 / upper, -10 / 8 / upper**3, 3 / 8 / upper**5
    inner = np.array([(3 * lower + upper) / 4, (lower + 3 * upper) / 4])
    error = math.inf
    for _ in range(100):
        points = np.array([lower, *inner, upper])
        system = np.stack([points, points**3, points**5, [1, -1, 1, -1]], axis=1)
        a, b, c, found = np.linalg.solve(system, np.ones(4))
        if abs(found - error) < 1e-15:
            break
        error = found
        inner = np.sqrt((-3 * b + np.array([-1, 1]) * math.sqrt(9 * b * b - 20 * a * c)) / (10 * c))
    return float(a), float(b), float(c)


def polar_express(
    steps: int = 5, lower: float = 1e-3, *, cushion: float = 0.02407327424182761, safety: float = 1.01
) -> list[tuple[float, float, float]]:
    """Three coefficients a step, each the best after those before it for singular values in [lower, 1].

        Muon(params, coefficients=polar_express(5))

    Args:
        steps: how many.
        lower: the smallest singular value, of a matrix of norm 1, that is to come near 1.
        cushion: no step is made for an interval that begins below this share of its end; what it then does to smaller
            ones is centred. Polynomials for wider intervals come so near to 0 inside that rounding could turn a sign.
        safety: all steps but the last one allow for singular values this factor larger, which rounding may make of 1.

    Raises ValueError for no steps, ``lower`` or ``cushion`` outside (0, 1], or ``safety`` below 1.

    Amsel, Persson, Musco and Gower, "The Polar Express: optimal matrix sign methods and their application to the Muon
    algorithm", 2025.
    """
    options.check_count("polar_express", "steps", steps)
    for name, value in (("lower", lower), ("cushion", cushion)):
        options.check_number("polar_express", name, value)
        if not 0 < value <= 1:
            raise ValueError(f"polar_express: {name} is {value}, expected a number in (0, 1]")
    options.check_at_least("polar_express", "safety", safety, 1)
    upper, found = 1.0, []
    for step in range(steps):
        start = max(lower, cushion * upper)
        a, b, c = _minimax(start, upper)
        if start > lower:
            ends = [a * x + b * x**3 + c * x**5 for x in (lower, upper)]
            a, b, c = (2 / sum(ends) * value for value in (a, b, c))
        lower = a * lower + b * lower**3 + c * lower**5
        upper = 2 - lower
        s = safety if step < steps - 1 else 1.0
        found.append((a / s, b / s**3, c / s**5))
    return found


def flat(coefficients: Sequence) -> list[float]:
    """As ``lrkernels.polar`` takes them: three numbers, or three after three."""
    if coefficients and isinstance(coefficients[0], Sequence):
        return [float(value) for triple in coefficients for value in triple]
    return [float(value) for value in coefficients]


def check_coefficients(optimizer: str, coefficients: object, steps: int) -> None:
    wrong = ValueError(
        f"{optimizer}: coefficients is {coefficients!r}, expected three numbers, or {steps} triples because steps is "
        f"{steps}"
    )
    if not isinstance(coefficients, Sequence) or isinstance(coefficients, str) or not coefficients:
        raise wrong
    triples = [*coefficients] if isinstance(coefficients[0], Sequence) else [coefficients]
    if len(triples) != steps and isinstance(coefficients[0], Sequence):
        raise wrong
    for triple in triples:
        if not isinstance(triple, Sequence) or len(triple) != 3:
            raise wrong
        for value in triple:
            options.check_number(optimizer, "coefficients", value)
