"""bench/optim.py and bench/optim_losses.py: every case has its line, and a wrong step is never given a time."""

import pytest
import torch


@pytest.fixture
def steps(scripts):
    return scripts("optim")


def test_quick_run(steps, capsys):
    assert steps.main(["--quick"]) == 0
    printed = capsys.readouterr().out
    for case in steps.cases(quick=True):
        assert f"| {case.name} |" in printed


def test_a_step_of_another_direction_is_not_timed(steps, capsys, monkeypatch):
    monkeypatch.setattr(steps.optim, "Muon", lambda parameters, *_, **__: torch.optim.SGD(parameters, lr=1e-3))
    monkeypatch.setattr(steps.optim, "GaLore", lambda rank, warm: steps.optim.DCT(1))
    assert steps.main(["--quick"]) == 1
    captured = capsys.readouterr()
    assert captured.err.count("lrkernels is off by") == 4 and "| Muon" not in captured.out


def test_the_mean_of_a_period(steps, capsys):
    """199 steps of 2 and 5 µs and one of 100 and 1000."""

    def held(ours, theirs):
        case = steps.GaLore(steps.Model(1, 32), 8)
        timings = {"lrkernels": ours, "galore-torch": theirs}
        timings = {name: steps.contest.measure.summarize([time] * 20) for name, time in timings.items()}
        case.line = steps.contest.Line("", True, timings)
        return case

    line = steps.Period(held(2.0, 5.0), held(100.0, 1000.0)).hold("cpu", 1.0)
    assert line.right and line.times_faster == {"galore-torch": pytest.approx((199 * 5 + 1000) / (199 * 2 + 100))}
    assert "| 2 | – | 4.01× |" in capsys.readouterr().out


def test_losses_fall(scripts, capsys, monkeypatch, tmp_path):
    pytest.importorskip("tqdm")
    losses = scripts("optim_losses")
    monkeypatch.setattr(losses, "RESULTS", tmp_path)
    monkeypatch.setattr(losses, "bits_per_byte", lambda *_: 0.0)
    names = ["AdamW", "Muon", "GaLore, rank 48"]
    pytest.importorskip("matplotlib")
    assert losses.main(["--steps", "8", "--width", "48", "--save", "test", "--only", *names]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("| AdamW", "| Muon", "| GaLore"))]
    assert len(rows) == 3 and all(float(row.split("|")[2]) < 8 for row in rows)
    assert (tmp_path / "test.json").exists() and (tmp_path / "test.png").stat().st_size > 10_000
