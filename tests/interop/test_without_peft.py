"""PEFT is optional, and nothing imports it before it is asked for."""

from fresh_process import run

HIDE_PEFT = "import sys; sys.modules['peft'] = None; import torch, lrkernels\n"


def test_import_lrkernels_imports_neither_peft_nor_transformers():
    loaded = "[name for name in ('peft', 'transformers', 'accelerate', 'safetensors') if name in sys.modules]"
    result = run(f"import sys, lrkernels; print({loaded})")
    assert (result.returncode, result.stdout.strip()) == (0, "[]"), result.stderr


def test_without_peft_the_error_names_the_extra():
    for function in ("accelerate", "restore"):
        result = run(HIDE_PEFT + f"lrkernels.{function}(torch.nn.Linear(2, 2))")
        expected = f"ImportError: {function}: PEFT is not installed: pip install 'lrkernels[peft]'"
        assert result.stderr.strip().splitlines()[-1] == expected
