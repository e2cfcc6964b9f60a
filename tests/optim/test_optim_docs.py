"""The Python of docs/optim.md runs, in order, in one namespace, and its tables name what there is."""

import re

import pytest
import torch
from test_readme import ROOT, blocks

from lrkernels import optim

PAGE = ROOT / "docs" / "optim.md"


def test_the_examples(capsys):
    examples = blocks("python", PAGE)
    assert len(examples) == 4
    names = {"__name__": "docs"}  # dataclasses look their module up
    for example in examples:
        exec(compile(example, str(PAGE), "exec"), names)
    assert "embeddings and heads" in capsys.readouterr().out
    groups = names["mine"].param_groups
    assert [group["algorithm"] for group in groups] == ["matrix", "adamw", "adamw"]
    state = names["mine"].state[names["model"][1].weight]
    assert state["basis_rows"].shape == (8,) and state["exp_avg"].shape == (8, 256)
    assert torch.isfinite(names["model"](names["tokens"])).all()


def test_every_option_is_in_the_table():
    if not PAGE.exists():
        pytest.skip("the tests run outside the source tree")
    table = PAGE.read_text().split("| options of a group | |")[1].split("\n\n")[0]
    cells = [row.split("|")[1] for row in table.splitlines() if "|" in row]
    named = {word for cell in cells for word in re.findall(r"`(\w+)`", cell)}
    p = [torch.nn.Parameter(torch.zeros(4, 4))]
    optimizers = [optim.Muon(p), optim.NorMuon(p), optim.Dion(p), optim.ProjectedOptimizer(p, "sgd", optim.DCT(2))]
    options = {key for optimizer in optimizers for key in optimizer.param_groups[0]} - {"params"}
    assert options - named == {"betas", "eps"}  # in the line of algorithm
    assert named <= options
