"""The source text of Python's standard library: real data that every machine with Python has."""

from __future__ import annotations

import os
import sysconfig
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

# Never seen in the main training: the target of fine-tuning.
HELD_OUT_PACKAGE = "asyncio"
# Installed packages, tests, and tables of numbers rather than programs.
_EXCLUDED = {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test", "encodings", "pydoc_data"}


@dataclass(frozen=True)
class Text:
    """One body of text as uint8 tensors, split by file, so that no file is on both sides."""

    train: Tensor
    validation: Tensor
    train_files: int
    validation_files: int


@dataclass(frozen=True)
class Corpus:
    library: Text
    package: Text


def load_corpus(root: Path | None = None) -> Corpus:
    """The standard library without the held-out package, and the package.

    A file is for validation by the CRC of its path, one in ten of the library and one in four of the package, whatever
    machine this runs on. Raises RuntimeError when the sources are not there (a Python packed as .pyc or in a zip file).
    """
    root = Path(sysconfig.get_paths()["stdlib"]) if root is None else root
    files = sorted(_python_files(root))
    package = [f for f in files if f.parts[0] == HELD_OUT_PACKAGE]
    library = [f for f in files if f.parts[0] != HELD_OUT_PACKAGE]
    return Corpus(_text(root, library, one_in=10), _text(root, package, one_in=4))


def _python_files(root: Path) -> Iterator[Path]:
    """Relative paths of the sources below ``root``, without walking into what is excluded."""
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in _EXCLUDED]
        yield from (Path(folder, name).relative_to(root) for name in names if name.endswith(".py"))


def _text(root: Path, files: list[Path], one_in: int) -> Text:
    train = [f for f in files if zlib.crc32(f.as_posix().encode()) % one_in]
    validation = [f for f in files if not zlib.crc32(f.as_posix().encode()) % one_in]
    if not train or not validation:
        raise RuntimeError(f"lrkernels.demo: the Python sources of the standard library are not in {root}")
    return Text(_read(root, train), _read(root, validation), len(train), len(validation))


def _read(root: Path, files: list[Path]) -> Tensor:
    return torch.frombuffer(bytearray(b"\n".join((root / f).read_bytes() for f in files)), dtype=torch.uint8)


def sample_batch(text: Tensor, batch: int, context: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random windows and, one byte on, what each position has to predict: two int64 [batch, context]."""
    starts = torch.randint(len(text) - context, (batch,), generator=generator)
    return _windows(text, starts, context)


def validation_windows(text: Tensor, count: int, context: int) -> tuple[Tensor, Tensor]:
    """``count`` windows spread evenly over the text, the same at every call."""
    return _windows(text, torch.linspace(0, len(text) - context - 1, count).long(), context)


def _windows(text: Tensor, starts: Tensor, context: int) -> tuple[Tensor, Tensor]:
    windows = text[starts[:, None] + torch.arange(context + 1)].long()
    return windows[:, :-1], windows[:, 1:]
