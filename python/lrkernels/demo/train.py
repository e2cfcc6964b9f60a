"""Train one experiment's model and measure it."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from lrkernels.demo.corpus import Corpus, Text, sample_batch, validation_windows
from lrkernels.demo.experiments import Experiment, Setup
from lrkernels.demo.memory import peak_memory

_WARMUP_SHARE = 0.1
_MEASURED_STEP = 1  # the first in which the optimizer's state is there from the start


@dataclass
class Result:
    """What one experiment came to; bits are bits per byte, losses and curves likewise."""

    name: str
    title: str
    text: str
    parameters: int
    trainable: int
    library_bits: float = math.nan
    package_bits: float = math.nan
    package_bits_before: float = math.nan
    ms_per_step: float = math.nan
    peak_bytes: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    validation: list[tuple[int, float]] = field(default_factory=list)


def run_experiment(
    experiment: Experiment, setup: Setup, corpus: Corpus, trained: dict[str, nn.Module]
) -> tuple[Result, nn.Module, Callable[[], float]]:
    """Build, train and measure: the result, the model, and its training step for ``time_side_by_side``.

    All random numbers come from ``setup.seed``, so other experiments change none.
    """
    start = time.perf_counter()
    torch.manual_seed(setup.seed)
    batches = torch.Generator().manual_seed(setup.seed)
    model = experiment.build(setup, trained).to(setup.device)
    parameters = list(model.parameters())
    trainable = [p for p in parameters if p.requires_grad]
    counts = (sum(p.numel() for p in group) for group in (parameters, trainable))
    result = Result(experiment.name, experiment.title, experiment.text, *counts)

    text: Text = getattr(corpus, experiment.text)
    steps = setup.training_steps if experiment.text == "library" else setup.tuning_steps
    every = max(1, steps // setup.validations)
    optimizer = experiment.optimizer(setup, model)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _learning_rate_share(step, steps))
    if experiment.text == "package":
        result.package_bits_before = bits_per_byte(model, corpus.package.validation, setup)
        result.validation.append((0, result.package_bits_before))

    def train_step() -> float:
        tokens, targets = (t.to(setup.device) for t in sample_batch(text.train, setup.batch, setup.context, batches))
        loss = F.cross_entropy(model(tokens).flatten(0, 1), targets.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item() / math.log(2.0)

    model.train()
    progress = tqdm(range(steps), desc=f"{experiment.title:<24}", unit="step", dynamic_ncols=True)
    for step in progress:
        if step == _MEASURED_STEP:
            loss, result.peak_bytes = peak_memory(train_step, model, optimizer)
        else:
            loss = train_step()
        schedule.step()
        result.losses.append(loss)
        if (step + 1) % every == 0 or step + 1 == steps:
            result.validation.append((step + 1, bits_per_byte(model, text.validation, setup)))
            progress.set_postfix_str(f"{result.validation[-1][1]:.3f} bits/byte", refresh=False)
    result.library_bits = bits_per_byte(model, corpus.library.validation, setup)
    result.package_bits = bits_per_byte(model, corpus.package.validation, setup)
    result.seconds = time.perf_counter() - start
    return result, model, train_step


def time_side_by_side(results: list[Result], train_steps: list[Callable[[], float]], rounds: int) -> None:
    """Set ``ms_per_step``, the median of steps taken in turn, so that whatever else the machine does meets all alike.

    The steps train on: the models are of no further use afterwards.
    """
    times: list[list[float]] = [[] for _ in results]
    for _ in range(rounds):
        for train_step, own in zip(train_steps, times, strict=True):
            start = time.perf_counter()
            train_step()
            own.append(time.perf_counter() - start)
    for result, own in zip(results, times, strict=True):
        result.ms_per_step = 1e3 * statistics.median(own)


@torch.inference_mode()
def bits_per_byte(model: nn.Module, text: Tensor, setup: Setup) -> float:
    """Mean −log2 probability of the true next byte over evenly spread windows of ``text``, in evaluation mode."""
    was_training = model.training
    model.eval()
    tokens, targets = validation_windows(text, setup.validation_windows, setup.context)
    total = 0.0
    for batch, target in zip(tokens.split(setup.batch), targets.split(setup.batch), strict=True):
        logits = model(batch.to(setup.device))
        total += F.cross_entropy(logits.flatten(0, 1), target.to(setup.device).flatten(), reduction="sum").item()
    model.train(was_training)
    return total / targets.numel() / math.log(2.0)


def _learning_rate_share(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine down to a tenth."""
    warmup = max(1, round(_WARMUP_SHARE * steps))
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return 0.1 + 0.45 * (1.0 + math.cos(math.pi * done))
