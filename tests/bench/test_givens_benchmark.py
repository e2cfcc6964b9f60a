"""bench/givens.py: every case has its line, and a wrong result is never given a time."""

import json

import pytest


@pytest.fixture
def givens(scripts):
    return scripts("givens")


def test_quick_run(givens, capsys):
    assert givens.main(["--quick"]) == 0
    printed = capsys.readouterr().out
    for case in givens.cases(quick=True):
        assert f"| {case.name} |" in printed


def test_wrong_results_are_not_timed(givens, capsys, monkeypatch):
    right = givens.lrkernels.givens_apply
    monkeypatch.setattr(givens.lrkernels, "givens_apply", lambda x, angles, strides: right(x, angles * 1.5, strides))
    assert givens.main(["--quick"]) == 1
    captured = capsys.readouterr()
    assert "lrkernels is off by" in captured.err and "µs" in captured.out
    assert not any(case.name in captured.out for case in givens.cases(quick=True))


def test_results_are_saved(givens, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(givens.contest, "results_of", lambda script: tmp_path / "givens")
    assert givens.main(["--quick", "--only", "bf16", "--save", "here"]) == 0
    document = json.loads((tmp_path / "givens" / "here.json").read_text())
    (case,) = document["cases"]
    assert case["right"] and set(case["times_faster"]) == {"clone", "gather", "views"}
    assert all(timing["median_us"] > 0 for timing in case["timings"].values())
    assert document["command"] == "python bench/givens.py --quick --only bf16 --save here"
    with pytest.raises(SystemExit):
        givens.main(["--quick", "--save", "../there"])
    assert "expected a file name without folders" in capsys.readouterr().err
