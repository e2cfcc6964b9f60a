"""Inputs, the independent float64 answer and the accuracy rule of the low-rank tests."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from philox import philox_mask

HALF = (torch.bfloat16, torch.float16)


@dataclass
class Case:
    """The tensors and scalars of one lowrank_linear call."""

    x: torch.Tensor
    down: torch.Tensor
    up: torch.Tensor
    weight: torch.Tensor | None = None
    bias: torch.Tensor | None = None
    core: torch.Tensor | None = None
    gate: torch.Tensor | None = None
    base: torch.Tensor | None = None
    seed: torch.Tensor | None = None
    scale: float = 1.0
    dropout: float = 0.0

    TENSORS = ("x", "down", "up", "weight", "bias", "core", "gate", "base", "seed")

    @property
    def tensors(self) -> tuple:
        return tuple(getattr(self, name) for name in self.TENSORS)

    @property
    def scalars(self) -> dict:
        return {"scale": self.scale, "dropout": self.dropout}

    def call(self, op) -> torch.Tensor:
        return op(*self.tensors, **self.scalars)

    def differentiable(self) -> Case:
        """The same values as leaves that require gradients, layouts kept."""
        leaves = {}
        for name in self.TENSORS:
            tensor = getattr(self, name)
            if tensor is not None and tensor.is_floating_point():
                tensor = tensor.detach().requires_grad_()
            leaves[name] = tensor
        return Case(**leaves, **self.scalars)

    def wide(self) -> Case:
        """The same values in float64 on the CPU."""
        tensors = {}
        for name in self.TENSORS:
            tensor = getattr(self, name)
            if tensor is not None and tensor.is_floating_point():
                tensor = tensor.detach().cpu().double()
            tensors[name] = tensor
        return Case(**tensors, **self.scalars)

    def with_factors(self, dtype: torch.dtype) -> Case:
        """The same case with factors, core, gate and bias rounded to ``dtype``."""
        rounded = {
            n: t.to(dtype) for n in ("down", "up", "core", "gate", "bias") if (t := getattr(self, n)) is not None
        }
        return replace(self, **rounded)

    def gradients(self, op, grad: torch.Tensor) -> dict[str, torch.Tensor]:
        case = self.differentiable()
        leaves = {n: t for n in self.TENSORS if (t := getattr(case, n)) is not None and t.requires_grad}
        y = case.call(op)
        grads = torch.autograd.grad(y, list(leaves.values()), grad.to(y.dtype).to(y.device))
        return dict(zip(leaves, grads, strict=True))


def make_case(
    device: torch.device,
    dtype: torch.dtype,
    leading: tuple[int, ...] = (7,),
    in_features: int = 33,
    out_features: int = 18,
    rank: int = 5,
    *,
    weight: bool = True,
    bias: bool = True,
    core: bool = False,
    gate: str | None = None,
    base: bool = False,
    scale: float = 0.5,
    dropout: float = 0.0,
    factor_dtype: torch.dtype | None = None,
) -> Case:
    factor_dtype = factor_dtype or dtype

    def random(*shape, dtype=dtype, fan=1):
        return (torch.randn(*shape, dtype=torch.float64) / max(fan, 1) ** 0.5).to(dtype).to(device)

    gates = {"one": (1,), "rank": (rank,), "token": (*leading, rank)}
    return Case(
        x=random(*leading, in_features),
        down=random(rank, in_features, dtype=factor_dtype, fan=in_features),
        up=random(out_features, rank, dtype=factor_dtype, fan=rank),
        weight=random(out_features, in_features, fan=in_features) if weight else None,
        bias=random(out_features, dtype=factor_dtype) if bias else None,
        core=random(rank, rank, dtype=factor_dtype, fan=rank) if core else None,
        gate=random(*gates[gate], dtype=factor_dtype) if gate else None,
        base=random(*leading, out_features) if base else None,
        seed=torch.tensor(1234567890123, device=device) if dropout else None,
        scale=scale,
        dropout=dropout,
    )


def exact_linear(x, down, up, weight=None, bias=None, core=None, gate=None, base=None, seed=None, *, scale, dropout):
    """The defining equation, written with einsum in the dtype of its inputs; differentiable by torch."""
    dropped = x
    if dropout:
        mask = torch.from_numpy(philox_mask(int(seed), x.numel(), dropout)).reshape(x.shape).to(x.dtype)
        dropped = x * mask
    s = torch.einsum("...i,ri->...r", dropped, down)
    if gate is not None:
        s = gate * s
    if core is not None:
        s = torch.einsum("...r,qr->...q", s, core)
    y = scale * torch.einsum("...r,or->...o", s, up)
    if weight is not None:
        y = y + torch.einsum("...i,oi->...o", x, weight)
    if base is not None:
        y = y + base
    return y if bias is None else y + bias


def eager_linear(x, down, up, weight=None, bias=None, core=None, gate=None, base=None, seed=None, *, scale, dropout):
    """What a user writes today, in the dtypes given: the yardstick of the accuracy promise."""
    dropped = x.to(down.dtype)
    if dropout:
        mask = torch.from_numpy(philox_mask(int(seed), x.numel(), dropout)).reshape(x.shape).to(dropped)
        dropped = dropped * mask
    s = dropped @ down.mT
    if gate is not None:
        s = s * gate
    if core is not None:
        s = s @ core.mT
    y = scale * (s @ up.mT)
    if weight is not None:
        y = x @ weight.mT + y
    if base is not None:
        y = base + y
    return (y if bias is None else y + bias).to(x.dtype)


def assert_accurate(ours, eager, exact, what="") -> None:
    """error(ours) <= 2 * error(plain torch, same dtype) + slack: a few roundings of the largest value."""
    dtype = ours.dtype
    ours, eager, exact = (t.detach().cpu().double() for t in (ours.clone(), eager.clone(), exact))
    assert ours.shape == exact.shape, f"{what}: shape {tuple(ours.shape)}, expected {tuple(exact.shape)}"
    if exact.numel() == 0:
        return
    error, allowed = (ours - exact).abs().max(), 2 * (eager - exact).abs().max()
    assert torch.isfinite(error), f"{what}: not finite"
    assert error <= allowed + slack(exact, dtype), f"{what}: error {error:.3g}, plain torch {allowed / 2:.3g}"


ROUNDING = {torch.float64: 2.0**-52, torch.float32: 2.0**-23, torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7}


def slack(exact: torch.Tensor, dtype: torch.dtype) -> float:
    """Four float32 roundings of the largest value. In float64, where the exact answer is itself rounded, sixteen of its
    own."""
    roundings = 16 * ROUNDING[dtype] if dtype == torch.float64 else 4 * ROUNDING[torch.float32]
    return roundings * float(exact.abs().max())
