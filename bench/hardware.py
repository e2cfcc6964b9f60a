"""Writes docs/hardware.md from bench/results/*.json: where kernels ran, which tests passed there, how fast they were.

python bench/hardware.py           # writes the page
python bench/hardware.py --check   # exits 1 when the page is not what the results say
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from compare import report

ROOT = Path(__file__).resolve().parent.parent

EMULATED_ONLY = (
    "**The CUDA kernels have been verified with the emulator, not on hardware.** No file in `bench/results` was "
    "measured on a GPU: their results are checked by running the same sources on the CPU, their speed is unknown."
)
NO_CPU = "No file in `bench/results` was measured on a CPU."


def load(folder: Path) -> list[tuple[str, dict]]:
    """Full runs by name; quick ones prove nothing about speed and are left out."""
    documents = [(path.stem, json.loads(path.read_text())) for path in sorted(folder.glob("*.json"))]
    return [(name, document) for name, document in documents if not document["quick"]]


def tests_line(document: dict) -> str:
    tests = document.get("tests", {})
    pytest, ctest = tests.get("pytest"), tests.get("ctest")
    if not pytest and not ctest:
        return "The tests' outcome on this machine was not recorded with these numbers."
    parts = []
    if pytest:
        wrong = pytest.get("failed", 0) + pytest.get("error", 0) + pytest.get("errors", 0)
        parts.append(f"pytest {pytest.get('passed', 0)} passed, {wrong} failed, {pytest.get('skipped', 0)} skipped")
        if pytest.get("cuda_skipped"):
            parts.append(f"the tests on CUDA were skipped ({pytest['cuda_skipped'][0]})")
    if ctest:
        parts.append(f"ctest {ctest['passed']} passed, {ctest['failed']} failed")
    return "Tests on this machine: " + "; ".join(parts) + "."


def verified_on_gpu(document: dict) -> bool:
    """Whether the tests of the CUDA kernels ran there and none failed."""
    pytest = document.get("tests", {}).get("pytest")
    if document["device"] != "cuda" or not pytest or pytest.get("cuda_skipped"):
        return False
    return pytest.get("passed", 0) > 0 and not any(pytest.get(word) for word in ("failed", "error", "errors"))


def section(name: str, document: dict) -> list[str]:
    machine = document["machine"]
    title = machine.get("gpu", machine["cpu"])
    lines = [
        f"### {title} (`{name}`)",
        "",
        f"{machine['date']}, commit `{machine['commit']}`. {tests_line(document)}",
        "",
    ]
    return [*lines, report.markdown(document), ""]


def page(documents: list[tuple[str, dict]]) -> str:
    gpu = [(name, d) for name, d in documents if d["device"] == "cuda"]
    cpu = [(name, d) for name, d in documents if d["device"] == "cpu"]
    lines = ["# Hardware", "", "Written by `python bench/hardware.py` from `bench/results/*.json`; do not edit.", ""]
    lines += ["## GPU", ""]
    if not gpu:
        lines += [EMULATED_ONLY, ""]
    elif not any(verified_on_gpu(d) for _, d in gpu):
        lines += ["**No run below recorded that the tests of the CUDA kernels passed on the GPU.**", ""]
    for name, document in gpu:
        lines += section(name, document)
    lines += ["## CPU", ""]
    lines += [] if cpu else [NO_CPU, ""]
    for name, document in cpu:
        lines += section(name, document)
    return "\n".join(lines).rstrip() + "\n"


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=ROOT / "bench" / "results")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "hardware.md")
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args(words)
    text = page(load(arguments.results))
    if arguments.check:
        if not arguments.page.exists() or arguments.page.read_text() != text:
            print(f"{arguments.page} is out of date: run python bench/hardware.py", file=sys.stderr)
            return 1
        return 0
    arguments.page.parent.mkdir(parents=True, exist_ok=True)
    arguments.page.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
