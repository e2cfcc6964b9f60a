"""What one of two processes with gloo on the CPU does: train under DDP and under FSDP2 and save what came of it.

test_optim_distributed.py starts them, and trains the same model in one process.
"""

import copy
import os

import torch
import torch.distributed as dist
from optimizer_cases import OPTIMIZERS
from torch.distributed import init_device_mesh
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from lrkernels import optim
from lrkernels.demo.model import ByteTransformer
from lrkernels.optim import stacks

STEPS = 4


def model_and_batches():
    """Stacks of three matrices, some with 15 rows: neither divides by two."""
    torch.manual_seed(0)
    model = ByteTransformer(12, 3, 2, 8)
    for block in model.blocks:
        block.ffn.fc1, block.ffn.fc2 = torch.nn.Linear(12, 15), torch.nn.Linear(15, 12)
    return model, torch.randint(256, (STEPS, 4, 9))


def build(name, model):
    groups = optim.param_groups(model, adamw={"lr": 1e-3}, report=None)
    return OPTIMIZERS[name](groups, **({"lr": 0.5} if name.endswith("sgd") else {}))


def train(name, model, batches, steps=range(STEPS), optimizer=None):
    optimizer = optimizer or build(name, model)
    for step in steps:
        tokens = batches[step]
        optimizer.zero_grad()
        logits = model(tokens[:, :-1])
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
        optimizer.step()
    return optimizer


def own_share(batches):
    rank, processes = dist.get_rank(), dist.get_world_size()
    return batches.chunk(processes, dim=1)[rank]


def whole(model):
    return {
        name: (p.full_tensor() if hasattr(p, "full_tensor") else p).detach().clone()
        for name, p in model.named_parameters()
    }


def under_ddp(name):
    model, batches = model_and_batches()
    wrapped = DistributedDataParallel(model)
    train(name, wrapped, own_share(batches))
    return whole(model)


def sharded(model):
    for block in model.blocks:
        fully_shard(block)
    return fully_shard(model)


def under_fsdp(name):
    """Half of the steps, a checkpoint of whole tensors, and the rest in a new model with a new optimizer."""
    model, batches = model_and_batches()
    sharded(model)
    optimizer = train(name, model, own_share(batches), range(2))
    options = StateDictOptions(full_state_dict=True, cpu_offload=False)
    state = get_optimizer_state_dict(model, optimizer, options=options)
    checkpoint = {"model": whole(model), "optimizer": copy.deepcopy(state)}
    held = {
        (tuple(value.shape), tuple(value.to_local().shape))
        for values in optimizer.state.values()
        for value in values.values()
        if hasattr(value, "to_local")
    }

    again, _ = model_and_batches()
    with torch.no_grad():
        for key, p in again.named_parameters():
            p.copy_(checkpoint["model"][key])
    sharded(again)
    resumed = build(name, again)
    if dist.get_rank() != 0:
        state = {}
    broadcast = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_optimizer_state_dict(again, resumed, state, options=broadcast)
    train(name, again, own_share(batches), range(2, STEPS), resumed)
    return {"parameters": whole(again), "checkpoint": checkpoint, "held": held}


def placed(placements, mesh, shapes=((7, 5), (4, 9), (7, 5))):
    """Matrices with gradients of ones' own, whole or as DTensors."""
    generator = torch.Generator().manual_seed(0)
    parameters = []
    for shape in shapes:
        values = [torch.randn(shape, generator=generator) for _ in range(2)]
        if placements is not None:
            values = [distribute_tensor(value, mesh, placements) for value in values]
        parameters.append(torch.nn.Parameter(values[0]))
        parameters[-1].grad = values[1]
    return parameters


def under_placements():
    """How far a step of matrices that are also replicated is from that of whole ones, and what other placements say."""
    flat, hybrid = init_device_mesh("cpu", (2,)), init_device_mesh("cpu", (1, 2))
    far = {}
    for name in ("muon", "dion", "galore_adamw"):
        whole, sharded = placed(None, None), placed((Replicate(), Shard(0)), hybrid)
        for parameters in (whole, sharded):
            OPTIMIZERS[name](parameters).step()
        full = [p.full_tensor() for p in sharded]
        far[name] = max((p - q).abs().max().item() for p, q in zip(whole, full, strict=True))
        assert all(p.placements == (Replicate(), Shard(0)) for p in sharded)
    said = {}
    for placements, mesh in (((Shard(1),), flat), ((Replicate(),), flat), ((Shard(0), Shard(0)), hybrid)):
        try:
            optim.Muon(placed(placements, mesh))
        except ValueError as error:
            said[str(placements)] = str(error)
    return {"far": far, "said": said}


def work(folder, rank, processes, names):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=processes)
    found = {}
    for name in names:
        # Of half of the optimizers, stacks of one matrix and of two, so that a process may have none to work on.
        stacks.STACK_BYTES = 1000 if name in ("muon", "galore_adamw", "fira_adamw") else 2**20
        found[name] = {"ddp": under_ddp(name), "fsdp": under_fsdp(name)}
    found["placements"] = under_placements()
    torch.save(found, f"{folder}/{rank}.pt")
    dist.barrier()
    # A gloo thread that is still there when the interpreter takes its objects apart may abort the process.
    os._exit(0)
