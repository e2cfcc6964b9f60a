"""Where the matrices of a parameter's shape lie: whole on every process, or their rows shared out (FSDP2).

A step needs whole matrices. ``gather`` hands each process the whole of its share of a stack, by one all-to-all, and
``scatter`` hands the rows back: every matrix is worked on once, and no process holds more than its share.
"""

from __future__ import annotations

import torch
from torch import Tensor

if torch.distributed.is_available():
    from torch.distributed.tensor import DTensor, Replicate, Shard


def local(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor; it shares its memory."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def is_sharded(tensor: Tensor) -> bool:
    return torch.distributed.is_available() and isinstance(tensor, DTensor)


class Whole:
    """Every process has every matrix, also under DDP, where each takes the same step."""

    key = ()
    processes = 1

    def place(self, matrix: Tensor) -> Tensor:
        """A state tensor, made whole on every process, as it is kept."""
        return matrix

    def mine(self, items: list) -> list:
        """Those of the stack that this process works on."""
        return items

    def gather(self, parts: list[Tensor], rows: int) -> list[Tensor]:
        """Of every matrix the rows that this process has, to the matrices that it works on."""
        return parts

    def scatter(self, stack: Tensor, rows: int, count: int) -> list[Tensor]:
        """Back, from a stack ``[my share, rows, ...]`` to as many pieces as there are matrices."""
        return list(stack.unbind())

    def read(self, kept: list[Tensor]) -> list[Tensor]:
        """State tensors as the step changes them: here the very tensors."""
        return list(kept)

    def write(self, kept: list[Tensor], changed: list[Tensor]) -> None:
        """What is not yet in its place is copied there."""
        moved = [(old, new) for old, new in zip(kept, changed, strict=True) if old is not new]
        if moved:
            torch._foreach_copy_(*map(list, zip(*moved, strict=True)))


class RowSharded:
    """Rows in equal pieces (of the last processes smaller ones), as DTensor's ``Shard(0)`` has them, along one
    dimension of a mesh; along the others every process has the same."""

    def __init__(self, parameter: Tensor) -> None:
        self.mesh, self.placements = parameter.device_mesh, tuple(parameter.placements)
        shards = [dim for dim, placement in enumerate(self.placements) if placement == Shard(0)]
        others = [p for p in self.placements if not isinstance(p, Replicate) and p != Shard(0)]
        if len(shards) != 1 or others:
            raise ValueError(f"a DTensor is placed as {self.placements}, expected one Shard(0) and Replicate() else")
        self.group = self.mesh.get_group(shards[0])
        self.rank, self.processes = self.mesh.get_local_rank(shards[0]), self.mesh.size(shards[0])
        self.key = (self.mesh, self.placements)

    def _rows(self, rows: int) -> list[int]:
        """How many rows every process has."""
        piece = -(-rows // self.processes)
        return [max(0, min(piece, rows - rank * piece)) for rank in range(self.processes)]

    def _shares(self, count: int) -> list[int]:
        """How many matrices of a stack every process works on."""
        return [len(range(rank, count, self.processes)) for rank in range(self.processes)]

    def place(self, matrix: Tensor) -> Tensor:
        mine = matrix.split(self._rows(matrix.shape[0]))[self.rank].clone()
        return DTensor.from_local(
            mine, self.mesh, self.placements, run_check=False, shape=matrix.shape, stride=matrix.stride()
        )

    def mine(self, items: list) -> list:
        shares = self._shares(len(items))
        begin = sum(shares[: self.rank])
        return items[begin : begin + shares[self.rank]]

    def _exchange(self, sent: Tensor, received_sizes: list[int], sent_sizes: list[int]) -> tuple[Tensor, ...]:
        received = sent.new_empty(sum(received_sizes))
        torch.distributed.all_to_all_single(received, sent, received_sizes, sent_sizes, group=self.group)
        return received.split(received_sizes)

    def gather(self, parts: list[Tensor], rows: int) -> list[Tensor]:
        stack = torch.stack(parts)
        rest, pieces, shares = stack.shape[2:], self._rows(rows), self._shares(len(parts))
        entries, share = rest.numel(), shares[self.rank]
        received = self._exchange(
            stack.flatten(),
            [share * piece * entries for piece in pieces],
            [other * pieces[self.rank] * entries for other in shares],
        )
        whole = [part.view(share, piece, *rest) for part, piece in zip(received, pieces, strict=True)]
        return list(torch.cat(whole, dim=1).unbind())

    def scatter(self, stack: Tensor, rows: int, count: int) -> list[Tensor]:
        rest, pieces, shares = stack.shape[2:], self._rows(rows), self._shares(count)
        entries, share, piece = rest.numel(), shares[self.rank], pieces[self.rank]
        received = self._exchange(
            torch.cat([part.flatten() for part in stack.split(pieces, dim=1)]),
            [other * piece * entries for other in shares],
            [share * other * entries for other in pieces],
        )
        stacks = [part.view(other, piece, *rest) for part, other in zip(received, shares, strict=True)]
        return [matrix for part in stacks for matrix in part.unbind()]

    def read(self, kept: list[Tensor]) -> list[Tensor]:
        return self.gather([local(tensor) for tensor in kept], kept[0].shape[0])

    def write(self, kept: list[Tensor], changed: list[Tensor]) -> None:
        whole = torch.stack(changed) if changed else local(kept[0]).new_empty(0, *kept[0].shape)
        pieces = self.scatter(whole, kept[0].shape[0], len(kept))
        torch._foreach_copy_([local(tensor) for tensor in kept], pieces)


Layout = Whole | RowSharded


def layout_of(parameter: Tensor) -> Layout:
    return RowSharded(parameter) if is_sharded(parameter) else Whole()
