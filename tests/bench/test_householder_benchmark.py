"""bench/householder.py: every case has its line, and a wrong result is never given a time."""

import pytest


@pytest.fixture
def householder(scripts):
    return scripts("householder")


def test_quick_run(householder, capsys):
    assert householder.main(["--quick"]) == 0
    printed = capsys.readouterr().out
    for case in householder.cases(quick=True):
        assert f"| {case.name} |" in printed


def test_wrong_results_are_not_timed(householder, capsys, monkeypatch):
    right = householder.lrkernels.householder_apply
    monkeypatch.setattr(householder.lrkernels, "householder_apply", lambda *tensors: right(*tensors) * 1.5)
    assert householder.main(["--quick"]) == 1
    captured = capsys.readouterr()
    assert "lrkernels is off by" in captured.err and "µs" in captured.out
    assert not any(case.name in captured.out for case in householder.cases(quick=True))
