"""Where the benchmarks are; everything here is skipped when the tests run without the source tree."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def bench_folder() -> Path:
    if not (ROOT / "bench" / "run.py").exists():
        pytest.skip("the tests run outside the source tree")
    return ROOT / "bench"


@pytest.fixture(scope="session")
def lrk_bench():
    """Runs the benchmark binary; returns what subprocess.run does."""
    binary = Path(os.environ.get("LRK_BENCH", ROOT / "build" / "cmake" / "lrk_bench"))
    if not binary.exists():
        pytest.skip("lrk_bench is not built (`make cpp` builds it, LRK_BENCH names another)")

    def call(*words: str) -> subprocess.CompletedProcess:
        return subprocess.run([str(binary), *words], capture_output=True, text=True, timeout=300, check=False)

    return call
