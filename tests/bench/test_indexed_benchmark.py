"""bench/indexed.py: every case has its line, and a wrong result is never given a time."""

import pytest


@pytest.fixture
def indexed(scripts):
    return scripts("indexed")


@pytest.fixture(autouse=True)
def any_bandwidth(indexed, monkeypatch):
    monkeypatch.setattr(indexed, "copy_bytes_per_us", lambda device: 1e4)


def test_quick_run(indexed, capsys):
    assert indexed.main(["--quick"]) == 0
    printed = capsys.readouterr().out
    for case in indexed.cases(quick=True):
        assert f"| {case.name} |" in printed


def test_wrong_results_are_not_timed(indexed, capsys, monkeypatch):
    right = indexed.ours
    monkeypatch.setattr(indexed, "ours", lambda i: right(i) * 1.5)
    assert indexed.main(["--quick"]) == 1
    captured = capsys.readouterr()
    assert "ours is off by" in captured.err and "µs" in captured.out
    assert not any(case.name in captured.out for case in indexed.cases(quick=True))


def test_the_names_say_what_is_measured(indexed):
    names = [case.name for quick in (False, True) for case in indexed.cases(quick)]
    assert len(set(names)) == len(names)
