"""What each case is held to, as ratios measured side by side: their time over ours."""

from __future__ import annotations

from dataclasses import dataclass

from compare.cases import Case


@dataclass(frozen=True)
class Target:
    against: str
    at_least: float
    why: str


def targets(case: Case, device: str) -> list[Target]:
    """The promises about a case. They are reported as met or missed; no test fails on a time."""
    if case.group == "overhead":
        return [Target("F.linear", 0.5, "the call costs at most twice a plain F.linear")]
    shape = (case.m, case.k, case.n, case.rank)
    trained = shape in ((512, 1024, 1024, 16), (2048, 2048, 2048, 64)) and not case.pure and not case.dropout
    if device == "cpu" and case.backward and trained:
        # bf16: the floor over the plain expression is about 1.16. fp32: torch's MKL leaves AVX-512 unused on AMD.
        at_least = {"bf16": 1.08, "fp32": 1.5}.get(case.dtype)
        if at_least is not None:
            return [Target("eager", at_least, "forward and backward at the training shapes")]
    return [Target("eager", 0.97, "never slower than the plain expression")]
