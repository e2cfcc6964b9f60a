"""compress with ranks by a number, a threshold, a budget or a switch: errors are tails of spectra, budgets hold."""

import itertools
import json

import numpy as np
import pytest
import torch
from compressed_models import falling, network, tail, values
from torch import nn

from lrkernels.compress import (
    StableRankSwitch,
    compress,
    linear_layers,
    ranks_above,
    ranks_within,
    singular_values,
)
from lrkernels.nn import LowRankLinear, SplitLowRankLinear, input_statistics


def factor_numbers(model):
    return sum(m.up.numel() + m.down.numel() for m in model.modules() if isinstance(m, LowRankLinear))


def test_every_layer_is_its_best_approximation_at_its_rank():
    model = network()
    weights = {name: layer.weight.detach().clone() for name, layer in linear_layers(model).items()}
    assert list(weights) == ["0", "2", "4"]
    report = compress(model, {"0": 5, "2": 3, "4": None})
    assert len(report) == 2 and isinstance(model[4], nn.Linear) and "4" in report.skipped
    for name, rank in (("0", 5), ("2", 3)):
        layer = model.get_submodule(name)
        assert layer.rank == rank
        error = np.linalg.norm(weights[name] - (layer.up @ layer.down).detach())
        np.testing.assert_allclose(error, tail(weights[name], rank))


def test_statistics_make_the_outputs_better():
    x = torch.randn(200, 24).double() * torch.logspace(0, -2, 24)
    errors = {}
    for kind in ("weights", "outputs", "outputs and mean"):
        model = network()
        with torch.no_grad():
            model[0].weight.copy_(torch.randn(20, 24))
        expected = model[0](x + 2.0)
        statistics = input_statistics(model, [x + 2.0], linear_layers(model))
        chosen = None if kind == "weights" else statistics
        compress(model, 4, target_modules=["0"], statistics=chosen, keep_mean="mean" in kind)
        errors[kind] = (model[0](x + 2.0) - expected).norm().item()
    assert errors["outputs and mean"] < 0.9 * errors["outputs"] < 0.8 * errors["weights"]


@pytest.mark.parametrize("ranks", [8, {"0": 5, "2": 19, "4": (2, 4)}], ids=str)
def test_no_layer_becomes_larger(ranks):
    """19 · 44 > 20 · 24, and 4 · (24 + 2 · 6) = 6 · 24 is no more; of rank 8, 6 x 24 has no factors at all."""
    model = network()
    weight = model[2].weight.detach().clone()
    if ranks == 8:
        model[4] = nn.Linear(24, 9).double()  # 8 · 33 > 9 · 24
    report = compress(model, ranks)
    kept, reason = ("4", "rank 8 has 264 numbers, the weight 216") if ranks == 8 else ("2", "rank 19 has 836 numbers")
    assert isinstance(model.get_submodule(kept), nn.Linear) and len(report) == 2
    assert reason in report.skipped[kept] and reason in str(report) and report.parameters_after < 1_000 + 258
    if ranks != 8:
        assert torch.equal(model[2].weight, weight) and type(model[4]) is SplitLowRankLinear
    spectra = singular_values(linear_layers(network()))
    assert len(compress(network(), ranks_above(spectra, 0.0))) == 0, "of all ranks nothing is smaller"


def test_statistics_weigh_splits_too():
    """By groups: each is the best for its inputs; with keep_mean the mean output is exact."""
    x = torch.randn(300, 24).double() @ torch.randn(24, 24).double() * torch.logspace(0, -1, 24) + 1.0
    errors = {}
    for kind in ("weights", "outputs", "outputs and mean"):
        model = network()
        weight, bias = model[0].weight.detach().clone(), model[0].bias.detach().clone()
        statistics = input_statistics(model, [x], {"0": model[0]})
        compress(model, {"0": (2, 3)}, statistics=None if kind == "weights" else statistics, keep_mean="mean" in kind)
        down, up = model[0].down.detach(), model[0].up.detach().chunk(2, 1)
        centre = x.mean(0) if "mean" in kind else torch.zeros(24).double()
        parts = zip(weight.chunk(2, 1), (x - centre).chunk(2, 1), down, up, strict=True)
        lost = [((w - u @ d) @ inputs.T, w @ inputs.T) for w, inputs, d, u in parts]
        errors[kind] = [error.norm().item() for error, _ in lost]
        if kind != "weights":
            np.testing.assert_allclose(errors[kind], [tail(whole, 3) for _, whole in lost], rtol=1e-7)
        y = model[0](x)
        if "mean" in kind:
            torch.testing.assert_close(y.mean(0), (x @ weight.T + bias).mean(0))
    assert all(a < 0.95 * b for a, b in zip(errors["outputs"], errors["weights"], strict=True))


