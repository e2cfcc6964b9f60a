"""bench/sketch_accuracy.py: its matrices have the singular values they should, and what it says of them is so."""

import json

import numpy as np
import pytest
import torch


@pytest.fixture
def bench(scripts):
    return scripts("sketch_accuracy")


def test_the_matrices_have_the_given_singular_values(bench):
    for spectrum in bench.SPECTRA.values():
        values = spectrum(64)
        a = bench.matrix(values, seed=3)
        np.testing.assert_allclose(np.linalg.svd(a.numpy(), compute_uv=False), values, atol=1e-13)
    gaussian = np.linalg.svd(np.random.default_rng(0).standard_normal((512, 512)) / 512**0.5, compute_uv=False)
    np.testing.assert_allclose(bench.quarter_circle(512), gaussian, atol=0.03)


def test_the_best_decomposition_has_error_one_and_others_more(bench):
    values = bench.SPECTRA["polynomial, 1 / i"](64)
    a = bench.matrix(values, seed=0)
    u, s, vh = torch.linalg.svd(a)
    best = values[8:].norm().item()
    error, distance = bench.accuracy(a, (u[:, :8], s[:8], vh[:8].mT), best)
    assert error == pytest.approx(1.0) and distance < 1e-13
    error, distance = bench.accuracy(a, (2 * u[:, 1:9], s[1:9] / 2, vh[1:9].mT), best)
    assert error > 1.5 and distance == pytest.approx(3.0)


def test_a_small_run_is_printed_and_saved(bench, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(bench, "RESULTS", tmp_path)
    assert bench.main(["--size", "64", "--rank", "8", "--save", "here"]) == 0
    printed, saved = capsys.readouterr().out, json.loads((tmp_path / "here.json").read_text())
    assert all(f"| {name} |" in printed for name in bench.SPECTRA)
    ours = [result for result in saved["results"] if result["contender"] == "rsvd"]
    assert len(ours) == len(bench.SPECTRA) == len(saved["results"]) / 2
    assert all(0.999 < result["error_over_best"] < 1.1 and result["orthogonality"] < 1e-5 for result in ours)
    with pytest.raises(SystemExit):
        bench.main(["--size", "65"])
