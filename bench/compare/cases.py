"""What is measured: shapes that users meet, with those the project has targets for."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp64": torch.float64}


@dataclass(frozen=True)
class Case:
    """x is [m, k], weight [n, k], down [rank, k], up [n, rank]; the weight is frozen, x and the factors are not."""

    group: str  # "training", "decode", "pure", "dropout", "overhead"
    m: int
    k: int
    n: int
    rank: int
    dtype: str
    backward: bool = False
    dropout: float = 0.0
    pure: bool = False  # no weight: y = scale (x downT) upT

    @property
    def name(self) -> str:
        passes = "forward+backward" if self.backward else "forward"
        extra = f" dropout {self.dropout:g}" if self.dropout else ""
        kind = "low-rank only" if self.pure else "linear + low-rank"
        return f"{kind}, {passes}, M={self.m} {self.k}→{self.n} r={self.rank} {self.dtype}{extra}"

    @property
    def torch_dtype(self) -> torch.dtype:
        return DTYPES[self.dtype]

    def to_dict(self) -> dict:
        return {**asdict(self), "name": self.name}


GROUPS = ("training", "decode", "pure", "dropout", "overhead")


def cases(device: str, quick: bool = False, only: tuple[str, ...] = ()) -> list[Case]:
    """The cases of a device; ``only`` keeps groups by name."""
    if quick:
        found = _tiny()
    elif device == "cuda":
        found = _cuda()
    else:
        found = _cpu()
    return [case for case in found if not only or case.group in only]


def _tiny() -> list[Case]:
    """Every group once, small: to see that the machinery works."""
    return [
        Case("training", 64, 64, 96, 4, "fp32", backward=True),
        Case("training", 64, 64, 96, 4, "bf16"),
        Case("decode", 1, 128, 64, 4, "bf16"),
        Case("pure", 64, 96, 64, 8, "fp32", backward=True, pure=True),
        Case("dropout", 64, 64, 64, 4, "fp32", dropout=0.1),
        Case("overhead", 8, 64, 64, 4, "fp32"),
    ]


def _cpu() -> list[Case]:
    found = []
    for dtype in ("fp32", "bf16"):
        for m, size, rank in ((512, 1024, 16), (2048, 2048, 64)):
            found += [Case("training", m, size, size, rank, dtype, backward) for backward in (True, False)]
        found += [Case("training", 128, 4096, 1024, 16, dtype)]
        found += [Case("decode", m, 4096, 4096, 16, dtype) for m in (1, 8, 16)]
        found += [Case("pure", 512, 1024, 1024, 64, dtype, backward, pure=True) for backward in (True, False)]
        found += [Case("pure", 1, 4096, 4096, 256, dtype, pure=True)]
        found += [Case("dropout", 512, 1024, 1024, 16, dtype, backward, dropout=0.1) for backward in (True, False)]
    return [*found, Case("overhead", 8, 64, 64, 4, "fp32")]


def _cuda() -> list[Case]:
    found = []
    for dtype in ("bf16", "fp32"):
        for m, size, rank in ((512, 1024, 16), (2048, 2048, 64)):
            found += [Case("training", m, size, size, rank, dtype, backward) for backward in (True, False)]
    for rank in (16, 64, 128):
        found += [Case("training", 8192, 4096, 4096, rank, "bf16", backward) for backward in (True, False)]
    found += [Case("training", 8192, 4096, 1024, 16, "bf16", backward) for backward in (True, False)]
    found += [Case("decode", m, 4096, n, 16, "bf16") for n in (4096, 1024) for m in (1, 8, 16)]
    found += [Case("pure", 8192, 4096, 4096, rank, "bf16", pure=True) for rank in (64, 256)]
    found += [Case("pure", 8192, 4096, 4096, 64, "bf16", backward=True, pure=True)]
    found += [Case("pure", 1, 4096, 4096, 256, "bf16", pure=True)]
    found += [Case("dropout", 8192, 4096, 4096, 16, "bf16", backward, dropout=0.1) for backward in (True, False)]
    return [*found, Case("overhead", 8, 64, 64, 4, "fp32")]
