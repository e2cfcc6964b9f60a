"""Two processes with gloo, under DDP and under FSDP2, come to what one process does; so do their checkpoints."""

import pytest
import torch
from distributed_worker import STEPS, model_and_batches, train, work
from fresh_process import CONTEXT

NAMES = ["muon", "normuon", "dion", "galore_adamw", "fira_adamw", "flora_staggered", "dct_sgd"]
every_optimizer = pytest.mark.parametrize("name", NAMES)

if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
    pytest.skip("torch was built without gloo", allow_module_level=True)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What both processes found, for all optimizers: starting them takes longer than their work."""
    folder = tmp_path_factory.mktemp("processes")
    workers = [CONTEXT.Process(target=work, args=(str(folder), rank, 2, NAMES), daemon=True) for rank in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(240)
        assert worker.exitcode == 0
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.fixture(scope="module")
def alone():
    found = {}
    for name in NAMES:
        model, batches = model_and_batches()
        optimizer = train(name, model, batches, range(2))
        half = {key: dict(optimizer.state[p]) for key, p in model.named_parameters()}
        half = {key: {k: v.clone() for k, v in state.items()} for key, state in half.items()}
        train(name, model, batches, range(2, STEPS), optimizer)
        found[name] = {key: p.detach() for key, p in model.named_parameters()}, half
    return found


def check_moved_alike(ours, expected):
    """To a part in a hundred of the way from the start: the gradients' roundings differ, and polar factors and Adam's
    division make more of that."""
    start = dict(model_and_batches()[0].named_parameters())
    for key, p in expected.items():
        way = (p - start[key]).norm()
        assert way > 1e-3 * start[key].norm(), key
        assert (ours[key] - p).norm() < 0.01 * way, key


@every_optimizer
def test_ddp(ranks, alone, name):
    first, second = (rank[name]["ddp"] for rank in ranks)
    assert all(torch.equal(first[key], second[key]) for key in first)
    check_moved_alike(first, alone[name][0])


@every_optimizer
def test_fsdp2_with_a_checkpoint_in_between(ranks, alone, name):
    for rank in ranks:
        check_moved_alike(rank[name]["fsdp"]["parameters"], alone[name][0])


@every_optimizer
def test_the_checkpoint_is_that_of_one_process(ranks, alone, name):
    """By name and whole, so that any number of processes may load it."""
    saved = ranks[0][name]["fsdp"]["checkpoint"]["optimizer"]["state"]
    assert saved.keys() == alone[name][1].keys()
    for key, state in alone[name][1].items():
        assert saved[key].keys() == state.keys()
        for entry, expected in state.items():
            assert saved[key][entry].dtype == expected.dtype
            torch.testing.assert_close(saved[key][entry], expected, rtol=1e-3, atol=1e-5)


@every_optimizer
def test_no_process_holds_more_than_its_rows(ranks, name):
    for number, rank in enumerate(ranks):
        held = rank[name]["fsdp"]["held"]
        assert len(held) >= 3
        for shape, local in held:
            first = -(-shape[0] // 2)
            assert local == ((first, shape[0] - first)[number], *shape[1:])


def test_rows_with_replicas_and_no_other_placement(ranks):
    for rank in ranks:
        found = rank["placements"]
        assert len(found["far"]) == 3 and max(found["far"].values()) < 1e-5
        assert len(found["said"]) == 3
        for placements, message in found["said"].items():
            assert message == (
                "Muon: params has a parameter, of shape (7, 5); a DTensor is placed as "
                f"{placements}, expected one Shard(0) and Replicate() else"
            )