def test_compress_refuses_and_leaves_the_model():
    model = network()
    x = torch.randn(9, 24).double()
    seen = input_statistics(model, [x], {name: layer for name, layer in linear_layers(model).items() if name != "2"})
    state = {name: t.clone() for name, t in model.state_dict().items()}
    for ranks, options, message in (
        ({"1": 3}, {}, "compress: ranks names 1, expected some of 0, 2, 4"),
        (21, {}, "rank is 21, expected at most 20"),
        (3, {"keep_mean": True}, "keep_mean is set, but there are no statistics"),
        (3, {"target_modules": ["nothing"]}, "'nothing'"),
        (3, {"statistics": seen}, "statistics has no '2', which is to be replaced"),
        ({"2": (2, 3)}, {"statistics": seen}, "statistics has no '2', which is to be replaced"),
        ({"0": 3}, {"statistics": {**seen, "layers.0": seen["0"]}}, "statistics has layers.0, which the model has not"),
    ):
        with pytest.raises(ValueError, match=message):
            compress(model, ranks, **options)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name])
    with pytest.raises(ValueError, match="singular_values: statistics lacks 2"):
        singular_values(linear_layers(model), seen)
    assert len(compress(model, {"0": 3}, statistics=seen)) == 1, "statistics of more layers than are replaced"


# --- ranks ---


def test_a_threshold_counts_and_is_monotone():
    layers = linear_layers(network())
    spectra = singular_values(layers)
    for name, layer in layers.items():
        np.testing.assert_allclose(spectra[name], values(layer.weight), rtol=1e-9)
    assert ranks_above(spectra, 0.3) == {"0": 6, "2": 2, "4": 6}  # 0.8⁵ > 0.3 > 0.8⁶; 0.4 > 0.3; 0.9⁵ > 0.3
    ranks = [ranks_above(spectra, threshold) for threshold in (0.0, 0.01, 0.2, 0.7, 1.0)]
    assert ranks[0] == {"0": 20, "2": 20, "4": 6} and set(ranks[-1].values()) == {1}
    for more, fewer in itertools.pairwise(ranks):
        assert all(more[name] >= fewer[name] for name in layers)
    with pytest.raises(ValueError, match="threshold is 1.5"):
        ranks_above(spectra, 1.5)


def test_weighted_spectra_have_the_outputs_errors_as_tails():
    model, x = network(), torch.randn(100, 24).double() * torch.logspace(0, -1, 24)
    layers = linear_layers(model)
    statistics = input_statistics(model, [x], layers)
    spectrum = singular_values(layers, statistics)["0"].numpy()
    y = (x @ layers["0"].weight.T).detach() / 10.0  # √100 rows
    np.testing.assert_allclose(spectrum, values(y), rtol=1e-9)


@pytest.mark.parametrize("numbers", [150, 300, 700, 1100])
def test_a_budget_holds_and_a_larger_one_is_no_worse(numbers):
    model = network()
    layers = linear_layers(model)
    spectra = singular_values(layers)

    def left_over(ranks):
        shares = {name: spectra[name] ** 2 / (spectra[name] ** 2).sum() for name in ranks}
        return sum(float(shares[name][rank:].sum()) for name, rank in ranks.items() if rank is not None)

    ranks = ranks_within(layers, spectra, numbers)
    compress(model, ranks)
    dense = sum(layers[name].weight.numel() for name, rank in ranks.items() if rank is None)
    assert factor_numbers(model) + dense <= numbers
    assert left_over(ranks_within(layers, spectra, numbers + 100)) <= left_over(ranks)


@pytest.mark.parametrize("relative", [False, True])
def test_a_budget_is_spent_as_well_as_any_other_choice_would(relative):
    """Layers of one shape, where the greedy choice is the optimum: against all choices."""
    layers = {str(i): nn.Linear(16, 16) for i in range(3)}
    for i, (layer, rate) in enumerate(zip(layers.values(), (0.9, 0.5, 0.7), strict=True)):
        layer.weight.data = falling(16, 16, rate, i) * (i + 1)
    spectra = singular_values(layers)
    ranks = ranks_within(layers, spectra, 32 * 8 + 5, relative)
    assert sum(ranks.values()) == 8

    def left_over(choice):
        squares = [values(layer.weight) ** 2 for layer in layers.values()]
        return sum(s[rank:].sum() / (s.sum() if relative else 1) for s, rank in zip(squares, choice, strict=True))

    best = min(left_over(c) for c in itertools.product(range(1, 8), repeat=3) if sum(c) == 8)
    np.testing.assert_allclose(left_over(ranks.values()), best)


