"""The start of a PiSSA adapter beside PEFT's, verified and in turn.

    python bench/pissa.py [--quick]

`pissa` is PEFT's exact start and `niter_4` its fast one (four subspace iterations); both are timed with the wrapping of
a model of one layer, as ours is. The base weight is restored before every call, for PEFT replaces it by the residual.
What is compared is the distance of the weight from the adapter's product, over that of the best product: within 5 % of
it, or no time. The exact figures go to standard error.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import peft
import torch
from compare import contest
from torch import Tensor, nn

from lrkernels.adapters import PiSSA

COLUMNS = ["pissa", "niter_4"]


def falling(rows: int, cols: int) -> tuple[Tensor, Tensor]:
    """A weight whose singular values fall by a power, as those of trained layers do, and these values."""
    size = min(rows, cols)
    values = (1 + torch.arange(size)) ** -0.5
    u, v = (torch.linalg.qr(torch.randn(n, size))[0] for n in (rows, cols))
    return (u * values) @ v.mT, values


@dataclass(frozen=True)
class Start:
    rows: int
    cols: int
    rank: int

    @property
    def name(self) -> str:
        return f"PiSSA of {self.rows} x {self.cols}, r = {self.rank}, fp32"

    def hold(self, device: str, seconds: float) -> contest.Line:
        weight, values = falling(self.rows, self.cols)
        weight, best = weight.to(device), values[self.rank :].norm().reshape(1).to(device)
        linear = nn.Linear(self.cols, self.rows, bias=False, device=device)

        def ours() -> list[Tensor]:
            linear.weight.data = weight.clone()
            adapter = PiSSA.wrap(linear, r=self.rank).adapter
            return [adapter.up.detach() @ adapter.down.detach()]

        def theirs(kind: str) -> list[Tensor]:
            linear.weight.data = weight.clone()
            config = peft.LoraConfig(
                r=self.rank, lora_alpha=self.rank, init_lora_weights=kind, target_modules=["layer"]
            )
            layer = peft.get_peft_model(nn.ModuleDict({"layer": linear}), config).base_model.model["layer"]
            return [layer.lora_B["default"].weight.detach() @ layer.lora_A["default"].weight.detach()]

        def seen(results: list[Tensor]) -> list[Tensor]:
            error = torch.linalg.matrix_norm(weight - results[0]).reshape(1)
            print(f"{self.name}: {(error / best).item():.4f} of the best error", file=sys.stderr)
            return [error]

        return contest.hold(
            self.name,
            {"lrkernels": ours, "pissa": lambda: theirs("pissa"), "niter_4": lambda: theirs("pissa_niter_4")},
            [best],
            0.05,
            {},
            columns=COLUMNS,
            device=device,
            backward=False,
            seconds=seconds,
            seen=seen,
        )


def cases(quick: bool) -> list[contest.Case]:
    if quick:
        return [Start(60, 40, 4)]
    return [Start(1024, 1024, 16), Start(1024, 1024, 64), Start(2048, 2048, 64), Start(4096, 1024, 64)]


def main(words: list[str] | None = None) -> int:
    return contest.main(words, __doc__, COLUMNS, cases, results=contest.results_of(__file__), seconds=20.0)


if __name__ == "__main__":
    sys.exit(main())
