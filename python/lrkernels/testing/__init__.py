"""Tools for testing code that uses lrkernels, and lrkernels itself."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from lrkernels import _C  # noqa: F401  (loading it defines the ops)
from lrkernels.testing.adapter_checks import check_adapter

__all__ = ["BACKENDS", "backend", "check_adapter", "unavailable"]

BACKENDS = ("cpu", "cuda_emulated", "cuda")


def unavailable(backend: str) -> str | None:
    """Why a backend cannot be used here, or None when it can."""
    if backend not in BACKENDS:
        raise ValueError(f"testing.unavailable: backend is {backend!r}, expected one of {BACKENDS}")
    if backend == "cuda_emulated" and not torch.ops.lrk._has_emulator():
        return "this build has no emulated CUDA kernels (LRK_EMULATOR=1 builds them, `make test` does)"
    if backend == "cuda" and not torch.ops.lrk._has_cuda():
        return "this build has no CUDA kernels"
    if backend == "cuda" and not torch.cuda.is_available():
        return "no CUDA device is available"
    return None


@contextlib.contextmanager
def backend(name: str) -> Iterator[torch.device]:
    """Runs the block on ``"cpu"``, ``"cuda_emulated"`` (the CUDA kernels on CPU tensors) or ``"cuda"``.

    Yields the device on which the block's tensors belong. Process-wide.
    """
    if name not in BACKENDS:
        raise ValueError(f"testing.backend: name is {name!r}, expected one of {BACKENDS}")
    reason = unavailable(name)
    if reason is not None:
        raise RuntimeError(f"testing.backend: {name} is not available: {reason}")
    torch.ops.lrk._emulate(name == "cuda_emulated")
    try:
        yield torch.device("cuda" if name == "cuda" else "cpu")
    finally:
        torch.ops.lrk._emulate(False)
