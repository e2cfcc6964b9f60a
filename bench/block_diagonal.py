"""OFT's rotation of x: block_diagonal_apply beside what people write today, verified and in turn.

    python bench/block_diagonal.py [--device cuda] [--quick]

`einsum` is PEFT's expression in x's dtype, with the matrices in it too; `upcast` is what PEFT does beside float32
weights: x to float32, the expression, and back (of float32 x they are one). `compile` is `upcast` under torch.compile.
`clone` copies x, a forward pass's floor (forward and backward: three copies, x to y, y and its gradient to dx).
Matrices are float32 rotations, one a block.
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
    block: int
    dtype: str
    backward: bool = False

    @property
    def name(self) -> str:
        passes = "forward+backward" if self.backward else "forward"
        return f"{passes}, {self.rows} rows of {self.features}, blocks of {self.block}, {self.dtype}"


def cases(quick: bool) -> list[Case]:
    if quick:
        return [Case(8, 32, 8, "bf16"), Case(9, 40, 5, "fp32", backward=True)]
    shapes = ((1, 4096, 32), (1024, 4096, 32), (1024, 4096, 64), (1024, 4096, 128), (1024, 4096, 256), (1024, 4096, 8))
    return [Case(*shape, dtype, b) for dtype in ("fp32", "bf16") for b in (False, True) for shape in shapes]


def einsum(x: Tensor, blocks: Tensor) -> Tensor:
    y = torch.einsum("...rk,rkc->...rc", x.unflatten(-1, (-1, blocks.shape[-1])), blocks.to(x.dtype))
    return y.flatten(-2)


def upcast(x: Tensor, blocks: Tensor) -> Tensor:
    return einsum(x.to(blocks.dtype), blocks).to(x.dtype)


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--quick", action="store_true", help="tiny shapes, and no torch.compile")
    parser.add_argument("--seconds", type=float, default=3.0, help="at most, a case")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    arguments = parser.parse_args(words)
    seconds, failed = 0.05 if arguments.quick else arguments.seconds, False
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print("| case | lrkernels µs | × clone | vs einsum | vs upcast | vs compile |\n|---|---:|---:|---:|---:|---:|")
    for case in cases(arguments.quick):
        if arguments.only not in case.name:
            continue
        torch.manual_seed(0)
        dtype, count = DTYPES[case.dtype], case.features // case.block
        x = torch.randn(case.rows, case.features).to(arguments.device, dtype).requires_grad_(case.backward)
        skew = torch.randn(count, case.block * (case.block - 1) // 2) / case.block
        blocks = reference.cayley(skew, case.block).to(arguments.device).requires_grad_(case.backward)
        grad = torch.randn(case.rows, case.features).to(arguments.device, dtype)
        functions = {"lrkernels": lrkernels.block_diagonal_apply, "einsum": einsum}
        if case.dtype != "fp32":
            functions["upcast"] = upcast
        if not arguments.quick:
            functions["compile"] = torch.compile(upcast, dynamic=False)

        def results(function, x=x, blocks=blocks, grad=grad, backward=case.backward) -> list[Tensor]:
            y = function(x, blocks)
            return [y, *torch.autograd.grad(y, (x, blocks), grad)] if backward else [y]

        wide = [t.detach().double().requires_grad_(case.backward) for t in (x, blocks)]
        exact = results(reference.block_diagonal_apply, *wide, grad.double())
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
            f"{faster[name]:.2f}×" if name in faster else "–" for name in ("einsum", "upcast", "compile")
        )
        print(f"| {case.name} | {median:,.0f} | {1 / faster['clone']:.2f} | {ratios} |", flush=True)
    return int(failed)


def sampler_of(step, device: str, backward: bool):
    return measure.cuda_sampler([step], backward) if device == "cuda" else measure.cpu_sampler(step, backward)


if __name__ == "__main__":
    sys.exit(main())
