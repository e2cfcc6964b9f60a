"""bench/cayley_rectangular.py: every case has its line, and a wrong result is never given a time."""

import pytest


@pytest.fixture
def cayley_rectangular(scripts):
    return scripts("cayley_rectangular")


def test_quick_run(cayley_rectangular, capsys):
    assert cayley_rectangular.main(["--quick"]) == 0
    printed = capsys.readouterr().out
    for case in cayley_rectangular.cases(quick=True):
        assert f"| {case.name} |" in printed


def test_wrong_results_are_not_timed(cayley_rectangular, capsys, monkeypatch):
    right = cayley_rectangular.lrkernels.cayley_rectangular
    monkeypatch.setattr(cayley_rectangular.lrkernels, "cayley_rectangular", lambda *tensors: right(*tensors) * 1.5)
    assert cayley_rectangular.main(["--quick"]) == 1
    captured = capsys.readouterr()
    assert "lrkernels is off by" in captured.err and "µs" in captured.out
    assert not any(case.name in captured.out for case in cayley_rectangular.cases(quick=True))
