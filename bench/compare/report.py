"""The results as a table for a terminal, Markdown for the README, and a plot."""

from __future__ import annotations

from pathlib import Path

OTHERS = ("eager", "compile", "peft", "F.linear", "python twin")
LONGEST_BAR = 5.0  # longer ones are cut, their label is not


def machine_line(report: dict) -> str:
    machine = report["machine"]
    where = f"{machine['gpu']}, CUDA {machine['cuda']}, " if "gpu" in machine else ""
    return (
        f"{where}{machine['cpu']}, {machine['threads']} threads, torch {machine['torch']}, "
        f"lrkernels {machine['lrkernels']} at {machine['commit']}, {machine['date']}"
    )


def microseconds(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def _ratio(result: dict, name: str) -> str:
    ratio = result["times_faster"].get(name)
    return "–" if ratio is None else f"{ratio:.2f}×"


def verdict(result: dict) -> str:
    if result["failures"]:
        return "FAILED: " + "; ".join(f"{name}: {why}" for name, why in result["failures"].items())
    parts = []
    for target in result["targets"]:
        word = {True: "met", False: "missed", None: "not measured"}[target["met"]]
        parts.append(f"{word} (≥{target['at_least']:g}× {target['against']})")
    if not result["timings"].get("lrkernels", {}).get("settled", True):
        parts.append("not settled")
    return ", ".join(parts)


def _rows(report: dict) -> tuple[list[str], list[list[str]]]:
    others = [name for name in OTHERS if any(name in r["times_faster"] for r in report["results"])]
    header = ["case", "lrkernels µs", *(f"vs {name}" for name in others), "target"]
    rows = []
    for result in report["results"]:
        ours = result["timings"].get("lrkernels", {}).get("median_us")
        row = [result["case"]["name"], microseconds(ours), *(_ratio(result, name) for name in others), verdict(result)]
        rows.append(row)
    return header, rows


def table(report: dict) -> str:
    header, rows = _rows(report)
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    lines = [machine_line(report), "", "  ".join(cell.ljust(w) for cell, w in zip(header, widths)).rstrip()]
    for row in rows:
        lines.append(
            "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:-1], widths[1:-1])), row[-1]])
        )
    lines += [
        "",
        "vs: their time over ours, the median over rounds in which each ran once; above 1 lrkernels is faster.",
    ]
    lines += [f"no {name}: {why}" for name, why in sorted(report["absent"].items())]
    return "\n".join(lines)


def markdown(report: dict) -> str:
    header, rows = _rows(report)
    lines = ["| " + " | ".join(header) + " |", "|---|" + "---:|" * (len(header) - 2) + "---|"]
    lines += ["| " + " | ".join(cell.replace("|", "/") for cell in row) + " |" for row in rows]
    lines += [
        "",
        f"{machine_line(report)}. Ratios are their time over ours, measured in turn; above 1 lrkernels is faster.",
    ]
    lines += [f"Reproduce: `{report['command']}`."]
    return "\n".join(lines)


def plot(report: dict, path: Path) -> None:
    """Bars: how many times faster than each contender; 1 is the line to beat."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    results = [r for r in report["results"] if r["times_faster"]]
    others = [
        name for name in ("eager", "compile", "peft", "F.linear") if any(name in r["times_faster"] for r in results)
    ]
    figure, axes = plt.subplots(figsize=(11, 1.5 + 0.34 * max(1, len(results)) * max(1, len(others)) ** 0.5))
    height = 0.8 / max(1, len(others))
    for index, name in enumerate(others):
        at = [(row + index * height, r["times_faster"].get(name)) for row, r in enumerate(results)]
        at = [(y, value) for y, value in at if value is not None]
        lengths = [min(value, LONGEST_BAR) for _, value in at]
        bars = axes.barh([y for y, _ in at], lengths, height=height * 0.92, label=f"vs {name}")
        axes.bar_label(bars, labels=[f"{value:.2f}" for _, value in at], padding=3, fontsize=7)
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set_yticks([row + 0.4 - height / 2 for row in range(len(results))])
    axes.set_yticklabels([r["case"]["name"] for r in results], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("times faster than (right of the line lrkernels wins)")
    axes.set_title(machine_line(report), fontsize=8)
    if others:
        axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)
