"""PEFT is optional, and nothing imports it before it is asked for."""

import sys

import pytest
from fresh_process import run
from torch import nn

import lrkernels


def test_import_lrkernels_imports_neither_peft_nor_transformers():
    loaded = "[name for name in ('peft', 'transformers', 'accelerate', 'safetensors') if name in sys.modules]"
    result = run(f"import sys, lrkernels; print({loaded})")
    assert (result.returncode, result.stdout.strip()) == (0, "[]"), result.stderr


def test_without_peft_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    for function in (lrkernels.accelerate, lrkernels.restore):
        message = f"{function.__name__}: PEFT is not installed: pip install 'lrkernels\\[peft\\]'"
        with pytest.raises(ImportError, match=message):
            function(nn.Linear(2, 2))
