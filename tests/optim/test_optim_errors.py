"""Bad input raises, names class and argument, and says what was expected."""

import pytest
import torch
from optimizer_cases import matrices
from torch import nn

from lrkernels import optim


def galore(params, inner="adamw", basis=None, **options):
    return optim.ProjectedOptimizer(params, inner, optim.GaLore(2) if basis is None else basis, **options)


MAKERS = {"Muon": optim.Muon, "NorMuon": optim.NorMuon, "Dion": optim.Dion, "ProjectedOptimizer": galore}
every_class = pytest.mark.parametrize("name", list(MAKERS))


def raises(name, message, params=None, **options):
    with pytest.raises((ValueError, TypeError), match=f"^{name}: {message}"):
        MAKERS[name](matrices() if params is None else params, **options)


@every_class
def test_parameters_that_are_no_matrices(name):
    advice = r"expected matrices; lrkernels.optim.param_groups\(model\) sorts"
    raises(name, rf"params has a parameter, of shape \(7,\), {advice}", matrices(shapes=[(7,)]))
    raises(name, rf"params has a parameter, of shape \(2, 3, 4\), {advice}", matrices(shapes=[(2, 3, 4)]))
    raises(name, rf"params has bias, of shape \(3,\), {advice}", nn.Linear(3, 3).named_parameters())
    raises(name, "params has a parameter, of shape .* and torch.complex64", matrices(torch.complex64))


@every_class
def test_parameters_that_are_named_like_embeddings_or_heads(name):
    for word, role in (("model.embed_tokens.weight", "an embedding"), ("lm_head.weight", "a head")):
        named = [(word, *matrices(shapes=[(4, 4)]))]
        raises(name, rf"params has {word}, of shape \(4, 4\), by its name {role};", named)


@every_class
def test_a_refused_group_is_not_added(name):
    optimizer = MAKERS[name](matrices())
    with pytest.raises(ValueError):
        optimizer.add_param_group({"params": matrices(shapes=[(3,)])})
    assert len(optimizer.param_groups) == 1
    optimizer.add_param_group({"params": matrices(shapes=[(3,)]), "algorithm": "adamw"})
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.ones_like(p)
    optimizer.step()


