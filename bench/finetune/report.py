"""End-to-end results as a table for a terminal, Markdown, and a plot."""

from __future__ import annotations

from pathlib import Path

from compare.report import machine_line

EXPLANATION = (
    "× are stock PEFT's time over theirs, the median over rounds in which each took one step; above 1 is faster. "
    "Peak memory is lrkernels' over stock PEFT's."
)
NAMES = ("peft", "peft, compiled", "lrkernels", "lrkernels, compiled")


def _ratio(ratio: float | None) -> str:
    return "–" if ratio is None else f"{ratio:.2f}×"


def _cells(result: dict) -> list[str]:
    speeds = [f"{result['tokens_per_second'].get(name, float('nan')):,.0f}" for name in ("peft", "lrkernels")]
    ratios = [_ratio(result["times_faster"].get(name)) for name in NAMES[1:]]
    memory = result["peak_bytes"]
    memory = memory["lrkernels"] / memory["peft"] if "lrkernels" in memory else None
    losses = "/".join(f"{result['losses'].get(name, float('nan')):.3f}" for name in ("peft", "lrkernels"))
    return [result["setting"]["name"], *speeds, *ratios, _ratio(memory), losses, verdict(result)]


def verdict(result: dict) -> str:
    if result["failures"]:
        return "FAILED: " + "; ".join(f"{name}: {why}" for name, why in result["failures"].items())
    word = "met" if result["goal"]["met"] else "missed"
    return f"{word} (≥{result['goal']['at_least']:g}×)" + ("" if result["settled"] else ", not settled")


HEADER = [
    "setting", "peft tokens/s", "lrkernels tokens/s", "peft, compiled", "lrkernels", "lrkernels, compiled",
    "peak memory", "loss, peft/lrkernels", "goal",
]  # fmt: skip


def _size_line(document: dict) -> str:
    size = document["size"]
    return (
        f"Llama of {size['layers']} layers, {size['hidden']} wide ({size['intermediate']} in the MLP), "
        f"{size['batch']} × {size['context']} bytes a step, AdamW"
    )


def table(document: dict) -> str:
    rows = [HEADER, *(_cells(result) for result in document["results"])]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADER))]
    lines = [machine_line(document), _size_line(document), ""]
    lines += ["  ".join(cell.ljust(w) for cell, w in zip(row, widths)).rstrip() for row in rows]
    lines += ["", EXPLANATION]
    return "\n".join(lines)


def markdown(document: dict) -> str:
    lines = ["| " + " | ".join(HEADER) + " |", "|---|" + "---:|" * (len(HEADER) - 2) + "---|"]
    lines += ["| " + " | ".join(_cells(result)) + " |" for result in document["results"]]
    lines += ["", f"{EXPLANATION} {_size_line(document)}. {machine_line(document)}."]
    lines += [f"Reproduce: `{document['command']}`."]
    return "\n".join(lines)


def plot(document: dict, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    results = [result for result in document["results"] if result["times_faster"]]
    others = [name for name in NAMES[1:] if any(name in result["times_faster"] for result in results)]
    figure, axes = plt.subplots(figsize=(10, 1.5 + 0.5 * max(1, len(results))))
    height = 0.8 / max(1, len(others))
    for index, name in enumerate(others):
        at = [(row + index * height, r["times_faster"].get(name)) for row, r in enumerate(results)]
        at = [(y, value) for y, value in at if value is not None]
        bars = axes.barh([y for y, _ in at], [value for _, value in at], height=height * 0.92, label=name)
        axes.bar_label(bars, labels=[f"{value:.2f}" for _, value in at], padding=3, fontsize=7)
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set_yticks([row + 0.4 - height / 2 for row in range(len(results))])
    axes.set_yticklabels([result["setting"]["name"] for result in results], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("training steps: times as fast as stock PEFT")
    axes.set_title(f"{_size_line(document)}\n{machine_line(document)}", fontsize=8)
    if others:
        axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)
