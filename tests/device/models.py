"""What a case of the conformance table is given and what it must give back, by NumPy alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Draw = Callable[[np.random.Generator, int], list[np.ndarray]]


@dataclass(frozen=True)
class Model:
    """One way to feed a case, and the meaning of its output.

    ``draw(rng, trials)`` gives the inputs, each with the trials first; ``expected(*inputs)`` the output. ``compare``:

    - ``"bits"``: every bit is determined by the manual.
    - ``"bits_or_nan"``: every bit but those of a NaN, where the manual leaves the payload open.
    - ``"values"``: equal as numbers; the manual leaves the payload of a NaN and the sign of a zero open.
    - ``"bound"``: within ``bound(*inputs)`` of ``expected``, where rounding is left open.
    """

    case: str
    kind: str
    draw: Draw
    expected: Callable[..., np.ndarray]
    compare: str = "bits"
    bound: Callable[..., np.ndarray] | None = None
    trials: int = 64

    def __str__(self) -> str:
        return f"{self.case}-{self.kind}"

    def inputs(self, seed: int) -> list[np.ndarray]:
        return [np.ascontiguousarray(array) for array in self.draw(np.random.default_rng(seed), self.trials)]


MODELS: list[Model] = []


def model(case: str, kind: str, draw: Draw, expected: Callable[..., np.ndarray], **rest) -> None:
    MODELS.append(Model(case, kind, draw, expected, **rest))


def bits(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).view(f"u{array.itemsize}")


def assert_same(actual: np.ndarray, expected: np.ndarray, compare: str, bound: np.ndarray | None = None) -> None:
    assert actual.shape == expected.shape
    if compare == "bits":
        np.testing.assert_array_equal(bits(actual), bits(expected))
    elif compare == "bits_or_nan":
        both_nan = np.isnan(actual) & np.isnan(expected)
        np.testing.assert_array_equal(np.where(both_nan, 0, bits(actual)), np.where(both_nan, 0, bits(expected)))
    elif compare == "values":
        np.testing.assert_array_equal(actual, expected)
    else:
        error = np.abs(actual.astype(np.float64) - expected.astype(np.float64))
        worst = np.unravel_index(np.argmax(error / bound), error.shape)
        assert np.all(error <= bound), f"at {worst}: {actual[worst]}, {expected[worst]} within {bound[worst]} expected"


# --- Draws that many cases share.


def permutations(rng: np.random.Generator, trials: int, size: int) -> np.ndarray:
    return rng.permuted(np.tile(np.arange(size, dtype=np.uint32), (trials, 1)), axis=1)


def random_bits(rng: np.random.Generator, dtype: type, *shape: int) -> np.ndarray:
    return rng.integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


def scatter(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """out[trial, places[trial, i]] = values[trial, i]."""
    out = np.empty_like(values)
    out[np.arange(len(values))[:, None], places] = values
    return out
