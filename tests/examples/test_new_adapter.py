"""examples/new_adapter.py does what it says, and its adapter is as short as the kit promises."""

import importlib.util
import inspect
import sys
from pathlib import Path

import pytest
import torch

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "new_adapter.py"


@pytest.fixture
def example(monkeypatch):
    if not EXAMPLE.exists():
        pytest.skip("the tests run outside the source tree")
    spec = importlib.util.spec_from_file_location("new_adapter", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "new_adapter", module)  # where pickle finds its class
    spec.loader.exec_module(module)
    return module


def test_it_checks_trains_and_merges(example, capsys):
    losses = example.main()
    printed = capsys.readouterr().out
    assert losses[-1] < 0.9 * losses[0]
    assert "neutral: " in printed and "replaced 2 modules" in printed and f"-> {losses[-1]:.3f} in 100 steps" in printed
    assert float(printed.split()[-1]) < 1e-5


def test_the_adapter_is_its_equation_in_thirty_lines(example):
    assert len(inspect.getsource(example.MiSS).splitlines()) <= 30
    layer, x = example.MiSS.wrap(torch.nn.Linear(12, 10), r=4), torch.randn(5, 12)
    torch.nn.init.normal_(layer.adapter.up)
    pieces = x[:, 0:4] + x[:, 4:8] + x[:, 8:12]
    torch.testing.assert_close(layer(x), layer.base_layer(x) + pieces @ layer.adapter.up.T)
    with pytest.raises(ValueError, match="r is 5, expected a divisor of in_features = 12"):
        example.MiSS.wrap(torch.nn.Linear(12, 10), r=5)
