"""Seeing what runs and why: :func:`build_info`, :func:`explain`, :func:`trace`, :func:`force`."""

from __future__ import annotations

import contextlib
import difflib
import itertools
import json
import os
import platform
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import torch

from lrkernels import _C  # noqa: F401  (loading it defines the ops)

_lrk = torch.ops.lrk


def build_info() -> dict:
    """Versions, compiled architectures, CPU features, why CUDA kernels are or are not there, and each GPU that torch
    sees, with whether they run on it."""
    from lrkernels import _kernels

    info = dict(_kernels.build_info())
    info.update(
        cpu_features=list(_kernels.cpu_features()),
        cpu_isa=_kernels.cpu_isa(),
        python=platform.python_version(),
        torch=torch.__version__,
        torch_cuda=torch.version.cuda,
        gpus=[
            f"{torch.cuda.get_device_name(i)}: {_kernels.cuda_device_problem(i) or 'the kernels run on it'}"
            for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
        ],
    )
    return info


@dataclass
class Plan:
    """One kernel an op would run: its name, why it was chosen, and what was turned down."""

    primitive: str
    kernel: str
    reason: str
    workspace_bytes: int = 0
    hardware_verified: bool = False
    rejected: list[dict[str, str]] = field(default_factory=list)

    def __str__(self) -> str:
        verified = "verified on hardware" if self.hardware_verified else "not verified on hardware"
        lines = [f"{self.primitive}: {self.kernel}", f"    because {self.reason}"]
        lines += [f"    workspace {self.workspace_bytes} bytes, {verified}"]
        lines += [f"    not {r['kernel']}: {r['reason']}" for r in self.rejected]
        return "\n".join(lines)


class Explanation(list[Plan]):
    """The kernels of one call, in order; prints as text, neighbours that are the same once."""

    def __str__(self) -> str:
        because = ": LRK_REFERENCE=1 asks for the plain torch expressions" if reference_only() else ""
        lines = []
        for text, alike in itertools.groupby(map(str, self)):
            times = sum(1 for _ in alike)
            name, rest = text.split("\n", 1)
            lines.append(f"{name}{f', {times} times' if times > 1 else ''}\n{rest}")
        return "\n".join(lines) or f"no kernel of lrkernels would run{because}"


def explain(op: str | Callable, *args, **kwargs) -> Explanation:
    """Which kernels ``op(*args, **kwargs)`` would run, and why; nothing is computed.

    ``op`` is a function of this package or its name: ``lrkernels.explain("lowrank_linear", x, down, up, weight)``.
    """
    if isinstance(op, str):
        from lrkernels import ops  # which imports this module

        if op not in ops.__all__:
            raise ValueError(f"explain: there is no op named {op!r}; the ops are {', '.join(sorted(ops.__all__))}")
        op = getattr(_lrk, op)
    if not callable(op):
        raise TypeError(f"explain: op is a {type(op).__name__}, expected a function or the name of an op")
    _lrk._start_planning()
    try:
        with torch.no_grad():
            op(*args, **kwargs)
    finally:
        plans = _lrk._stop_planning()
    return Explanation(Plan(**json.loads(plan)) for plan in plans)


class Trace(list[str]):
    """Kernel names in the order they ran."""

    def __str__(self) -> str:
        return "\n".join(self)


def reference_only() -> bool:
    """Whether the plain-torch twins stand for every kernel; csrc/torch registers none then."""
    return os.environ.get("LRK_REFERENCE") == "1"


_open_traces: list[Trace] = []
_LOGGING = bool(os.environ.get("LRK_LOG"))


def recording() -> bool:
    """Whether anybody wants to know what runs, and anything but plain torch does."""
    return (_LOGGING or bool(_open_traces)) and not reference_only()


def _hand_out_trace() -> None:
    """What ran since the last call goes to every open trace, outer ones too."""
    if _open_traces:
        names = _lrk._stop_trace()
        for open_trace in _open_traces:
            open_trace.extend(names)


@contextlib.contextmanager
def trace() -> Iterator[Trace]:
    """Records the name of every kernel that runs inside the block: ``with lrkernels.trace() as kernels: ...``.

    ``library_gemm`` is a product that torch's own GEMM computes for an op or its gradients. What is plain torch from
    end to end is not listed: second derivatives, the gradient of ``lowrank_merge``, and in a compiled graph the
    weight's gradient, which the compiler may fuse. Process-wide; filled when the block ends.
    """
    kernels = Trace()
    _hand_out_trace()
    _open_traces.append(kernels)
    _lrk._start_trace()
    try:
        yield kernels
    finally:
        _hand_out_trace()
        # By identity: traces are lists, and equal ones may be open at once.
        _open_traces[:] = [other for other in _open_traces if other is not kernels]
        if _open_traces:
            _lrk._start_trace()


INSTRUCTION_SETS = ("avx512", "avx2", "portable")


def _near_misses(name: str, known: Iterable[str]) -> str:
    """What ``force`` could have meant: parts of kernels' names that look like ``name``, or else all the names."""
    if name in INSTRUCTION_SETS:
        return f"the instruction set is chosen when the process starts, by the environment variable LRK_CPU_ISA={name}"
    parts: dict[str, None] = {}
    for kernel in known:
        words = re.split("[_+]", kernel)
        ends = range(1, len(words) + 1)
        parts.update(("_".join(words[first:end]), None) for end in ends for first in range(end))
    close = [part for part in difflib.get_close_matches(name, parts, n=20) if any(part in kernel for kernel in known)]
    return f"close: {', '.join(close[:3])}" if close else "\n  ".join(["the kernels here:", *known])


@contextlib.contextmanager
def force(name: str) -> Iterator[None]:
    """Inside the block, candidates whose name contains ``name`` are preferred, whatever the heuristics say.

    Process-wide. Names are those that :func:`explain` prints, for example ``"library_gemm"`` or ``"avx512_14x32"``.
    Raises ValueError when no kernel of this build has such a name on this machine, RuntimeError when none runs at all
    (``LRK_REFERENCE=1``).
    """
    if not isinstance(name, str) or not name:
        raise ValueError(f"force: name is {name!r}, expected part of a kernel's name")
    if reference_only():
        raise RuntimeError(f"force: there is no kernel to prefer, {name!r} or other, because LRK_REFERENCE=1 runs none")
    known = dict.fromkeys(_lrk._kernel_names())
    if not any(name in kernel for kernel in known):
        raise ValueError(f"force: no kernel's name contains {name!r}; {_near_misses(name, known)}")
    before = _lrk._forced()
    _lrk._force(name)
    try:
        yield
    finally:
        _lrk._force(before)
