"""The two files of a PEFT checkpoint: read whole before anything is done with them, written whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from torch import Tensor

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_PICKLE = "adapter_model.bin"


def _safetensors(caller: str):
    try:
        import safetensors
        import safetensors.torch
    except ModuleNotFoundError as error:
        if error.name != "safetensors":
            raise
        message = f"{caller}: safetensors is not installed: pip install 'lrkernels[interop]'"
        raise ImportError(message, name="safetensors") from error
    return safetensors


def read_config(folder: Path) -> Any:
    """The JSON of the config. Raises FileNotFoundError, or ValueError when it is none."""
    if not folder.is_dir():
        raise FileNotFoundError(f"load_adapter: {folder} is no folder")
    file = folder / CONFIG
    if not file.is_file():
        raise FileNotFoundError(f"load_adapter: {folder} holds no {CONFIG}")
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise ValueError(f"load_adapter: {file} is not JSON: {error}") from error


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """The tensors, on the CPU. Raises FileNotFoundError, or ValueError when the file is no whole safetensors file."""
    safetensors = _safetensors("load_adapter")
    file = folder / WEIGHTS
    if not file.is_file():
        if (folder / _PICKLE).is_file():
            raise ValueError(
                f"load_adapter: {folder / _PICKLE} is a pickle, which may run any code when it is loaded; "
                f"if you trust it, have PEFT load it and save {WEIGHTS}"
            )
        raise FileNotFoundError(f"load_adapter: {folder} holds no {WEIGHTS}")
    try:
        return safetensors.torch.load_file(file)
    except safetensors.SafetensorError as error:
        raise ValueError(f"load_adapter: {file} is damaged or no safetensors file: {error}") from error


def write(folder: Path, config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write both files beside the old ones and move them there when both are whole; on an error nothing is left."""
    safetensors = _safetensors("save_adapter")
    existed = folder.is_dir()
    folder.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".saving-", dir=folder))
    try:
        safetensors.torch.save_file(tensors, staging / WEIGHTS, metadata={"format": "pt"})
        (staging / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")
        for name in (WEIGHTS, CONFIG):
            os.replace(staging / name, folder / name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        if not existed and not any(folder.iterdir()):
            folder.rmdir()
