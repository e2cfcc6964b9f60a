"""The README's Python runs, in order, in one namespace, and its lrk_bench lines are real."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"


def blocks(language: str, page: Path = README) -> list[str]:
    if not page.exists():
        pytest.skip("the tests run outside the source tree")
    return [
        code
        for found, code in re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), flags=re.DOTALL | re.MULTILINE)
        if found == language
    ]


def test_python_examples():
    examples = blocks("python")
    assert len(examples) >= 3
    namespace = {}
    for example in examples:
        exec(compile(example, str(README), "exec"), namespace)
    assert namespace["y"].shape == (512, 1024)
    assert len(namespace["kernels"]) >= 2


def test_benchmark_commands():
    binary = ROOT / "build" / "cmake" / "lrk_bench"
    lines = [line for block in blocks("") for line in block.splitlines() if line.startswith("build/cmake/lrk_bench")]
    assert len(lines) >= 3
    if not binary.exists():
        pytest.skip("lrk_bench was not built (`make cpp` builds it)")
    for line in lines[:2]:
        words = shlex.split(line, comments=True)
        result = subprocess.run([str(binary), *words[1:]], capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, result.stderr
