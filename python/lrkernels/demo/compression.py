"""The trained dense model again, compressed without further training: bits per byte against the rank."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass

import torch
from torch import nn

from lrkernels.compress import compress, linear_layers
from lrkernels.demo.corpus import Corpus, sample_batch
from lrkernels.demo.experiments import Setup
from lrkernels.demo.train import bits_per_byte
from lrkernels.nn import InputStatistics, input_statistics

_CALIBRATION_BATCHES = 16


@dataclass
class CompressedModel:
    """All blocks' layers at one rank; library bits per byte where the error of weights, or of outputs, is the least."""

    rank: int
    parameters: int
    bits_by_weights: float
    bits_by_outputs: float


def compression_curve(model: nn.Module, setup: Setup, corpus: Corpus) -> tuple[list[CompressedModel], float]:
    """The model at ranks from a sixteenth to a half of its width, and the seconds it took; ``model`` stays as it is."""
    start = time.perf_counter()
    batches = torch.Generator().manual_seed(setup.seed)
    tokens = (
        sample_batch(corpus.library.train, setup.batch, setup.context, batches)[0].to(setup.device)
        for _ in range(_CALIBRATION_BATCHES)
    )
    statistics = input_statistics(model, tokens, linear_layers(model))
    curve = []
    for share in (16, 8, 4, 2):
        rank = max(1, setup.width // share)
        by_weights = _compressed(model, rank, None)
        by_outputs = _compressed(model, rank, statistics)
        curve.append(
            CompressedModel(
                rank,
                sum(p.numel() for p in by_weights.parameters()),
                bits_per_byte(by_weights, corpus.library.validation, setup),
                bits_per_byte(by_outputs, corpus.library.validation, setup),
            )
        )
    return curve, time.perf_counter() - start


def _compressed(model: nn.Module, rank: int, statistics: dict[str, InputStatistics] | None) -> nn.Module:
    smaller = copy.deepcopy(model)
    compress(smaller, rank, statistics=statistics)
    return smaller
