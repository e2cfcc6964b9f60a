"""bench/givens.py: every case has its line, and a wrong result is never given a time."""

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
