"""The most memory one training step needs, counted per experiment.

A process's resident high-water mark never falls, so a second experiment would show the first one's. Here every
allocation torch makes within one step is counted, on top of what the model and its optimizer hold before it.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

PEAK_MEMORY_MEANING = (
    "parameters, gradients, optimizer state, activations: torch's allocator at the worst moment of a step"
)


def peak_memory(step: Callable[[], float], model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[float, int]:
    """Run one training step; its return value and the peak of the bytes that its model, optimizer and itself occupy."""
    held = _bytes_held(model, optimizer)
    device = next(model.parameters()).device
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        value = step()
        return value, held + torch.cuda.max_memory_allocated(device) - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        value = step()
    return value, held + _peak_of_trace(profile)


def _bytes_held(model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    tensors = [*model.parameters(), *model.buffers()]
    tensors += [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    return sum(_storages(tensors).values())


def _storages(tensors: Iterable[Tensor]) -> dict[int, int]:
    storages = (tensor.untyped_storage() for tensor in tensors)
    return {storage.data_ptr(): storage.nbytes() for storage in storages}


def _peak_of_trace(profile: torch.profiler.profile) -> int:
    """The largest sum of allocations minus frees, in order of time."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trace.json")
        profile.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    allocations = [event for event in events if event.get("name") == "[memory]"]
    current = peak = 0
    for event in sorted(allocations, key=lambda event: event["ts"]):
        current += event["args"]["Bytes"]
        peak = max(peak, current)
    return peak
