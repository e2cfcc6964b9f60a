"""Several adapters in one batch: lowrank_linear_indexed beside what people write today, verified and in turn.

    python bench/indexed.py [--device cuda] [--quick]

`loop`: an adapter after another, its rows selected, its term added back (PEFT's `adapter_names`). `bmm`: every row's
factors gathered, two batched products. All are given the base layer's output, the same for everybody.

Floor: x, base, y and the factors of the adapters in use move once; the last column is ours over those bytes at the
bandwidth that a copy of 256 MB reaches in this run (small cases fit a cache and can be faster).
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass

import torch
from compare import measure
from compare.cases import DTYPES
from compare.verify import TOLERANCE, relative_error
from torch import Tensor

import lrkernels


@dataclass(frozen=True)
class Case:
    rows: int
    adapters: int  # that exist
    used: int  # that rows of the batch name, about equally
    rank: int
    dtype: str
    features: int = 4096
    run: int = 1  # neighbouring rows that share an adapter: the tokens of a prompt
    backward: bool = False

    @property
    def name(self) -> str:
        passes = "forward+backward" if self.backward else "forward"
        return (
            f"{passes}, {self.rows} rows in runs of {self.run}, {self.used} of {self.adapters} adapters, "
            f"{self.features}→{self.features} r={self.rank} {self.dtype}"
        )

    @property
    def floor_bytes(self) -> int:
        """Of the forward pass."""
        size = DTYPES[self.dtype].itemsize
        return size * (3 * self.rows * self.features + min(self.used, self.rows) * 2 * self.rank * self.features)


def cases(quick: bool) -> list[Case]:
    if quick:
        return [Case(8, 4, 3, 4, "bf16", 64), Case(33, 4, 2, 4, "fp32", 64, run=8, backward=True)]
    found = []
    for dtype in ("fp32", "bf16"):
        found += [Case(rows, 64, rows, 16, dtype) for rows in (1, 8, 64)]
        found += [Case(64, 64, 8, 64, dtype)]
        found += [Case(512, 8, 8, rank, dtype, 1024, run=64, backward=b) for rank in (16, 64) for b in (False, True)]
        found += [Case(2048, 32, 32, 16, dtype, 1024, run=16, backward=b) for b in (False, True)]
    return found


@dataclass
class Inputs:
    x: Tensor
    downs: Tensor
    ups: Tensor
    index: Tensor
    scales: Tensor
    base: Tensor
    grad: Tensor

    @property
    def trained(self) -> tuple[Tensor, ...]:
        return (self.x, self.downs, self.ups)


def make_inputs(case: Case, device: str) -> Inputs:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(shape, generator=generator) * scale).to(device, DTYPES[case.dtype])

    runs = -(-case.rows // case.run)
    chosen = torch.randperm(case.adapters, generator=generator)[: case.used]
    order = torch.arange(runs)[torch.randperm(runs, generator=generator)] % case.used
    return Inputs(
        normal(case.rows, case.features).requires_grad_(case.backward),
        normal(case.adapters, case.rank, case.features, scale=case.features**-0.5).requires_grad_(case.backward),
        normal(case.adapters, case.features, case.rank, scale=case.rank**-0.5).requires_grad_(case.backward),
        chosen[order].repeat_interleave(case.run)[: case.rows].to(device),
        torch.linspace(0.5, 2.0, case.adapters).to(device, DTYPES[case.dtype]),
        normal(case.rows, case.features),
        normal(case.rows, case.features),
    )


def ours(i: Inputs) -> Tensor:
    return lrkernels.lowrank_linear_indexed(i.x, i.downs, i.ups, i.index, None, i.scales, base=i.base)


def loop(i: Inputs) -> Tensor:
    y = i.base.clone()
    for adapter in i.index.unique().tolist():
        rows = (i.index == adapter).nonzero()[:, 0]
        term = i.x.index_select(0, rows) @ i.downs[adapter].mT @ i.ups[adapter].mT
        y = y.index_add(0, rows, i.scales[adapter] * term)
    return y


def bmm(i: Inputs) -> Tensor:
    s = torch.bmm(i.downs[i.index], i.x.unsqueeze(2))
    return i.base + i.scales[i.index, None] * torch.bmm(i.ups[i.index], s).squeeze(2)


def results(function, i: Inputs, backward: bool) -> list[Tensor]:
    y = function(i)
    return [y, *torch.autograd.grad(y, i.trained, i.grad)] if backward else [y]


def wide(i: Inputs) -> Inputs:
    return Inputs(*(
        t.detach().double().requires_grad_(t.requires_grad) if t.is_floating_point() else t for t in vars(i).values()
    ))  # fmt: skip


def copy_bytes_per_us(device: str) -> float:
    """Read and written, of a copy too large for a cache."""
    source = torch.empty(128 << 20, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    if device == "cuda":
        sampler = measure.cuda_sampler([lambda: target.copy_(source)], False)
    else:
        sampler = measure.cpu_sampler(lambda: target.copy_(source), False)
    return 2 * source.numel() / min(sampler() for _ in range(5))


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--quick", action="store_true", help="tiny shapes, to see that everything works")
    parser.add_argument("--seconds", type=float, default=3.0, help="at most, a case")
    arguments = parser.parse_args(words)
    seconds, failed = 0.05 if arguments.quick else arguments.seconds, False
    bandwidth = copy_bytes_per_us(arguments.device)
    print(f"copy: {bandwidth / 1e3:.1f} GB/s, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print("| case | lrkernels µs | vs loop | vs bmm | × floor |\n|---|---:|---:|---:|---:|")
    for case in cases(arguments.quick):
        inputs = make_inputs(case, arguments.device)
        contenders = {"ours": ours, "loop": loop, "bmm": bmm}
        if arguments.device == "cuda":
            del contenders["loop"]  # which rows an adapter has is known to the host only after a wait: no CUDA graph
        if case.rows * case.rank * case.features * DTYPES[case.dtype].itemsize > 1 << 30:
            del contenders["bmm"]  # the gathered factors alone
        exact = results(loop, wide(inputs), case.backward)
        samplers = {}
        for name, function in contenders.items():
            worst = max(map(relative_error, results(function, inputs, case.backward), exact))
            if not worst <= TOLERANCE[case.dtype]:
                print(f"{case.name}: {name} is off by {worst:.2g} of the norm", file=sys.stderr)
                failed = True
                continue

            def step(function=function, inputs=inputs, backward=case.backward) -> object:
                return results(function, inputs, backward)

            if arguments.device == "cuda":
                samplers[name] = measure.cuda_sampler([step], case.backward)
            else:
                samplers[name] = measure.cpu_sampler(step, case.backward)
        if "ours" not in samplers:
            continue
        samples = measure.alternate(samplers, seconds)
        median = measure.summarize(samples["ours"]).median_us
        against = {name: measure.times_faster(samples["ours"], samples[name]) for name in samples if name != "ours"}
        ratios = " | ".join(f"{against[name]:.2f}×" if name in against else "–" for name in ("loop", "bmm"))
        floor = "–" if case.backward else f"{median / (case.floor_bytes / bandwidth):.2f}"
        print(f"| {case.name} | {median:,.0f} | {ratios} | {floor} |", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
