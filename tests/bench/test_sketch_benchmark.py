"""bench/sketch.py: every case has its line, and a wrong result is never given a time."""

import pytest
import torch


@pytest.fixture
def sketch(scripts):
    return scripts("sketch")


def test_quick_run(sketch, capsys):
    assert sketch.main(["--quick"]) == 0
    printed = capsys.readouterr().out
    for case in sketch.cases(quick=True):
        assert f"| {case.name} |" in printed


def test_a_basis_that_misses_the_range_is_not_timed(sketch, capsys, monkeypatch):
    monkeypatch.setattr(sketch.lrkernels, "rsvd", lambda a, rank: (torch.eye(a.shape[0], rank),))
    assert sketch.main(["--quick", "--only", "rsvd"]) == 1
    captured = capsys.readouterr()
    assert "lrkernels is off by" in captured.err and "| rsvd" not in captured.out
