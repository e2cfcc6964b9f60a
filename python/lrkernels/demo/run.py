"""All experiments in turn, then the report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from lrkernels.demo.compression import CompressedModel, compression_curve
from lrkernels.demo.corpus import load_corpus
from lrkernels.demo.experiments import EXPERIMENTS, Experiment, Setup
from lrkernels.demo.report import compression_table, draw, table, write_json
from lrkernels.demo.train import Result, run_experiment, time_side_by_side


def run(setup: Setup, out: Path, experiments: Sequence[Experiment] = EXPERIMENTS) -> list[Result]:
    """Train and measure every experiment, print the table, write ``demo-report.png`` and ``.json`` into ``out``."""
    start = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    corpus = load_corpus()
    trained: dict[str, nn.Module] = {}
    results: list[Result] = []
    train_steps = []
    curve: list[CompressedModel] = []
    was_deterministic = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(setup.device == "cuda", warn_only=True)
    try:
        for experiment in experiments:
            result, trained[experiment.name], train_step = run_experiment(experiment, setup, corpus, trained)
            results.append(result)
            train_steps.append(train_step)
        if "dense" in trained:
            curve, seconds = compression_curve(trained["dense"], setup, corpus)
            print(f"the dense model compressed to {len(curve)} ranks, twice each: {seconds:.1f} s")
        time_side_by_side(results, train_steps, setup.timing_rounds)
    finally:
        torch.use_deterministic_algorithms(was_deterministic)
    write_json(out / "demo-report.json", results, curve, setup, corpus)
    draw(out / "demo-report.png", results, curve)
    tables = [table(results)] + [compression_table(curve, results)] * bool(curve)
    seconds = time.perf_counter() - start
    print()
    print(*tables, f"{out / 'demo-report.png'} and .json written; {seconds:.0f} s in all", sep="\n\n")
    return results
