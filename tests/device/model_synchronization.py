"""Named barriers, atomics, fences, flags between blocks and dependent launches."""

import numpy as np
from models import model, random_bits

THREADS, BLOCKS = 64, 4


def words(*shape):
    return lambda rng, trials: [random_bits(rng, np.uint32, trials, *shape)]


def rolled(values, distance):
    """out[i] = values[(i + distance) % size]."""
    return np.roll(values, -distance, axis=-1)


model(
    "named_barriers",
    "any",
    words(THREADS),
    lambda values: (rolled(values + rolled(values, 33), 7) * np.uint32(3))[:, ::-1],
)
for fence in ("fence", "threadfence"):
    model(f"message_in_block.{fence}", "any", words(32), lambda values: values[:, ::-1])


def word_updates(dtype, in_shared_memory):
    def draw(rng, trials):
        word, operand, guess = (random_bits(rng, dtype, trials, THREADS) for _ in range(3))
        # The first exchange of each round finds its guess only where it was made to.
        guess = np.where(rng.random(guess.shape) < 0.5, (word + operand).astype(dtype), guess)
        return [word, operand, guess, np.full((trials, 1), in_shared_memory, np.uint32)]

    return draw


def updated_words(word, operand, guess, _):
    three, log = word.dtype.type(3), []

    def compare_exchange(word, expected, value):
        log.append(word)
        return np.where(word == expected, value, word)

    for _order in range(4):
        log.append(word)
        word = compare_exchange(word + operand, guess, operand ^ guess)
        log.append(word)
        word = compare_exchange(operand * three, operand * three, guess)
    log += [word + operand, word + operand + operand, guess, operand]
    return np.stack([*log, operand], axis=2)


for bits, dtype in (("32", np.uint32), ("64", np.uint64)):
    for kind, in_shared_memory in (("global", 0), ("shared", 1)):
        model(f"atomic_words.{bits}", kind, word_updates(dtype, in_shared_memory), updated_words)


def contended(values):
    wide = values.reshape(len(values), -1).astype(np.uint64).sum(axis=1, keepdims=True)
    threads = np.full((len(values), 1), BLOCKS * THREADS, np.uint32)
    taken = np.ones((len(values), BLOCKS * THREADS), np.uint32)
    sums = np.concatenate([wide, wide], axis=1).view(np.uint32)
    return np.concatenate([threads, wide.astype(np.uint32), sums, taken], axis=1)


def counted_blocks(values):
    partial = values * (2 * np.arange(BLOCKS, dtype=np.uint32) + 1)[:, None]
    header = np.tile(np.array([BLOCKS, 0, 0, 0], np.uint32), (len(values), 1))
    return np.concatenate([header, partial.reshape(len(values), -1), partial.sum(axis=1, dtype=np.uint32)], axis=1)


def relayed(values):
    passed_on = values.copy()
    for block in range(1, BLOCKS):
        passed_on[:, block] += rolled(passed_on[:, block - 1], 5) * np.uint32(2)
    flags = np.tile(np.arange(1, BLOCKS + 1, dtype=np.uint32), (len(values), 1))
    return np.concatenate([flags, passed_on.reshape(len(values), -1)], axis=1)


def handed_over(values):
    between = values * np.uint32(5)
    return np.concatenate([between, rolled(between, 1) + values], axis=1)


# A cooperative launch has all its blocks alive at once, so it has few trials.
model("atomic_contention", "any", words(BLOCKS, THREADS), contended, trials=16)
model("last_block", "any", words(BLOCKS, THREADS), counted_blocks, trials=16)
for by in ("release", "fence", "threadfence"):
    model(f"relay.{by}", "any", words(BLOCKS, THREADS), relayed, trials=8)
model("grid_dependency", "any", words(THREADS), handed_over)
