"""The demo's table, figure and JSON file."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict
from pathlib import Path

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lrkernels.demo.compression import CompressedModel
from lrkernels.demo.corpus import HELD_OUT_PACKAGE, Corpus
from lrkernels.demo.experiments import Setup
from lrkernels.demo.memory import PEAK_MEMORY_MEANING
from lrkernels.demo.train import Result

_MIB = 2.0**20


def table(results: list[Result]) -> str:
    """One row an experiment, and below what the columns mean."""
    package = f"{HELD_OUT_PACKAGE} b/B"
    rows = [("experiment", "parameters", "trainable", "library b/B", package, "ms/step", "peak MiB")]
    for result in results:
        tuned = f"{result.package_bits_before:.3f} -> " if result.text == "package" else ""
        rows.append(
            (
                result.title,
                f"{result.parameters:,}",
                f"{result.trainable:,}",
                f"{result.library_bits:.3f}",
                f"{tuned}{result.package_bits:.3f}",
                f"{result.ms_per_step:.1f}",
                f"{result.peak_bytes / _MIB:.1f}",
            )
        )
    lines = _lines(rows)
    return "\n".join(
        [
            *lines,
            "",
            f"b/B: validation bits per byte, on files of the library and of {HELD_OUT_PACKAGE} (which only the",
            "fine-tuned rows have trained on; before -> after); lower is better.",
            "ms/step: median of training steps, taken in turn with those of the other rows.",
            f"peak: {PEAK_MEMORY_MEANING}.",
        ]
    )


def compression_table(curve: list[CompressedModel], results: list[Result]) -> str:
    """The dense model, then its compressed ones from the largest down."""
    dense = next(result for result in results if result.name == "dense")
    rows = [("dense model, compressed", "parameters", "b/B, best weights", "b/B, best outputs")]
    rows.append(("as trained", f"{dense.parameters:,}", f"{dense.library_bits:.3f}", f"{dense.library_bits:.3f}"))
    for point in reversed(curve):
        bits = (f"{b:.3f}" for b in (point.bits_by_weights, point.bits_by_outputs))
        rows.append((f"rank {point.rank}", f"{point.parameters:,}", *bits))
    return "\n".join(
        [
            *_lines(rows),
            "",
            "Every layer of the blocks at one rank by rsvd, without further training: the best approximation of the",
            "weights, or of the layers' outputs on a few training batches.",
        ]
    )


def _lines(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(_aligned(cell, width, i) for i, (cell, width) in enumerate(zip(row, widths))) for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return lines


def _aligned(cell: str, width: int, column: int) -> str:
    return cell.ljust(width) if column == 0 else cell.rjust(width)


def write_json(path: Path, results: list[Result], curve: list[CompressedModel], setup: Setup, corpus: Corpus) -> None:
    def sizes(text):
        return {
            "train_files": text.train_files,
            "validation_files": text.validation_files,
            "train_bytes": len(text.train),
            "validation_bytes": len(text.validation),
        }

    report = {
        "setup": asdict(setup),
        "corpus": {"library": sizes(corpus.library), HELD_OUT_PACKAGE: sizes(corpus.package)},
        "machine": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "processor": platform.machine(),
            "threads": torch.get_num_threads(),
            "device": torch.cuda.get_device_name() if setup.device == "cuda" else "cpu",
        },
        "peak_bytes_means": PEAK_MEMORY_MEANING,
        "results": [{k: None if v != v else v for k, v in asdict(result).items()} for result in results],
        "compressed": [asdict(point) for point in curve],
    }
    path.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")


def draw(path: Path, results: list[Result], curve: list[CompressedModel]) -> None:
    """Loss curves above, one panel for each text trained on, and compression; the columns of the table below."""
    colors = dict(zip((r.name for r in results), matplotlib.color_sequences["tab10"] * (1 + len(results) // 10)))
    texts = list(dict.fromkeys(result.text for result in results))
    figure = Figure(figsize=(16 if curve else 13, 8.2), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(1.5, 1.0))
    panels = above.subplots(1, len(texts) + bool(curve), squeeze=False)[0]
    if curve:
        _compression(panels[-1], curve, results)
    for axes, text in zip(panels, texts):
        _curves(axes, text, [r for r in results if r.text == text], colors)
    bars = below.subplots(1, 4, sharey=True)
    _parameter_bars(bars[0], results, colors)
    _bits_bars(bars[1], results, colors)
    _bars(bars[2], results, colors, "training step, ms", [r.ms_per_step for r in results], "{:.0f}")
    _bars(bars[3], results, colors, "peak memory of a step, MiB", [r.peak_bytes / _MIB for r in results], "{:.0f}")
    figure.suptitle("lrkernels demo: a byte-level transformer on the source of Python's standard library", fontsize=13)
    figure.savefig(path, dpi=130)


def _curves(axes: Axes, text: str, results: list[Result], colors: dict[str, tuple]) -> None:
    for result in results:
        color = colors[result.name]
        axes.plot(range(1, len(result.losses) + 1), _smoothed(result.losses), color=color, alpha=0.35, linewidth=1)
        steps, bits = zip(*result.validation, strict=True)
        axes.plot(steps, bits, color=color, marker="o", markersize=4, label=f"{result.title}: {bits[-1]:.3f}")
    axes.plot([], [], color="gray", alpha=0.5, linewidth=1, label="thin: training, smoothed; dots: validation")
    # The first steps fall from 8 bits and would press everything else flat.
    shown = [bits for r in results for bits in _smoothed(r.losses)[len(r.losses) // 10 :]]
    shown += [bits for r in results for _, bits in r.validation]
    margin = 0.06 * (max(shown) - min(shown)) + 0.01
    axes.set_ylim(min(shown) - margin, max(shown) + margin)
    name = "the standard library" if text == "library" else f"{HELD_OUT_PACKAGE}, held out before"
    axes.set_title(f"trained on {name}", fontsize=11)
    axes.set_xlabel("step")
    axes.set_ylabel("bits per byte")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=9)


def _compression(axes: Axes, curve: list[CompressedModel], results: list[Result]) -> None:
    """Against the rank, with the share of the dense model's parameters at every point."""
    dense = next(result for result in results if result.name == "dense")
    ranks = [point.rank for point in curve]
    for label, bits in (
        ("best weights", [point.bits_by_weights for point in curve]),
        ("best outputs", [point.bits_by_outputs for point in curve]),
    ):
        axes.plot(ranks, bits, marker="o", markersize=4, label=label)
    axes.axhline(
        dense.library_bits, color="gray", linestyle="--", linewidth=1, label=f"dense: {dense.library_bits:.3f}"
    )
    for point in curve:
        share = f"{point.parameters / dense.parameters:.0%}"
        at = point.rank, max(point.bits_by_weights, point.bits_by_outputs)
        axes.annotate(share, at, (5, 5), textcoords="offset points", fontsize=9)
    axes.set_xscale("log", base=2)
    axes.set_xticks(ranks, [str(rank) for rank in ranks])
    axes.margins(x=0.12, y=0.1)
    axes.minorticks_off()
    axes.set_title("the dense model compressed (% of its parameters)", fontsize=11)
    axes.set_xlabel("rank of every layer")
    axes.set_ylabel("bits per byte")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=9)


