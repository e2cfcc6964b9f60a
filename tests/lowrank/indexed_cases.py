"""Inputs, the independent answer in float64 and today's code for lowrank_linear_indexed."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch


@dataclass
class IndexedCase:
    """The tensors of one lowrank_linear_indexed call, in the order of its schema."""

    x: torch.Tensor
    downs: torch.Tensor
    ups: torch.Tensor
    index: torch.Tensor
    ranks: torch.Tensor | None = None
    scales: torch.Tensor | None = None
    weight: torch.Tensor | None = None
    bias: torch.Tensor | None = None
    base: torch.Tensor | None = None

    @property
    def tensors(self) -> tuple:
        return tuple(getattr(self, field.name) for field in fields(self))

    def call(self, op) -> torch.Tensor:
        return op(*self.tensors)

    def mapped(self, function) -> IndexedCase:
        """``function`` of every floating tensor."""
        floats = {f.name: t for f in fields(self) if (t := getattr(self, f.name)) is not None and t.is_floating_point()}
        return replace(self, **{name: function(tensor) for name, tensor in floats.items()})

    def differentiable(self) -> IndexedCase:
        return self.mapped(lambda t: t.detach().requires_grad_())

    def wide(self) -> IndexedCase:
        """The same values in float64 on the CPU."""
        case = self.mapped(lambda t: t.detach().cpu().double())
        case.index, case.ranks = case.index.cpu(), None if case.ranks is None else case.ranks.cpu()
        return case

    def leaves(self) -> dict[str, torch.Tensor]:
        return {f.name: t for f in fields(self) if (t := getattr(self, f.name)) is not None and t.requires_grad}

    def gradients(self, op, grad: torch.Tensor) -> dict[str, torch.Tensor]:
        case = self.differentiable()
        leaves, y = case.leaves(), case.call(op)
        grads = torch.autograd.grad(y, list(leaves.values()), grad.to(y), allow_unused=True)
        zero = {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
        return {name: zero[name] if g is None else g for name, g in zip(leaves, grads, strict=True)}


def make_case(
    device: torch.device,
    dtype: torch.dtype,
    leading: tuple[int, ...] = (19,),
    in_features: int = 33,
    out_features: int = 18,
    rank: int = 6,
    adapters: int = 4,
    *,
    index: list[int] | None = None,
    mixed_ranks: bool = True,
    scales: bool = True,
    weight: bool = True,
    bias: bool = True,
    base: bool = False,
    factor_dtype: torch.dtype | None = None,
    index_dtype: torch.dtype = torch.int64,
    hidden: float = float("nan"),
) -> IndexedCase:
    """With mixed ranks, what lies behind an adapter's rank is ``hidden``."""
    factor_dtype = factor_dtype or dtype
    rows = torch.Size(leading).numel()

    def random(*shape, dtype=dtype, fan=1):
        return (torch.randn(*shape, dtype=torch.float64) / max(fan, 1) ** 0.5).to(dtype).to(device)

    downs = random(adapters, rank, in_features, dtype=factor_dtype, fan=in_features)
    ups = random(adapters, out_features, rank, dtype=factor_dtype, fan=rank)
    ranks = None
    if mixed_ranks:
        ranks = torch.randint(0, rank + 1, (adapters,)) if rank else torch.zeros(adapters, dtype=torch.int64)
        ranks[:1] = rank
        for i, used in enumerate(ranks.tolist()):
            downs[i, used:], ups[i, :, used:] = hidden, hidden
    if index is None:
        index = torch.randint(-1, adapters, (rows,)).tolist()
    return IndexedCase(
        x=random(*leading, in_features),
        downs=downs,
        ups=ups,
        index=torch.tensor(index, dtype=index_dtype, device=device).reshape(leading),
        ranks=ranks if ranks is None else ranks.to(device),
        scales=random(adapters, dtype=factor_dtype) if scales else None,
        weight=random(out_features, in_features, fan=in_features) if weight else None,
        bias=random(out_features, dtype=factor_dtype) if bias else None,
        base=random(*leading, out_features) if base else None,
    )


def exact_indexed(x, downs, ups, index, ranks=None, scales=None, weight=None, bias=None, base=None):
    """The defining equation, one row after another; differentiable by torch."""
    xs, out = x.reshape(index.numel(), x.shape[-1]), ups.shape[1]
    bases = None if base is None else base.reshape(index.numel(), out)
    rows = []
    for t, i in enumerate(index.flatten().tolist()):
        y = torch.zeros(out, dtype=x.dtype)
        if weight is not None:
            y = y + weight @ xs[t]
        if bases is not None:
            y = y + bases[t]
        if bias is not None:
            y = y + bias
        if i >= 0:
            rank = downs.shape[1] if ranks is None else int(ranks[i])
            term = ups[i, :, :rank] @ (downs[i, :rank] @ xs[t])
            y = y + (term if scales is None else scales[i] * term)
        rows.append(y)
    stacked = torch.stack(rows) if rows else x.new_zeros(0, out) + 0 * xs.sum()
    return stacked.reshape(*x.shape[:-1], out)


def eager_indexed(x, downs, ups, index, ranks=None, scales=None, weight=None, bias=None, base=None):
    """What a user writes today, in the dtypes given: an adapter after another, added to its rows."""
    xs, out = x.reshape(index.numel(), x.shape[-1]), ups.shape[1]
    y = torch.zeros(index.numel(), out, dtype=x.dtype, device=x.device)
    if weight is not None:
        y = xs @ weight.mT
    if base is not None:
        y = base.reshape(index.numel(), out)
    if bias is not None:
        y = (y + bias).to(x.dtype)
    for i in range(downs.shape[0]):
        rank = downs.shape[1] if ranks is None else int(ranks[i])
        term = (xs.to(downs.dtype) @ downs[i, :rank].mT) @ ups[i, :, :rank].mT.to(downs.dtype)
        if scales is not None:
            term = scales[i] * term
        y = torch.where(index.reshape(-1, 1) == i, y + term.to(y.dtype), y)
    return y.reshape(*x.shape[:-1], out)