@every_class
@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("lr", -1.0, "lr is -1.0, expected at least 0"),
        ("lr", float("nan"), "lr is nan, expected a finite number"),
        ("lr", torch.ones(2), r"lr is a tensor of shape \(2,\), expected one number"),
        ("lr", "fast", "lr is 'fast', expected a number"),
        ("weight_decay", -0.1, "weight_decay is -0.1, expected at least 0"),
        ("betas", (0.9,), r"betas is \(0.9,\), expected two numbers"),
        ("betas", (0.9, 1.0), r"betas is 1.0, expected a number in \[0, 1\)"),
        ("eps", -1e-8, "eps is -1e-08, expected at least 0"),
        ("momentum", 1.0, r"momentum is 1.0, expected a number in \[0, 1\)"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_options_of_all(name, option, value, message):
    raises(name, message, **{option: value})


@pytest.mark.parametrize(
    ("name", "option", "value", "message"),
    [
        ("Muon", "steps", 0, "steps is 0, expected at least 1"),
        ("Muon", "steps", 2.5, "steps is 2.5, expected an int"),
        ("Muon", "scaling", "spectral", "scaling is 'spectral', expected 'match_rms_adamw', 'original' or 'none'"),
        ("Muon", "coefficients", (1.0, 2.0), r"coefficients is \(1.0, 2.0\), expected three numbers, or 5 triples"),
        ("Muon", "coefficients", [(1.0, 2.0, 3.0)] * 4, "coefficients is .*, or 5 triples because steps is 5"),
        ("Muon", "coefficients", "abc", "coefficients is 'abc'"),
        ("NorMuon", "beta2", 1.0, r"beta2 is 1.0, expected a number in \[0, 1\)"),
        ("NorMuon", "norm_eps", -1.0, "norm_eps is -1.0, expected at least 0"),
        ("Dion", "rank_fraction", 0.0, r"rank_fraction is 0.0, expected a number in \(0, 1\]"),
        ("Dion", "rank_fraction", 1.5, r"rank_fraction is 1.5, expected a number in \(0, 1\]"),
        ("Dion", "seed", -1, "seed is -1, expected at least 0"),
        ("ProjectedOptimizer", "inner", "adagrad", "inner is 'adagrad', expected 'adamw' or 'sgd'"),
        ("ProjectedOptimizer", "basis", "galore", "basis is 'galore', expected a lrkernels.optim.Basis"),
        ("ProjectedOptimizer", "basis", optim.GaLore(-1), "basis.rank is -1, expected at least 1"),
        ("ProjectedOptimizer", "basis", optim.GaLore(1.5), "basis.rank is 1.5, expected an int"),
        ("ProjectedOptimizer", "refresh_every", 0, "refresh_every is 0, expected at least 1"),
        ("ProjectedOptimizer", "scale", float("inf"), "scale is inf, expected a finite number"),
    ],
)
def test_options_of_one(name, option, value, message):
    raises(name, message, **{option: value})


@pytest.mark.parametrize(
    ("basis", "options", "message"),
    [
        (optim.Fira, {"limit": 0}, "Fira: limit is 0, expected at least 1"),
        (optim.Fira, {"limit": float("nan")}, "Fira: limit is nan, expected a finite number"),
        (optim.Flora, {"kind": "dct"}, "Flora: kind is 'dct', expected 'rademacher', .* or 'hadamard'"),
        (optim.Flora, {"kind": "normal"}, "Flora: kind is 'normal', expected 'rademacher'"),
        (optim.Flora, {"seed": -1}, "Flora: seed is -1, expected at least 0"),
        (optim.Flora, {"seed": 0.5}, "Flora: seed is 0.5, expected an int"),
    ],
    ids=str,
)
def test_options_of_a_basis_are_checked_when_it_is_made(basis, options, message):
    with pytest.raises((ValueError, TypeError), match=f"^{message}"):
        basis(**options)


@every_class
def test_an_algorithm_that_does_not_exist(name):
    raises(name, "algorithm is 'sgd', expected 'matrix' or 'adamw'", [{"params": matrices(), "algorithm": "sgd"}])


@every_class
def test_sparse_gradients(name):
    p = matrices(shapes=[(4, 4)])[0]
    optimizer = MAKERS[name]([p])
    p.grad = torch.eye(4).to_sparse()
    with pytest.raises(
        ValueError, match=rf"^{name}: params has a parameter, of shape \(4, 4\), with a sparse gradient"
    ):
        optimizer.step()


@every_class
def test_a_sparse_gradient_raises_before_anything_moved(name):
    """Also where it is of the last group, AdamW's, as an embedding's is."""
    hidden, table = matrices(shapes=[(4, 4), (6, 4)])
    start = hidden.detach().clone()
    optimizer = MAKERS[name]([{"params": [hidden]}, {"params": [table], "algorithm": "adamw"}])
    hidden.grad, table.grad = torch.ones(4, 4), torch.ones(6, 4).to_sparse()
    with pytest.raises(ValueError, match="with a sparse gradient"):
        optimizer.step()
    assert torch.equal(hidden, start) and not optimizer.state


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "steps is 0, expected at least 1"),
        ({"lower": 0.0}, r"lower is 0.0, expected a number in \(0, 1\]"),
        ({"cushion": 2.0}, r"cushion is 2.0, expected a number in \(0, 1\]"),
        ({"safety": 0.5}, "safety is 0.5, expected at least 1"),
    ],
    ids=str,
)
def test_polar_express(arguments, message):
    with pytest.raises(ValueError, match=f"^polar_express: {message}"):
        optim.polar_express(**arguments)