def _smoothed(losses: list[float], share: float = 0.1) -> list[float]:
    """Exponential moving average, corrected for its start."""
    average, weight, smoothed = 0.0, 0.0, []
    for loss in losses:
        average += share * (loss - average)
        weight += share * (1.0 - weight)
        smoothed.append(average / weight)
    return smoothed


def _bars(axes: Axes, results: list[Result], colors, title: str, values: list[float], label: str) -> None:
    rows = range(len(results))
    axes.barh(rows, values, color=[colors[r.name] for r in results], height=0.6)
    for row, value in zip(rows, values, strict=True):
        axes.annotate(label.format(value), (value, row), (4, 0), textcoords="offset points", va="center", fontsize=9)
    _tidy(axes, results, title, max(values))


def _parameter_bars(axes: Axes, results: list[Result], colors) -> None:
    rows = range(len(results))
    totals, trainable = [r.parameters / 1e6 for r in results], [r.trainable / 1e6 for r in results]
    axes.barh(rows, totals, color=[colors[r.name] for r in results], height=0.6, alpha=0.3)
    axes.barh(rows, trainable, color=[colors[r.name] for r in results], height=0.6)
    for row, total, trained in zip(rows, totals, trainable, strict=True):
        text = f"{total:.2f}" if trained == total else f"{total:.2f}, trained {trained:.3f}"
        axes.annotate(text, (total, row), (4, 0), textcoords="offset points", va="center", fontsize=9)
    _tidy(axes, results, "parameters, millions (solid: trained)", 1.35 * max(totals))


def _bits_bars(axes: Axes, results: list[Result], colors) -> None:
    """The text each experiment trained on; a hollow bar is the value before fine-tuning."""
    for row, result in enumerate(results):
        bits = result.package_bits if result.text == "package" else result.library_bits
        text = f"{bits:.3f}"
        if result.text == "package":
            axes.barh(row, result.package_bits_before, height=0.6, fill=False, edgecolor="gray", linestyle="--")
            text = f"{result.package_bits_before:.3f} → {bits:.3f}"
        axes.barh(row, bits, color=colors[result.name], height=0.6)
        end = max(bits, result.package_bits_before if result.text == "package" else bits)
        axes.annotate(text, (end, row), (4, 0), textcoords="offset points", va="center", fontsize=9)
    longest = max(max(r.library_bits, r.package_bits) for r in results)
    _tidy(axes, results, f"bits per byte (hollow bars: {HELD_OUT_PACKAGE})", 1.3 * longest)


def _tidy(axes: Axes, results: list[Result], title: str, longest: float) -> None:
    axes.set_yticks(range(len(results)), [r.title for r in results])
    axes.set_ylim(len(results) - 0.4, -0.6)
    axes.set_xlim(0, 1.2 * longest)
    axes.set_title(title, fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="x", labelsize=8)
