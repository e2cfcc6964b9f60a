"""bench/end_to_end.py: what it reports, and that a model with a wrong loss is never given a time."""

import json

import pytest
import torch

pytest.importorskip("peft", reason="PEFT is not installed (requirements-dev.txt has it)")


QUICK = ["--size", "quick", "--no-compile", "--seconds", "0.01"]


def test_quick_run(scripts, tmp_path, capsys, monkeypatch):
    bench = scripts("end_to_end")
    monkeypatch.setattr(bench, "RESULTS", tmp_path)
    settings = ["fp32, DoRA", "bf16, dropout 0.1", "OFT exact, fp32", "BOFT, fp32", "HRA, bf16"]
    assert bench.main([*QUICK, "--only", *settings, "--markdown", "--save", "here"]) == 0
    printed = capsys.readouterr().out
    document = json.loads((tmp_path / "here.json").read_text())
    assert (tmp_path / "here.png").read_bytes()[:4] == b"\x89PNG"
    assert document["machine"]["torch"] == torch.__version__
    assert [result["setting"]["name"] for result in document["results"]] == [
        setting.name for setting in bench.SETTINGS if setting.name in settings
    ]
    for result in document["results"]:
        assert result["failures"] == {} and result["setting"]["name"] in printed
        median = result["timings"]["lrkernels"]["median_us"]
        assert result["tokens_per_second"]["lrkernels"] == pytest.approx(32e6 / median)
        assert result["goal"]["met"] == (result["times_faster"]["lrkernels"] >= result["goal"]["at_least"])
        assert result["losses"]["lrkernels"] == pytest.approx(result["losses"]["peft"], rel=0.05)
        assert 0 < result["peak_bytes"]["lrkernels"]
    assert "Reproduce: `python bench/end_to_end.py --size quick" in printed


def test_a_wrong_model_is_not_timed(scripts, monkeypatch, capsys):
    bench = scripts("end_to_end")
    contenders = bench.contenders

    def with_an_error(*arguments):
        found = contenders(*arguments)
        for module in found["lrkernels"].model.modules():
            if hasattr(module, "set_scale"):
                module.set_scale("default", 30.0)
        return found

    monkeypatch.setattr(bench, "contenders", with_an_error)
    assert bench.main([*QUICK, "--only", "fp32"]) == 1
    printed = capsys.readouterr().out
    assert "FAILED: lrkernels: its loss is off by" in printed and "nan" in printed
