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
    # For the CPU: the switch between fibers, names of symbols, and the question what the system saves (xgetbv).
    allowed = r"device/(ptx/|emulator/(fiber|memory_functions)\.h$)|runtime/cpu_features\.cpp$"
    assert offenders(sources("csrc"), r"\b_*asm_*\b", allowed=allowed) == []


def test_launches_only_through_launch():
    assert offenders(sources("csrc"), r"<<<|cudaLaunchKernel", allowed=r"device/launch\.cuh$") == []


def test_no_static_shared_memory():
    assert offenders(sources("csrc"), r"__shared__", allowed=r"device/smem\.cuh$") == []


def test_every_ptx_file_names_its_section_of_the_manual():
    assert [path.name for path in sources("csrc/device/ptx") if 'PTX ISA, "' not in path.read_text()] == []


def code(path: Path) -> str:
    return "\n".join(line.split("//")[0] for line in path.read_text().splitlines())


def test_every_wrapper_and_intrinsic_is_in_the_conformance_table():
    """A wrapper is used by a kernel of csrc/device/conformance, and every kernel there has its line in the table
    (tests/device/test_conformance.py then asks for a model of every line)."""
    kernels = "\n".join(code(path) for path in sources("csrc/device/conformance", suffixes=(".cu",)))
    parts = {"stored_by_lanes"}  # of wrappers, used nowhere else
    wrappers = set()
    for path in sources("csrc/device/ptx"):
        wrappers |= set(re.findall(r"__device__ __forceinline__ [\w ]+?\b(\w+)\(", code(path)))
    assert {"mma_m16n8k16", "cp_async", "ldmatrix_x4", "shared_address"} <= wrappers  # the pattern finds them
    language = code(ROOT / "csrc/device/emulator/cuda_language.h")
    intrinsics = set(re.findall(r"^[\w ]+?\b(__[a-z]\w+|atomic[A-Z]\w+)\(", language, re.MULTILINE))
    assert {"__syncthreads", "__syncwarp", "__shfl_sync"} <= intrinsics
    assert {name for name in wrappers - parts if not re.search(rf"\bptx::{name}\b", kernels)} == set()
    assert {name for name in intrinsics if not re.search(rf"\b{name}\b", kernels)} == set()
    defined = set(re.findall(r"__global__ void (\w+)\(", kernels))
    assert {name for name in defined if len(re.findall(rf"\b{name}\b", kernels)) < 2} == set()


def test_no_float_atomics():
    assert offenders(sources("csrc/cuda"), r"\batomic(Add|Max|Min)\b|\bred\.|\batom\.") == []


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
