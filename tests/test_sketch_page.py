"""The Python of docs/sketch.md runs, in order, in one namespace, and does what the page says."""

import pytest
import torch
from test_readme import ROOT, blocks

PAGE = ROOT / "docs" / "sketch.md"


def test_sketch_examples():
    examples = blocks("python", PAGE)
    assert len(examples) >= 9
    names, results = {}, []
    for example in examples:
        assert example.count("\n") <= 9, "an example is short"
        exec(compile(example, str(PAGE), "exec"), names)
        results.append(dict(names))
    norm = torch.linalg.matrix_norm(names["a"], 2)
    assert 0.005 < names["error"] < 0.03 and torch.linalg.matrix_rank(names["product"]) == 50
    assert names["sigma"] <= norm * (1 + 1e-6) and norm <= names["bound"] < 1.02 * norm
    assert names["errors"][0] < names["errors"][1], "a warm start is worth a power step"

    x, linear = names["x"], next(r["model"][0] for r in results if "plain" in r)
    errors = [(names[kind](x) - linear(x)).norm() for kind in ("plain", "by_outputs", "by_mean")]
    assert errors[1] < errors[0] and errors[2] < 1.01 * errors[1]
    compressed = next(r for r in results if "report" in r)
    assert compressed["ranks"].keys() == {"0", "2"} and 0 < compressed["change"] < 0.7
    assert compressed["report"].parameters_after <= 12_000 + 256 + 32
    moment = names["seen"].moment.float()
    lost, left = (names["linear"].weight - names[kind].weight for kind in ("coarse", "repaired"))
    assert (left @ moment @ left.T).trace() < 0.5 * (lost @ moment @ lost.T).trace()

    eva = next(r for r in results if "eva_" in r and isinstance(r["ranks"]["0"], int) and r["ranks"]["0"] <= 16)
    assert sum(eva["ranks"].values()) == 16
    torch.testing.assert_close(names["after"], names["before"])
    assert all(p.grad.isfinite().all() and p.grad.any() for p in names["sketched"].parameters())
    assert 1 < names["stable"] < names["effective"] and names["rank"] == 50
    assert names["intruders"].indices.tolist() == [0] and names["alpha"] > 1
    assert 1 < names["used"].hard_rank < names["used"].soft_rank < 64


def test_the_page_names_what_there_is():
    if not PAGE.exists():
        pytest.skip("the tests run outside the source tree")
    import lrkernels
    import lrkernels.adapters
    import lrkernels.compress

    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in PAGE.read_text().splitlines() if "|" in line]
    ops = [row[1] for row in rows if len(row) == 3 and "(a" in row[1]]
    named = {part.strip(" `").split("(")[0] for cell in ops for part in cell.split("`, `")}
    assert len(named) == 10 and all(callable(getattr(lrkernels, name)) for name in named)
    recipes = [row[0] for row in rows if len(row) == 3 and row[0].startswith("`") and "known" not in row[2]]
    functions = {name.strip(" `") for cell in recipes for name in cell.split(",")}
    known = {name for name in functions if hasattr(lrkernels.compress, name)}
    assert known == set(lrkernels.compress.__all__) - {"linear_layers", "singular_values"}
