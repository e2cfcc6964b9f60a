"""cvt between float and the 16-bit types, and to tf32."""

import numpy as np
from models import model, random_bits

SPECIAL = np.array(
    [0.0, -0.0, np.inf, -np.inf, np.nan, -np.nan, 65504.0, 65519.99, 65520.0, -65520.0, 2.0**-24, 2.0**-25, -(2.0**-25)]
    + [2.0**-25 * 1.0000001, 2.0**-14, 2.0**-14 - 2.0**-25, 2.0**-126, 2.0**-133, 2.0**-134, 2.0**-149, 3.4028235e38]
    + [3.3895314e38, 3.3961775e38, 3.396178e38, 1.0 + 2.0**-8, 1.0 + 3 * 2.0**-8, 1.0 + 2.0**-11, 1.0 + 3 * 2.0**-11],
    dtype=np.float32,
)


def floats(*shape):
    """Any bits (so NaNs, infinities and subnormals), ties of every format, the range of f16, and a list of edges."""

    def draw(rng, trials):
        words = random_bits(rng, np.uint32, trials, *shape)
        ties = np.array([0xFFFF8000, 0xFFFFF000, 0xFFFFFFFF], np.uint32)  # a bit below the mantissas of bf16; f16, tf32
        words &= rng.choice(ties, words.shape)
        near_one = rng.random(words.shape) < 0.5
        words = np.where(near_one, (words & 0x8FFFFFFF) | 0x30000000, words).astype(np.uint32)  # 1e-9 .. 32
        values = words.view(np.float32)
        return [np.where(rng.random(values.shape) < 0.1, rng.choice(SPECIAL, values.shape), values)]

    return draw


def all_halves(rng, trials):
    assert trials * 128 == 65536
    return [rng.permutation(65536).astype(np.uint16).reshape(trials, 128)]


def to_f16(values):
    with np.errstate(over="ignore"):
        rounded = values.astype(np.float16).view(np.uint16)  # to nearest even
    return np.where(np.isnan(values), np.uint16(0x7FFF), rounded)


@np.errstate(invalid="ignore")  # NaNs, whose result the callers replace
def nearest(values, kept_bits, ties_away):
    """The nearer of the two neighbours that have `kept_bits` leading bits, by distance in float64."""
    step = 1 << (32 - kept_bits)
    words = values.view(np.uint32).astype(np.uint64)
    below = words // step * step
    above = below + step

    def value(word):
        # Past the largest number lies 2^128, which is written as infinity.
        magnitude = (word & 0x7FFFFFFF).astype(np.uint32).view(np.float32).astype(np.float64)
        return np.where(np.isinf(magnitude), 2.0**128, magnitude)

    exact = np.abs(values.astype(np.float64))
    down, up = exact - value(below), value(above) - exact
    even = below // step % 2 == 0
    take_below = (down < up) | ((down == up) & (even & (not ties_away)))
    return np.where(np.isinf(values), words, np.where(take_below, below, above)).astype(np.uint32)


def to_bf16(values):
    rounded = (nearest(values, 16, ties_away=False) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FFF), rounded)


def packed(convert):
    def expected(values):
        halves = convert(values).astype(np.uint32)
        return halves[..., 0] | halves[..., 1] << 16

    return expected


def to_tf32(values):
    return np.where(np.isnan(values), np.float32(np.nan), nearest(values, 19, ties_away=True).view(np.float32))


model("pack_bf16x2", "any", floats(128, 2), packed(to_bf16))
model("pack_f16x2", "any", floats(128, 2), packed(to_f16))
model("round_to_tf32", "any", floats(128), to_tf32, compare="bits_or_nan")
model("unpack_bf16", "all", all_halves, lambda h: (h.astype(np.uint32) << 16).view(np.float32), trials=512)
model(
    "unpack_f16", "all", all_halves, lambda h: h.view(np.float16).astype(np.float32), trials=512, compare="bits_or_nan"
)
