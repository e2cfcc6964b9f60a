"""The command line of the demo."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m lrkernels.demo",
        description="Train a small byte-level transformer on Python's standard library: dense, by AdamW, Muon and "
        "GaLore, and low-rank; then adapt the dense one to a package it has not seen, by LoRA, OFT and Givens "
        "rotations.",
    )
    parser.add_argument("--quick", action="store_true", help="a smaller model, fewer steps: about 100 s on 2 cores")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same numbers (default 0)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path, default=Path("."), metavar="DIR", help="where demo-report.* go (default .)")
    options = parser.parse_args(arguments)

    missing = [name for name in ("tqdm", "matplotlib") if not _importable(name)]
    if missing:
        print(f"lrkernels.demo needs {' and '.join(missing)}: pip install 'lrkernels[demo]'", file=sys.stderr)
        return 2
    # For cuBLAS to give the same bits in every run; read when CUDA starts. The other silences the profiler's own log.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")

    import torch

    from lrkernels.demo.experiments import QUICK, Setup
    from lrkernels.demo.run import run

    if options.device == "cuda" and not torch.cuda.is_available():
        print("lrkernels.demo: --device cuda, but torch sees no CUDA device", file=sys.stderr)
        return 2
    run(replace(QUICK if options.quick else Setup(), seed=options.seed, device=options.device), options.out)
    return 0


def _importable(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
