"""The Python of docs/orthogonal.md runs, in order, in one namespace, and does what the page says."""

import pytest
import torch
from test_readme import ROOT, blocks

PAGE = ROOT / "docs" / "orthogonal.md"


def test_orthogonal_examples():
    examples = blocks("python", PAGE)
    assert len(examples) >= 15
    names = {}
    results = []
    for example in examples:
        assert example.count("\n") <= 9, "an example is short"
        exec(compile(example, str(PAGE), "exec"), names)
        results.append(dict(names))
    every = {name: [r[name] for r in results if name in r] for name in names}
    x = names["x"]
    torch.testing.assert_close(every["back"][0], x)  # Givens
    torch.testing.assert_close(every["back"][-1], x)  # OrthogonalLinear
    assert all(y.shape[0] == 32 for y in every["y"])
    assert every["error"][0] < 5e-6 and every["bound"][0] == 0
    first = torch.zeros(64)
    first[0] = x[0].norm()
    torch.testing.assert_close(names["first"], first)
    torch.testing.assert_close(names["again"], x[0])
    assert names["stretch"].max() <= 1 + 1e-5
    torch.testing.assert_close(names["q"] @ names["q"].T, torch.eye(64))
    assert names["report"].frozen and len(names["report"]) == 2
    assert names["penalty"].item() > 0
    names["handle"].remove()


def test_the_page_names_every_module_and_adapter_of_its_table():
    if not PAGE.exists():
        pytest.skip("the tests run outside the source tree")
    import lrkernels.adapters
    import lrkernels.nn

    rows = [line.split("|") for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    modules, adapters = ([row[column].strip(" `") for row in rows] for column in (1, 2))
    assert len(rows) == 6
    for module, adapter in zip(modules, adapters, strict=True):
        assert issubclass(getattr(lrkernels.nn, module), torch.nn.Module)
        assert issubclass(getattr(lrkernels.adapters, adapter), lrkernels.adapters.Adapter)
