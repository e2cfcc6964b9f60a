"""A new adapter: written, checked, put into a model, trained and merged. Runs in seconds on a CPU.

python examples/new_adapter.py
"""

from __future__ import annotations

import argparse
from functools import partial

import torch
from torch import Tensor, nn

from lrkernels import lowrank_expand, replace_linear
from lrkernels.adapters import Adapter, adapted_layers
from lrkernels.testing import check_adapter


class MiSS(Adapter):
    """y = base(x) + (Σ_g x_g)·upᵀ, where x is cut into pieces x_g of length r: one factor, shared by all pieces.

    Kang and Yin, "MiSS: revisiting the trade-off in LoRA with an efficient shard-sharing structure", 2024.
    """

    def __init__(self, base_layer: nn.Linear, r: int) -> None:
        super().__init__(base_layer)
        if self.in_features % r:
            raise ValueError(f"MiSS: r is {r}, expected a divisor of in_features = {self.in_features}")
        self.r = r
        self.up = self.parameter(self.out_features, r)

    def reset_parameters(self, base_layer: nn.Linear) -> None:
        nn.init.zeros_(self.up)

    def forward(self, x: Tensor, base) -> Tensor:
        pieces = x.unflatten(-1, (-1, self.r)).sum(-2)
        return lowrank_expand(pieces, self.up, base=base.output)

    def delta(self) -> Tensor:
        return self.up.repeat(1, self.in_features // self.r)


def main(steps: int = 100) -> list[float]:
    print("checks")
    for name, finding in check_adapter(MiSS, r=4).items():
        print(f"  {name}: {finding}")

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 8))
    x, target = torch.randn(256, 32), torch.randn(256, 8)
    print(replace_linear(model, partial(MiSS.wrap, r=8), target_modules="all-linear"))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(steps):
        loss = (model(x) - target).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f} in {steps} steps")

    y = model(x)
    for layer in adapted_layers(model):
        layer.merge()
    print(f"merged, the output differs by up to {(model(x) - y).abs().max():.1e}")
    return losses


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    main()
