"""Batches whose samples use different adapters: PEFT's ``adapter_names`` on ``lowrank_linear_indexed``.

    y_t = base_layer(x_t) + scaling[i]·x_t·lora_A[i]ᵀ·lora_B[i]ᵀ    with i the adapter of the sample that t is part of

A sample of "__base__", or of an adapter that this layer does not have, gets the base layer's output.

The factors of the adapters that a batch names are stacked in every call, and the copies live no longer: adapters may
be trained, replaced or moved between two calls. Measured on a CPU, 8 adapters of 2048 features and rank 16 to 64: 15 to
30 % of the layer's call for a token a sample, at most 5 % for 32 tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lrkernels.interop.peft.dora import is_dora
from lrkernels.interop.peft.weights import adapter_layers
from lrkernels.nn.base_layer import factors_beside
from lrkernels.ops import lowrank_linear_indexed


def adapters_of_batch(layer: nn.Module, names: Sequence[str]) -> list[str]:
    """The adapters of this layer that the batch uses."""
    known = layer._modules["lora_A"]._modules
    return [name for name in dict.fromkeys(names) if name != "__base__" and name in known]


def can_index(layer: nn.Module, x: Tensor, names: Sequence[str], adapters: list[str]) -> bool:
    """Whether the op can take this batch of adapters, each of which could be fused alone."""
    if x.dim() < 2 or x.shape[0] != len(names):
        return False
    dtypes = set()
    for name in adapters:
        lora_A, lora_B, dropout = adapter_layers(layer, name)
        if is_dora(layer, name) or lora_B._parameters["bias"] is not None:
            return False
        if type(dropout) is nn.Dropout and dropout.training and dropout.p > 0.0:
            return False
        dtypes |= {lora_A._parameters["weight"].dtype, lora_B._parameters["weight"].dtype}
    return len(dtypes) == 1


def add_indexed(
    layer: nn.Module, x: Tensor, names: Sequence[str], y: Tensor | None, weight: Tensor | None, bias: Tensor | None
) -> Tensor:
    adapters = adapters_of_batch(layer, names)
    factors = [adapter_layers(layer, name)[:2] for name in adapters]
    downs = [lora_A._parameters["weight"] for lora_A, _ in factors]
    ups = [lora_B._parameters["weight"] for _, lora_B in factors]
    ranks = [down.shape[0] for down in downs]
    ranks = _sent(ranks, torch.int64, x.device) if min(ranks) < max(ranks) else None
    down, up = factors_beside(x.dtype, _stack(downs), _stack(ups))
    position = {name: i for i, name in enumerate(adapters)}
    index = _sent([position.get(name, -1) for name in names], torch.int32, x.device)
    index = index.view(-1, *[1] * (x.dim() - 2)).expand(x.shape[:-1])
    scales = _scales([layer.scaling[name] for name in adapters], torch.promote_types(x.dtype, torch.float32), x.device)
    return lowrank_linear_indexed(x, down, up, index, ranks, scales, weight, bias, y)


def _stack(matrices: list[Tensor]) -> Tensor:
    """[count, rows, columns]; a smaller matrix leaves the rest of its place unwritten, for ``ranks`` to hide."""
    if len(matrices) == 1:
        return matrices[0].unsqueeze(0)
    shapes = [matrix.shape for matrix in matrices]
    if len(set(shapes)) == 1:
        return torch.stack(matrices)
    stack = matrices[0].new_empty(len(matrices), *map(max, zip(*shapes, strict=True)))
    for i, (rows, columns) in enumerate(shapes):
        stack[i, :rows, :columns] = matrices[i]
    return stack


def _sent(values: list, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The values on the device, which nobody waits for: ``torch.tensor(..., device=device)`` would."""
    return torch.tensor(values, dtype=dtype).to(device, non_blocking=True)


def _scales(values: list[float | Tensor], dtype: torch.dtype, device: torch.device) -> Tensor:
    if not any(isinstance(value, Tensor) for value in values):
        return _sent(values, dtype, device)
    return torch.stack(
        [
            value.to(device, dtype).reshape(())
            if isinstance(value, Tensor)
            else torch.full((), value, dtype=dtype, device=device)
            for value in values
        ]
    )
