"""Rules of the tree that a machine can check."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def sources(*folders: str, suffixes=(".h", ".cuh", ".cu", ".cpp")) -> list[Path]:
    if not (ROOT / "csrc").is_dir():
        pytest.skip("the tests run outside the source tree")
    found = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in suffixes]
    assert found, folders
    return found


def offenders(paths, pattern: str, allowed: str = "") -> list[str]:
    expression = re.compile(pattern)
    hits = []
    for path in paths:
        name = str(path.relative_to(ROOT))
        if allowed and re.search(allowed, name):
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            code = line.split("//")[0]
            if expression.search(code):
                hits.append(f"{name}:{number}: {line.strip()}")
    return hits


def test_inline_ptx_only_in_ptx():
    assert offenders(sources("csrc"), r"\basm\b", allowed=r"device/(ptx|emulator)/") == []


def test_launches_only_through_launch():
    assert offenders(sources("csrc"), r"<<<|cudaLaunchKernel", allowed=r"device/launch\.cuh$") == []


def test_no_static_shared_memory():
    assert offenders(sources("csrc"), r"__shared__", allowed=r"device/(smem\.cuh|emulator/)") == []


def test_no_float_atomics():
    assert offenders(sources("csrc/cuda"), r"\batomic(Add|Max|Min)\b|red\.|atom\.") == []


def test_no_torch_below_the_binding():
    folders = ("csrc/include", "csrc/device", "csrc/cuda", "csrc/cpu", "csrc/runtime")
    assert offenders(sources(*folders), r"#include\s*[<\"](torch|ATen|c10|Python|pybind11)") == []


def test_no_file_is_two_things():
    longest = sources("csrc", "python", "bench", "tests", suffixes=(".h", ".cuh", ".cu", ".cpp", ".py"))
    assert [f"{p}: {n}" for p in longest if (n := len(p.read_text().splitlines())) > 500] == []


def test_no_machine_paths():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    this = Path(__file__).resolve()
    hits = []
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if path == this or path.suffix in (".png",) or not path.is_file():
            continue
        hits += [f"{name}: {m}" for m in re.findall(r"/(?:work|root|home)/\w+", path.read_text(errors="ignore"))]
    assert hits == []
