"""mma and mma.sp: registers put together from matrices by the manual's fragment tables, products in float64.

The manual promises products of full precision and sums of at least single precision, in no particular order. Two facts
bound what may differ. Adding n numbers whose magnitudes sum to S, each cut to 24 bits of the largest, loses less than
n 2^-23 S whatever the order and wherever a piece is cut instead of rounded; a sum of floats rounded at each step loses
less. So ``bound`` is (k + 4) 2^-23 (|c| + |a| |b|), the 4 for c, the rounding of the result, and the restart of the sum
where the hardware works in two halves of k. Small integers leave nothing open: every partial sum is exact.
"""

import fragments
import numpy as np
from models import model

BF16, F16, TF32 = "bf16", "f16", "tf32"


def encode(values, dtype):
    """Register halves, or words, of values. The 13 low bits of a tf32 word stay: they take no part."""
    if dtype == F16:
        return values.astype(np.float16).view(np.uint16)
    words = values.astype(np.float32).view(np.uint32)
    return (words >> 16).astype(np.uint16) if dtype == BF16 else words


def decode(words, dtype):
    if dtype == F16:
        return words.view(np.float16).astype(np.float64)
    words = words.astype(np.uint32) << 16 if dtype == BF16 else words & np.uint32(0xFFFFE000)
    return words.view(np.float32).astype(np.float64)


def integers(rng, shape):
    return rng.integers(-8, 8, shape, endpoint=True).astype(np.float32)


def reals(rng, shape):
    """Normal numbers of very different magnitudes, so that small products meet large ones."""
    return (rng.standard_normal(shape) * 2.0 ** rng.integers(-6, 6, shape)).astype(np.float32)


def specials(rng, shape):
    """Integers with a few infinities, NaNs and zeros of both signs."""
    values = integers(rng, shape)
    picked = rng.choice(np.array([np.inf, -np.inf, np.nan, 0.0, -0.0], np.float32), shape)
    return np.where(rng.random(shape) < 0.02, picked, values).astype(np.float32)


def gather(matrix, places):
    return matrix[:, places[0], places[1]]


def spread(registers, places, rows, cols):
    matrix = np.empty((len(registers), rows, cols), registers.dtype)
    matrix[:, places[0], places[1]] = registers
    return matrix


def dense(dtype, depth, a_places, b_places, numbers):
    c_places = fragments.c_m16n8()

    def draw(rng, trials):
        a = encode(numbers(rng, (trials, 16, depth)), dtype)
        b = encode(numbers(rng, (trials, depth, 8)), dtype)
        c = numbers(rng, (trials, 16, 8))
        return [gather(a, a_places), gather(b, b_places), gather(c, c_places)]

    def matrices(a, b, c):
        return (
            decode(spread(a, a_places, 16, depth), dtype),
            decode(spread(b, b_places, depth, 8), dtype),
            spread(c, c_places, 16, 8).astype(np.float64),
            None,
        )

    return draw, matrices


def sparse(dtype, selector, numbers):
    a_places, b_places, c_places = fragments.sparse_a_m16n8k32(), fragments.b_m16n8k32(), fragments.c_m16n8()
    pairs = np.array([(0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3)])

    def draw(rng, trials):
        kept = encode(numbers(rng, (trials, 16, 16)), dtype)
        positions = pairs[rng.integers(0, len(pairs), (trials, 16, 8))]
        b = encode(numbers(rng, (trials, 32, 8)), dtype)
        c = numbers(rng, (trials, 16, 8))
        ignored = rng.integers(0, 1 << 32, (trials, fragments.LANES), dtype=np.uint32)
        words = fragments.sparse_metadata_m16n8k32(positions[..., 0], positions[..., 1], selector, ignored)
        return [gather(kept, a_places), gather(b, b_places), gather(c, c_places), words]

    def matrices(a, b, c, words):
        """A is spread by reading the metadata back, one row and one chunk of four columns after the other."""
        kept = decode(spread(a, a_places, 16, 16), dtype)
        full, is_kept = np.zeros((len(a), 16, 32)), np.zeros((len(a), 16, 32), bool)
        trial = np.arange(len(a))
        for row in range(16):
            for chunk in range(8):
                lane = 4 * (row % 8) + 2 * selector + chunk // 4
                four_bits = words[:, lane] >> np.uint32(16 * (row // 8) + 4 * (chunk % 4)) & 0xF
                for i, position in enumerate((four_bits & 3, four_bits >> 2)):
                    full[trial, row, 4 * chunk + position] = kept[:, row, 2 * chunk + i]
                    is_kept[trial, row, 4 * chunk + position] = True
        return full, decode(spread(b, b_places, 32, 8), dtype), spread(c, c_places, 16, 8).astype(np.float64), is_kept

    return draw, matrices


def add_models(case, depth, operands):
    """operands(numbers) -> (draw, matrices)."""

    def product(matrices):
        def expected(*registers):
            a, b, c, is_kept = matrices(*registers)
            with np.errstate(invalid="ignore"):
                terms = a[:, :, :, None] * b[:, None, :, :]
                if is_kept is not None:  # what is not kept takes no part, not even as 0 times infinity
                    terms = np.where(is_kept[..., None], terms, 0.0)
                return gather((c + terms.sum(axis=2)).astype(np.float32), fragments.c_m16n8())

        return expected

    def bound(matrices):
        def limit(*registers):
            a, b, c = (np.abs(matrix) for matrix in matrices(*registers)[:3])
            return gather((depth + 4) * 2.0**-23 * (c + a @ b), fragments.c_m16n8())

        return limit

    for numbers, compare in ((integers, "values"), (specials, "values"), (reals, "bound")):
        draw, matrices = operands(numbers)
        model(case, numbers.__name__, draw, product(matrices), compare=compare, bound=bound(matrices))


k16 = fragments.a_m16n8k16(), fragments.b_m16n8k16()
k8 = fragments.a_m16n8k8_tf32(), fragments.b_m16n8k8_tf32()
for half in (BF16, F16):
    add_models(f"mma_m16n8k16.{half}", 16, lambda numbers, half=half: dense(half, 16, *k16, numbers))
    for selector in (0, 1):
        add_models(
            f"mma_sp_m16n8k32.{half}.selector{selector}",
            32,
            lambda numbers, half=half, selector=selector: sparse(half, selector, numbers),
        )
add_models("mma_m16n8k8_tf32", 8, lambda numbers: dense(TF32, 8, *k8, numbers))
