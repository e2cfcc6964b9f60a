"""bench/pissa.py: its case has its line, and a wrong start is never given a time."""

import pytest

pytest.importorskip("peft")


@pytest.fixture
def pissa(scripts):
    return scripts("pissa")


def test_quick_run(pissa, capsys):
    assert pissa.main(["--quick"]) == 0
    printed = capsys.readouterr().out
    line = next(line for line in printed.splitlines() if line.startswith(f"| {pissa.cases(quick=True)[0].name} |"))
    assert line.count("×") == 2, "PEFT's two have times as well"


def test_a_start_elsewhere_is_not_timed(pissa, capsys, monkeypatch):
    start_from = pissa.PiSSA.start_from
    monkeypatch.setattr(pissa.PiSSA, "start_from", lambda self, down, up: start_from(self, down, up.flip(1)))
    assert pissa.main(["--quick"]) == 1
    captured = capsys.readouterr()
    assert "lrkernels is off by" in captured.err and "| PiSSA" not in captured.out
