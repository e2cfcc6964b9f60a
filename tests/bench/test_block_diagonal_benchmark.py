"""bench/block_diagonal.py: every case has its line, and a wrong result is never given a time."""

import pytest


@pytest.fixture
def block_diagonal(scripts):
    return scripts("block_diagonal")


def test_quick_run(block_diagonal, capsys):
    assert block_diagonal.main(["--quick"]) == 0
    printed = capsys.readouterr().out
    for case in block_diagonal.cases(quick=True):
        assert f"| {case.name} |" in printed


def test_wrong_results_are_not_timed(block_diagonal, capsys, monkeypatch):
    right = block_diagonal.lrkernels.block_diagonal_apply
    monkeypatch.setattr(block_diagonal.lrkernels, "block_diagonal_apply", lambda x, blocks: right(x, blocks * 1.5))
    assert block_diagonal.main(["--quick"]) == 1
    captured = capsys.readouterr()
    assert "lrkernels is off by" in captured.err and "µs" in captured.out
    assert not any(case.name in captured.out for case in block_diagonal.cases(quick=True))
