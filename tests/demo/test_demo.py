"""The demo at a size that takes seconds: its data, measurements and report, and that a seed decides everything."""

import json
import math
from dataclasses import replace

import fresh_process
import pytest
import torch
from torch import nn

pytest.importorskip("tqdm")
pytest.importorskip("matplotlib")

from lrkernels import optim
from lrkernels.compress import compress
from lrkernels.demo import __main__ as command_line
from lrkernels.demo.compression import compression_curve
from lrkernels.demo.corpus import HELD_OUT_PACKAGE, load_corpus, sample_batch, validation_windows
from lrkernels.demo.experiments import EXPERIMENTS, QUICK, Experiment, Setup
from lrkernels.demo.memory import peak_memory
from lrkernels.demo.model import ByteTransformer
from lrkernels.demo.run import run
from lrkernels.demo.train import bits_per_byte
from lrkernels.nn import GivensLinear, LoRALinear, LowRankLinear, OFTLinear

TINY = replace(
    QUICK,
    width=32,
    layers=2,
    heads=2,
    context=32,
    batch=4,
    training_steps=12,
    tuning_steps=8,
    ffn_rank=8,
    lora_rank=4,
    oft_block=8,
    validation_windows=8,
    timing_rounds=2,
)


@pytest.fixture(autouse=True)
def one_thread():
    """Layers this small gain nothing from a second thread, and lose much on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def corpus():
    return load_corpus()


def test_corpus_is_real_and_split_by_file(corpus):
    for text, least in ((corpus.library, 1_000_000), (corpus.package, 50_000)):
        assert len(text.train) > least and len(text.validation) > least / 20
        assert text.train_files > text.validation_files > 0
    assert b"\nclass " in bytes(corpus.library.train[:2_000_000].numpy())
    assert b"event loop" in bytes(corpus.package.train.numpy())


def test_split_is_by_path_alone(tmp_path):
    for folder in ("json", HELD_OUT_PACKAGE, "test", "site-packages/other"):
        (tmp_path / folder).mkdir(parents=True)
        for i in range(40):
            (tmp_path / folder / f"module_{i}.py").write_text(f"# {folder} {i}#\n")
    corpus = load_corpus(tmp_path)
    library = [bytes(t.numpy()).decode() for t in (corpus.library.train, corpus.library.validation)]
    package = [bytes(t.numpy()).decode() for t in (corpus.package.train, corpus.package.validation)]
    assert set("".join(library).split()) & {"json", HELD_OUT_PACKAGE, "test", "site-packages/other"} == {"json"}
    assert sum(text.count("json") for text in library) == sum(text.count(HELD_OUT_PACKAGE) for text in package) == 40
    for train, validation in (library, package):
        assert not set(train.splitlines()) & set(validation.splitlines()) - {""}
    with pytest.raises(RuntimeError, match="the Python sources of the standard library are not in"):
        load_corpus(tmp_path / "json")


def test_batches_pair_each_byte_with_the_next():
    text = torch.arange(200, dtype=torch.uint8)
    for tokens, targets in (sample_batch(text, 5, 16, torch.Generator()), validation_windows(text, 5, 16)):
        assert tokens.shape == targets.shape == (5, 16) and torch.equal(tokens + 1, targets)
    assert validation_windows(text, 5, 16)[1].max() == 199, "the last byte is predicted too"


def test_model_is_causal():
    model = ByteTransformer(32, 2, 2, 16).eval()
    tokens = torch.randint(256, (1, 16))
    changed = tokens.clone()
    changed[0, 9] = (changed[0, 9] + 1) % 256
    difference = (model(tokens) - model(changed)).abs().amax(dim=-1)[0]
    assert difference[:9].max() == 0 and difference[9:].min() > 0


def test_bits_of_a_uniform_model_are_eight(corpus):
    class Uniform(nn.Module):
        def forward(self, tokens):
            return torch.zeros(*tokens.shape, 256)

    assert bits_per_byte(Uniform(), corpus.library.validation, TINY) == pytest.approx(8.0)


def test_peak_memory_is_the_worst_moment_of_the_step():
    model = nn.Linear(1000, 1000, bias=False)  # 4 MB, and as much for its gradient
    optimizer = torch.optim.AdamW(model.parameters())

    def step():
        scratch = [torch.zeros(250_000) for _ in range(3)]  # 3 MB, gone before the gradient comes
        del scratch
        model(torch.ones(1, 1000)).sum().backward()
        model.zero_grad()
        return 7.0

    value, first = peak_memory(step, model, optimizer)
    model(torch.ones(1, 1000)).sum().backward()
    optimizer.step()
    model.zero_grad()
    _, second = peak_memory(step, model, optimizer)
    assert value == 7.0 and first == pytest.approx(8e6, rel=0.02)
    assert second == pytest.approx(16e6, rel=0.02), "two moments of AdamW, and no trace of the step before"


def test_experiments_differ_as_they_say():
    assert [e.name for e in EXPERIMENTS] == ["dense", "muon", "galore", "lowrank_ffn", "lora", "oft", "givens"]
    trained = {}
    for experiment in EXPERIMENTS:
        trained[experiment.name] = experiment.build(TINY, trained)
    names = [name for name, m in trained["lowrank_ffn"].named_modules() if isinstance(m, LowRankLinear)]
    assert names == [f"blocks.{i}.ffn.{fc}" for i in range(2) for fc in ("fc1", "fc2")]
    for name, layer in (("lora", LoRALinear), ("oft", OFTLinear), ("givens", GivensLinear)):
        assert sum(isinstance(m, layer) for m in trained[name].modules()) == 8
        assert trained[name].head.weight is trained[name].embedding.weight
        assert not trained[name].embedding.weight.requires_grad
    assert all(p.requires_grad for p in trained["dense"].parameters()), "fine-tuning works on a copy"


def test_optimizers_of_the_rows():
    made = {e.name: e.optimizer(TINY, e.build(TINY, {"dense": EXPERIMENTS[0].build(TINY, {})})) for e in EXPERIMENTS}
    assert type(made["muon"]) is optim.Muon and made["galore"].param_groups[0]["basis"] == "GaLore(rank=8, warm=False)"
    for name, optimizer in made.items():
        assert name in ("muon", "galore") or type(optimizer) is torch.optim.AdamW
        assert {group["lr"] for group in optimizer.param_groups} == {TINY.learning_rate}


def run_tiny(folder, experiments=EXPERIMENTS, **changes):
    results = run(replace(TINY, **changes), folder, experiments)
    return results, json.loads((folder / "demo-report.json").read_text())


def numbers(results):
    return [(r.losses, r.validation, r.library_bits, r.package_bits, r.parameters, r.trainable) for r in results]


def test_same_seed_same_numbers_and_a_whole_report(tmp_path, capsys):
    first, report = run_tiny(tmp_path / "a")
    printed = capsys.readouterr().out
    second, _ = run_tiny(tmp_path / "b")
    other, _ = run_tiny(tmp_path / "c", EXPERIMENTS[:1], seed=1)
    assert numbers(first) == numbers(second)
    assert other[0].losses != first[0].losses

    dense, muon, galore, lowrank, lora, oft, givens = first
    assert all(result.losses[-1] < result.losses[0] - 0.3 for result in (dense, muon, galore, lowrank))
    assert dense.losses[0] == muon.losses[0] == galore.losses[0] and muon.losses[1:] != dense.losses[1:]
    assert galore.peak_bytes < dense.peak_bytes and dense.parameters == muon.parameters == galore.parameters
    for tuned in (lora, oft, givens):
        assert tuned.package_bits < tuned.package_bits_before == pytest.approx(dense.package_bits, abs=1e-5)
        assert dense.parameters < tuned.parameters and tuned.trainable < dense.trainable / 4
    assert lowrank.parameters < dense.parameters
    for result in first:
        assert result.ms_per_step > 0 and result.peak_bytes > 4 * result.parameters
        assert (
            result.title in printed and f"{result.parameters:,}" in printed and f"{result.library_bits:.3f}" in printed
        )
    assert f"{lora.package_bits_before:.3f} -> {lora.package_bits:.3f}" in printed

    assert report["setup"]["seed"] == 0 and report["machine"]["threads"] == torch.get_num_threads()
    assert [row["losses"] for row in report["results"]] == [result.losses for result in first]
    assert report["results"][0]["package_bits_before"] is None
    ranks = [point["rank"] for point in report["compressed"]]
    assert ranks == [2, 4, 8, 16] and all(f"rank {rank} " in printed for rank in ranks)
    assert report["compressed"][-1]["parameters"] < dense.parameters
    assert f"{report['compressed'][0]['bits_by_outputs']:.3f}" in printed
    assert (tmp_path / "a" / "demo-report.png").read_bytes().startswith(b"\x89PNG")


def test_compression_is_measured_on_copies(corpus):
    torch.manual_seed(0)
    model = ByteTransformer(32, 2, 2, 32)
    state = {name: t.clone() for name, t in model.state_dict().items()}
    curve, seconds = compression_curve(model, TINY, corpus)
    assert all(torch.equal(t, state[name]) for name, t in model.state_dict().items()) and seconds > 0
    assert [point.rank for point in curve] == [2, 4, 8, 16]
    sizes = [point.parameters for point in curve]
    assert sizes == sorted(sizes) and sizes[-1] - sizes[-2] == 2 * 8 * (128 + 64 + 160 + 160)
    bits = bits_per_byte(model, corpus.library.validation, TINY)
    assert all(point.bits_by_weights != point.bits_by_outputs for point in curve)
    compress(model, 32)
    assert bits_per_byte(model, corpus.library.validation, TINY) == pytest.approx(bits, abs=1e-4), "full rank"


def test_another_experiment_is_another_row(tmp_path, capsys):
    wide = Experiment("wide", "a wider one", "library", lambda setup, trained: ByteTransformer(48, 1, 2, setup.context))
    results, _ = run_tiny(tmp_path, [EXPERIMENTS[0], wide])
    assert [result.name for result in results] == ["dense", "wide"] and "a wider one" in capsys.readouterr().out
    assert math.isnan(results[1].package_bits_before)


def test_command_line(tmp_path, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr("lrkernels.demo.run.run", lambda setup, out: seen.append((setup, out)))
    assert command_line.main(["--quick", "--seed", "5", "--out", str(tmp_path)]) == 0
    assert command_line.main([]) == 0
    assert seen[0] == (replace(QUICK, seed=5), tmp_path) and seen[1][0] == Setup()
    if not torch.cuda.is_available():
        assert command_line.main(["--device", "cuda"]) == 2
        assert "torch sees no CUDA device" in capsys.readouterr().err


def test_missing_extra_is_said_clearly():
    program = (
        "import sys; sys.modules['tqdm'] = sys.modules['matplotlib'] = None\n"
        "from lrkernels.demo.__main__ import main; sys.exit(main(['--quick']))"
    )
    done = fresh_process.run(program)
    assert done.returncode == 2
    assert done.stderr.strip() == "lrkernels.demo needs tqdm and matplotlib: pip install 'lrkernels[demo]'"
