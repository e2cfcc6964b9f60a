"""Givens rounds: givens_apply beside what people write today, verified and in turn.

    python bench/givens.py [--device cuda] [--quick]

`gather` is lrkernels.reference.givens_apply, which selects and puts back the columns of every round. `views` needs
features that are a power of two: pairs as a dimension of their own, two products and a concatenation a round; `compile`
is `views` under torch.compile. `clone` copies x, a forward pass's floor (forward and backward: three copies, x to y,
y and its gradient to dx). A butterfly: strides 1, 2, 4, …, and float32 angles.
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
from lrkernels import reference


@dataclass(frozen=True)
class Case:
    rows: int
    features: int
    dtype: str
    backward: bool = False

    @property
    def strides(self) -> list[int]:
        return [1 << k for k in range((self.features - 1).bit_length())]

    @property
    def name(self) -> str:
        passes = "forward+backward" if self.backward else "forward"
        return f"{passes}, {self.rows} rows of {self.features}, {len(self.strides)} rounds, {self.dtype}"


def cases(quick: bool) -> list[Case]:
    if quick:
        return [Case(8, 32, "bf16"), Case(9, 40, "fp32", backward=True)]
    shapes = ((1, 4096), (1024, 4096), (1024, 3072), (8192, 1024))
    return [Case(*shape, dtype, b) for dtype in ("fp32", "bf16") for b in (False, True) for shape in shapes]


def views(x: Tensor, angles: Tensor, strides: list[int]) -> Tensor:
    y = x.to(angles.dtype)
    for angle, stride in zip(angles, strides, strict=True):
        first, second = y.unflatten(-1, (-1, 2, stride)).unbind(-2)
        cos, sin = angle.cos().view(-1, stride), angle.sin().view(-1, stride)
        y = torch.stack([cos * first - sin * second, sin * first + cos * second], -2).flatten(-3)
    return y.to(x.dtype)


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--quick", action="store_true", help="tiny shapes, and no torch.compile")
    parser.add_argument("--seconds", type=float, default=3.0, help="at most, a case")
    arguments = parser.parse_args(words)
    seconds, failed = 0.05 if arguments.quick else arguments.seconds, False
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print("| case | lrkernels µs | × clone | vs gather | vs views | vs compile |\n|---|---:|---:|---:|---:|---:|")
    for case in cases(arguments.quick):
        torch.manual_seed(0)
        dtype, strides = DTYPES[case.dtype], case.strides
        x = torch.randn(case.rows, case.features).to(arguments.device, dtype).requires_grad_(case.backward)
        angles = torch.randn(len(strides), case.features // 2).to(arguments.device).requires_grad_(case.backward)
        grad = torch.randn(case.rows, case.features).to(arguments.device, dtype)
        functions = {"lrkernels": lrkernels.givens_apply, "gather": reference.givens_apply}
        if case.features == 1 << len(strides):
            functions["views"] = views
            if not arguments.quick:
                functions["compile"] = torch.compile(views, dynamic=False)

        def results(function, x=x, angles=angles, grad=grad, strides=strides, backward=case.backward) -> list[Tensor]:
            y = function(x, angles, strides)
            return [y, *torch.autograd.grad(y, (x, angles), grad)] if backward else [y]

        wide = [t.detach().double().requires_grad_(case.backward) for t in (x, angles)]
        exact = results(reference.givens_apply, *wide, grad.double())
        samplers = {}
        for name, function in functions.items():
            worst = max(map(relative_error, results(function), exact))
            if not worst <= TOLERANCE[case.dtype]:
                print(f"{case.name}: {name} is off by {worst:.2g} of the norm", file=sys.stderr)
                failed = True
                continue
            samplers[name] = sampler_of(lambda f=function, r=results: r(f), arguments.device, case.backward)
        if "lrkernels" not in samplers:
            continue
        copies = 3 if case.backward else 1
        source = x.detach()
        samplers["clone"] = sampler_of(
            lambda s=source, n=copies: [s.clone() for _ in range(n)], arguments.device, False
        )
        samples = measure.alternate(samplers, seconds)
        median = measure.summarize(samples["lrkernels"]).median_us
        faster = {name: measure.times_faster(samples["lrkernels"], samples[name]) for name in samples}
        ratios = " | ".join(
            f"{faster[name]:.2f}×" if name in faster else "–" for name in ("gather", "views", "compile")
        )
        print(f"| {case.name} | {median:,.0f} | {1 / faster['clone']:.2f} | {ratios} |", flush=True)
    return int(failed)


def sampler_of(step, device: str, backward: bool):
    return measure.cuda_sampler([step], backward) if device == "cuda" else measure.cpu_sampler(step, backward)


if __name__ == "__main__":
    sys.exit(main())