def test_a_budget_for_everything_keeps_everything():
    model = network()
    layers = linear_layers(model)
    numbers = sum(layer.weight.numel() for layer in layers.values())
    assert ranks_within(layers, singular_values(layers), numbers) == {"0": None, "2": None, "4": None}
    with pytest.raises(ValueError, match="numbers is 117, expected at least 118, a rank of 1 in every layer"):
        ranks_within(layers, singular_values(layers), 117)


# --- Cuttlefish ---


def test_the_switch_waits_until_stable_ranks_settle():
    layers = {"a": nn.Linear(30, 20).double(), "b": nn.Linear(20, 20).double()}
    flat = {name: falling(*layer.weight.shape, 1.0, 0) for name, layer in layers.items()}
    for name, layer in layers.items():
        layer.weight.data = flat[name]
    switch = StableRankSwitch(layers, tolerance=0.02, window=2)
    rates = [0.9, 0.8, 0.7, 0.7, 0.7]
    answers = []
    for rate in rates:
        for layer in layers.values():
            layer.weight.data = falling(*layer.weight.shape, rate, 0)
        answers.append(switch.observe())
    assert answers[:4] == [None] * 4
    # Σ 0.49ⁱ ≈ 1 / 0.51 of 20 equal ones: a rank of 2.
    assert answers[4] == {"a": 2, "b": 2}
    untouched = {"a": nn.Linear(30, 20)}
    steady = StableRankSwitch(untouched, window=1)
    assert steady.observe() is None and steady.observe() == {"a": None}, "full rank is no smaller than the weight"
    zeros = {"a": nn.Linear(30, 20), "head": nn.Linear(20, 5)}
    nn.init.zeros_(zeros["head"].weight)
    with pytest.raises(ValueError, match="StableRankSwitch: head start with a weight of zeros"):
        StableRankSwitch(zeros)
    with torch.no_grad():
        untouched["a"].weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match="the weight of 'a' holds NaN or Inf"):
        steady.observe()
    with pytest.raises(ValueError, match="there are no layers to watch"):
        StableRankSwitch({})
    with pytest.raises(ValueError, match="tolerance is 0.0"):
        StableRankSwitch(untouched, tolerance=0.0)


def test_the_switch_estimates_ranks_of_flat_starts_without_bias():
    """By NumPy's norms; a stable rank of the start that is 6 % high makes every rank after it as much too small."""
    layer = nn.Linear(300, 400).double()
    layer.weight.data = torch.from_numpy(np.random.default_rng(0).standard_normal((400, 300)))
    start = values(layer.weight)
    switch = StableRankSwitch({"": layer}, window=1)
    layer.weight.data = falling(400, 300, 0.97, 0)
    trained = values(layer.weight)
    assert switch.observe() is None
    share = (trained**2).sum() / trained[0] ** 2 / ((start**2).sum() / start[0] ** 2)
    assert switch.observe() == {"": int(np.ceil(300 * share))}


def test_a_resumed_switch_goes_on_where_it_was():
    def watched():
        return {"a": nn.Linear(30, 20).double()}

    def train(layers, rate):
        layers["a"].weight.data = falling(20, 30, rate, 0)

    whole, before, after = watched(), watched(), watched()
    for layers in (whole, before):
        train(layers, 1.0)
    train(after, 0.8)  # the layers as they are when the run resumes
    switches = [StableRankSwitch(layers, window=2) for layers in (whole, before, after)]
    for rate in (0.9, 0.8):
        for layers, switch in ((whole, switches[0]), (before, switches[1])):
            train(layers, rate)
            switch.observe()
    switches[2].load_state_dict(json.loads(json.dumps(switches[1].state_dict())))
    answers = []
    for rate in (0.8, 0.8):
        for layers, switch in ((whole, switches[0]), (after, switches[2])):
            train(layers, rate)
            answers.append(switch.observe())
    assert answers[:2] == [None, None] and answers[2] == answers[3] == {"a": 3}
    with pytest.raises(ValueError, match="only one of the state and the switch has a, b"):
        StableRankSwitch({"b": nn.Linear(3, 3)}).load_state_dict(switches[0].state_dict())
    with torch.no_grad():
        after["a"].weight.zero_()
    assert [switches[2].observe() for _ in range(3)][2] == {"a": 1}, "a weight that vanished"
