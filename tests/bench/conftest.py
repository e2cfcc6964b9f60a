"""Where the benchmarks are; everything here is skipped when the tests run without the source tree."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def bench_folder() -> Path:
    if not (ROOT / "bench" / "run.py").exists():
        pytest.skip("the tests run outside the source tree")
    return ROOT / "bench"


@pytest.fixture
def scripts(bench_folder, monkeypatch):
    """Imports modules of bench/ by name, and forgets them afterwards."""
    monkeypatch.syspath_prepend(str(bench_folder))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if (bench_folder / name.split(".")[0]).exists() or (bench_folder / f"{name}.py").exists():
            del sys.modules[name]


@pytest.fixture(scope="session")
def lrk_bench():
    """Runs the benchmark binary; returns what subprocess.run does."""
    binary = Path(os.environ.get("LRK_BENCH", ROOT / "build" / "cmake" / "lrk_bench"))
    if not binary.exists():
        pytest.skip("lrk_bench is not built (`make cpp` builds it, LRK_BENCH names another)")

    def call(*words: str) -> subprocess.CompletedProcess:
        return subprocess.run([str(binary), *words], capture_output=True, text=True, timeout=300, check=False)

    return call
