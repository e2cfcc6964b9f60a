"""Warp-wide intrinsics. A mask splits the warp: lanes in it meet with it, the others with its complement."""

import numpy as np
from models import model, random_bits

LANES = np.arange(32)


def random_masks(rng, trials):
    """Any mask, the full one and single lanes among them."""
    masks = random_bits(rng, np.uint32, trials, 1)
    masks[0], masks[1] = 0xFFFFFFFF, 1 << 13
    return masks


def in_mask(masks):
    return (masks >> LANES.astype(np.uint32) & 1).astype(bool)


def partners(masks):
    """same[trial, i, j]: lanes i and j meet."""
    inside = in_mask(masks)
    return inside[:, :, None] == inside[:, None, :]


def any_partner(rng, masks):
    """For each lane a random lane that meets with it."""
    return np.argmax(np.where(partners(masks), rng.random((len(masks), 32, 32)), -1.0), axis=2)


def shuffles(dtype):
    def draw(rng, trials):
        masks = random_masks(rng, trials)
        # Only the five low bits of a source lane count.
        sources = (any_partner(rng, masks) + 32 * rng.integers(-2, 2, (trials, 32), endpoint=True)).astype(np.int32)
        return [random_bits(rng, dtype, trials, 32), sources, masks]

    return draw


def one_number(dtype, low, high):
    def draw(rng, trials):
        return [random_bits(rng, dtype, trials, 32), rng.integers(low, high, (trials, 1), dtype=np.uint32)]

    return draw


for name, dtype in (("32", np.uint32), ("64", np.uint64)):
    model(f"shuffle.{name}", "any", shuffles(dtype), lambda v, source, _: np.take_along_axis(v, source % 32, axis=1))
    # Before the start of the warp a lane keeps its own value. PTX ISA, "shfl": the distance is the low five bits of b.
    model(
        f"shuffle_up.{name}",
        "any",
        one_number(dtype, 0, 65),
        lambda v, delta: np.take_along_axis(v, np.where(LANES >= delta % 32, LANES - delta % 32, LANES).astype(int), 1),
    )
    model(
        f"shuffle_xor.{name}",
        "any",
        one_number(dtype, 0, 32),
        lambda v, lane_mask: np.take_along_axis(v, LANES ^ lane_mask.astype(np.int64), axis=1),
    )
    # Past the end of the warp a lane keeps its own value.
    model(
        f"shuffle_down.{name}",
        "any",
        one_number(dtype, 0, 65),
        lambda v, delta: np.take_along_axis(
            v, np.where(LANES + delta % 32 < 32, LANES + delta % 32, LANES).astype(int), 1
        ),
    )


def groups(rng, trials):
    width = 2 ** rng.integers(0, 5, (trials, 1), endpoint=True)
    lane_mask, delta = rng.integers(0, 32, (trials, 1)), rng.integers(0, 65, (trials, 1))
    return [
        random_bits(rng, np.uint32, trials, 32),
        rng.integers(-64, 64, (trials, 32), dtype=np.int32),
        np.concatenate([width, lane_mask, delta], axis=1).astype(np.uint32),
    ]


def shuffled_in_groups(values, source, numbers):
    """CUDA C++ Programming Guide, "Warp Shuffle Functions": each group of width lanes counts from 0; a source outside
    of it leaves a lane its own value, but for xor, which may read from earlier groups."""
    width, lane_mask, delta = (numbers[:, i : i + 1].astype(np.int64) for i in range(3))
    first = LANES // width * width
    end = first + width
    up, down, across = LANES - delta % 32, LANES + delta % 32, LANES ^ lane_mask
    sources = (
        first + source % width,
        np.where(up >= first, up, LANES),
        np.where(down < end, down, LANES),
        np.where(across < end, across, LANES),
    )
    return np.stack([np.take_along_axis(values, lanes, axis=1) for lanes in sources], axis=2)


model("shuffle_width", "any", groups, shuffled_in_groups)


def few_values(dtype):
    """Values of which several lanes have the same; in every fourth trial all lanes."""

    def draw(rng, trials):
        palette = random_bits(rng, dtype, trials, 3)
        picked = np.take_along_axis(palette, rng.integers(0, 3, (trials, 32)), axis=1)
        picked[::4] = palette[::4, :1]
        return [picked, random_masks(rng, trials)]

    return draw


def predicates(rng, trials):
    """Any integer but 0 votes for; all or none of the lanes in some trials."""
    voting = rng.random((trials, 32)) < rng.choice([0.0, 0.1, 0.5, 1.0], (trials, 1))
    return [
        np.where(voting, random_bits(rng, np.uint32, trials, 32) | 4, 0).astype(np.uint32),
        random_masks(rng, trials),
    ]


def lanes_to_mask(lanes):
    """[..., 32] booleans to the mask in which bit i is lane i."""
    return (lanes.astype(np.uint64) << LANES.astype(np.uint64)).sum(axis=-1).astype(np.uint32)


def voted(predicate, masks):
    meeting, votes = partners(masks), (predicate != 0)[:, None, :]
    ballot = lanes_to_mask(meeting & votes)
    return np.stack([ballot, (meeting & votes).any(axis=2), (~meeting | votes).all(axis=2)], axis=2).astype(np.uint32)


def matched(values, masks):
    meeting, same = partners(masks), values[:, :, None] == values[:, None, :]
    all_same = (~meeting | same).all(axis=2)
    return np.stack(
        [lanes_to_mask(meeting & same), np.where(all_same, lanes_to_mask(meeting), 0), all_same], axis=2
    ).astype(np.uint32)


def reduced(values, masks):
    meeting = partners(masks)

    def over(function, start, numbers):
        return function.reduce(
            np.broadcast_to(numbers[:, None, :], meeting.shape), axis=2, where=meeting, initial=start
        )

    signed, wide = values.view(np.int32).astype(np.int64), values.astype(np.int64)
    results = [
        over(np.add, 0, wide),
        over(np.minimum, 2**32, wide),
        over(np.maximum, -1, wide),
        over(np.add, 0, signed),
        over(np.minimum, 2**32, signed),
        over(np.maximum, -(2**32), signed),
        over(np.bitwise_and, 2**32 - 1, wide),
        over(np.bitwise_or, 0, wide),
        over(np.bitwise_xor, 0, wide),
    ]
    return (np.stack(results, axis=2) & 0xFFFFFFFF).astype(np.uint32)


model("votes", "any", predicates, voted)
model("match.32", "any", few_values(np.uint32), matched)
model("match.64", "any", few_values(np.uint64), matched)
model(
    "reduce", "any", lambda rng, trials: [random_bits(rng, np.uint32, trials, 32), random_masks(rng, trials)], reduced
)


def exchanges(rng, trials):
    masks = random_masks(rng, trials)
    return [random_bits(rng, np.uint32, trials, 32), any_partner(rng, masks).astype(np.uint32), masks]


model("sync_warp", "any", exchanges, lambda v, source, _: np.take_along_axis(v, source.astype(np.int64), axis=1))
