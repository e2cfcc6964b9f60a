"""Checkpoints of something else raise, say what differs, and change nothing."""

import copy

import pytest
import torch
from optimizer_cases import NAMES, OPTIMIZERS, matrices, run

from lrkernels import optim


def stepped(name, shapes=((12, 5), (4, 9)), steps=2, **options):
    parameters = matrices(shapes=shapes)
    optimizer = OPTIMIZERS[name](parameters, **options)
    run(optimizer, parameters, steps)
    return optimizer


def refused(optimizer, state_dict, message):
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match=f"^{type(optimizer).__name__}: {message}"):
        optimizer.load_state_dict(state_dict)
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    for number, state in before["state"].items():
        for key, value in state.items():
            assert torch.equal(after["state"][number][key], value)


@pytest.mark.parametrize("name", NAMES)
def test_of_other_shapes(name):
    optimizer = stepped(name)
    refused(
        optimizer,
        stepped(name, ((12, 5), (4, 8))).state_dict(),
        r"state_dict has for a parameter, of shape \(4, 9\), \w+ of shape \(.*\), expected \(.*\)",
    )


CLASSES = ["muon", "normuon", "dion", "galore_adamw"]


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("other", [*CLASSES, "torch.optim.AdamW"])
def test_of_other_optimizers(name, other):
    if other == name:
        return stepped(name).load_state_dict(stepped(name).state_dict())
    if other == "torch.optim.AdamW":
        parameters = matrices(shapes=[(12, 5), (4, 9)])
        strange = torch.optim.AdamW(parameters)
        run(strange, parameters, 1)
    else:
        strange = stepped(other)
    no_option = r"state_dict's group 0 has no \w+.*: another optimizer made it"
    other_state = r"state_dict has for a parameter, of shape \(12, 5\), .*, expected "
    refused(stepped(name), strange.state_dict(), f"({no_option}|{other_state})")


def test_of_another_rank_basis_or_inner_optimizer():
    refused(stepped("dion"), stepped("dion", rank_fraction=0.25).state_dict(), r".* right of shape \(5, 2\), expected")
    galore = stepped("galore_adamw").state_dict()
    refused(stepped("dct_adamw"), galore, "state_dict's group 0 is of 'adamw' in GaLore.* expected 'adamw' in DCT")
    refused(stepped("galore_sgd"), galore, "state_dict's group 0 is of 'adamw' .* expected 'sgd' in GaLore")
    ranks = [optim.ProjectedOptimizer(matrices(), "sgd", optim.GaLore(rank)) for rank in (2, 3)]
    refused(ranks[0], ranks[1].state_dict(), r".* in GaLore\(rank=3.* expected 'sgd' in GaLore\(rank=2")


def test_of_other_groups_and_dtypes():
    parameters = matrices(shapes=[(12, 5), (4, 9)])
    optimizer = optim.Muon([{"params": parameters, "algorithm": "adamw"}])
    run(optimizer, parameters, 1)
    muon = stepped("muon")
    refused(muon, optimizer.state_dict(), "state_dict's group 0 is of algorithm 'adamw', expected 'matrix'")
    broken = stepped("dct_adamw").state_dict()
    broken["state"][1]["basis_columns"] = broken["state"][1]["basis_columns"].float()
    refused(stepped("dct_adamw"), broken, ".* basis_columns of torch.float32, expected torch.int64")
    broken = muon.state_dict()
    broken["state"][0]["momentum_buffer"] = 3.0
    refused(stepped("muon"), broken, ".* momentum_buffer of type float, expected a tensor")


def test_the_parameter_is_named_where_names_are_known():
    def named(shape):
        p = matrices(shapes=[shape])[0]
        optimizer = optim.Muon([("layers.0.weight", p)])
        run(optimizer, [p], 1)
        return optimizer

    message = (
        r"state_dict has for layers.0.weight, of shape \(4, 9\), momentum_buffer of shape \(4, 8\), expected \(4, 9\)"
    )
    refused(named((4, 9)), named((4, 8)).state_dict(), message)


@pytest.mark.parametrize(("option", "value"), [("basis", optim.DCT(2)), ("basis", "DCT(rank=2)"), ("inner", "sgd")])
def test_an_option_that_the_state_is_made_for_cannot_be_changed(option, value):
    parameters = matrices()
    optimizer = OPTIMIZERS["galore_adamw"](parameters)
    run(optimizer, parameters, 1)
    before = [p.detach().clone() for p in parameters]
    kept, optimizer.param_groups[0][option] = optimizer.param_groups[0][option], value
    message = rf"^ProjectedOptimizer: param_groups\[0\]\['{option}'\] is .*, but the group was made with .*{kept[:3]}"
    with pytest.raises(ValueError, match=message):
        optimizer.step()
    assert all(torch.equal(p, w) for p, w in zip(parameters, before, strict=True))
    optimizer.param_groups[0][option] = kept
    optimizer.step()
