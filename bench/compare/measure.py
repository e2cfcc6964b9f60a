"""Timing in turn: one sample of each contender a round, so that whatever else the machine does hits all alike.

CPU: a sample is a loop of calls that takes a few milliseconds, after one call that is not timed: it pays for what the
contender before left behind, its data in the caches and its heap, which glibc gives back inside the next larger free.
CUDA: a sample is a replay of a CUDA graph, between two
events, that makes one call for each copy of the weight (copies larger than the L2 cache together).

Rounds go on until the 95 % confidence interval of every median (order statistics n/2 ± 0.98·√n) lies within ±2 % of it,
after at least nine, or until the time is up; then the result says that it has not settled.
"""

from __future__ import annotations

import contextlib
import math
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

MIN_ROUNDS, TOLERANCE = 9, 0.02
Step = Callable[[], object]
Sampler = Callable[[], float]


@dataclass
class Timing:
    median_us: float
    low_us: float
    high_us: float
    samples: int
    settled: bool


def summarize(samples_us: list[float]) -> Timing:
    ordered = sorted(samples_us)
    last, half_width = len(ordered) - 1, 0.98 * math.sqrt(len(ordered))
    low = ordered[max(0, math.floor(last / 2 - half_width))]
    high = ordered[min(last, math.ceil(last / 2 + half_width))]
    median = statistics.median(ordered)
    narrow = low >= median * (1 - TOLERANCE) and high <= median * (1 + TOLERANCE)
    return Timing(median, low, high, len(ordered), len(ordered) >= MIN_ROUNDS and narrow)


def _mode(backward: bool):
    return contextlib.nullcontext() if backward else torch.inference_mode()


def cpu_sampler(step: Step, backward: bool, sample_seconds: float = 0.005) -> Sampler:
    def loop(calls: int) -> float:
        with _mode(backward):
            begin = time.perf_counter()
            for _ in range(calls):
                step()
            return time.perf_counter() - begin

    loop(2)
    calls = max(1, math.ceil(sample_seconds / max(min(loop(1) for _ in range(3)), 1e-7)))

    def sample() -> float:
        loop(1)
        return loop(calls) / calls * 1e6

    return sample


def cuda_sampler(steps: list[Step], backward: bool) -> Sampler:
    """``steps``: the same call, each with its own copy of the weight."""
    with _mode(backward):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                for step in steps:
                    step()
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            kept = [step() for step in steps]
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)

    def sample() -> float:
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) * 1e3 / len(kept)

    for _ in range(3):
        sample()
    return sample


def copies_beyond_cache(weight_bytes: int) -> int:
    """How many weights are twice the L2 cache, at least one and at most 64."""
    if not torch.cuda.is_available() or weight_bytes == 0:
        return 1
    cache = torch.cuda.get_device_properties(0).L2_cache_size
    return min(64, max(1, math.ceil(2 * cache / weight_bytes)))


def alternate(samplers: dict[str, Sampler], seconds: float) -> dict[str, list[float]]:
    """Samples in microseconds by contender, entry i of each from the same round.

    The order of a round is random, so that nobody always runs after the same one, and the same in every run.
    """
    samples: dict[str, list[float]] = {name: [] for name in samplers}
    names, orders = list(samplers), random.Random(0)
    begin = time.perf_counter()
    for turn in range(100_000):
        orders.shuffle(names)
        for name in names:
            samples[name].append(samplers[name]())
        out_of_time = time.perf_counter() - begin > seconds
        if out_of_time or (turn + 1 >= MIN_ROUNDS and all(summarize(s).settled for s in samples.values())):
            break
    return samples


def times_faster(ours: list[float], theirs: list[float]) -> float:
    """The median over rounds of their time over ours."""
    return statistics.median(b / a for a, b in zip(ours, theirs, strict=True))
