"""The rows of the demo's table. Another one is another decorated function, which returns the model to train."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import nn

from lrkernels import optim
from lrkernels.demo.model import ByteTransformer
from lrkernels.nn import GivensLinear, LoRALinear, LowRankLinear, OFTLinear, replace_linear


@dataclass(frozen=True)
class Setup:
    """Sizes shared by all experiments; the defaults are the full demo."""

    seed: int = 0
    device: str = "cpu"
    width: int = 192
    layers: int = 3
    heads: int = 6
    context: int = 128
    batch: int = 8
    training_steps: int = 250
    tuning_steps: int = 80
    learning_rate: float = 3e-3
    ffn_rank: int = 64
    lora_rank: int = 8
    oft_block: int = 32
    validation_windows: int = 128
    validations: int = 5
    timing_rounds: int = 15


QUICK = Setup(
    width=128,
    heads=4,
    training_steps=50,
    tuning_steps=30,
    ffn_rank=32,
    validation_windows=32,
    validations=2,
    timing_rounds=5,
)


def _shared(setup: Setup) -> dict[str, Any]:
    return {"lr": setup.learning_rate, "betas": (0.9, 0.95), "weight_decay": 0.05}


def adamw(setup: Setup, model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], **_shared(setup))


def muon(setup: Setup, model: nn.Module) -> torch.optim.Optimizer:
    return optim.Muon(optim.param_groups(model, report=None), **_shared(setup))


def galore(setup: Setup, model: nn.Module) -> torch.optim.Optimizer:
    """Of a quarter of the directions, chosen often enough for a short training."""
    groups = optim.param_groups(model, report=None)
    basis = optim.GaLore(setup.width // 4)
    return optim.ProjectedOptimizer(groups, "adamw", basis, refresh_every=20, **_shared(setup))


@dataclass(frozen=True)
class Experiment:
    """``build(setup, trained)`` makes the model; ``trained`` holds, by name, the models trained before it.

    ``text`` says what it trains on: the library for ``setup.training_steps``, or the held-out package for
    ``setup.tuning_steps``. ``optimizer(setup, model)`` makes what trains it.
    """

    name: str
    title: str
    text: Literal["library", "package"]
    build: Callable[[Setup, dict[str, nn.Module]], nn.Module]
    optimizer: Callable[[Setup, nn.Module], torch.optim.Optimizer] = adamw


EXPERIMENTS: list[Experiment] = []


def experiment(name: str, title: str, text: Literal["library", "package"] = "library", optimizer=adamw):
    """Add the decorated builder to the demo, after those above it."""

    def add(build: Callable[[Setup, dict[str, nn.Module]], nn.Module]):
        EXPERIMENTS.append(Experiment(name, title, text, build, optimizer))
        return build

    return add


@experiment("dense", "dense")
def dense(setup: Setup, trained: dict[str, nn.Module]) -> nn.Module:
    return ByteTransformer(setup.width, setup.layers, setup.heads, setup.context)


@experiment("muon", "dense, by Muon", optimizer=muon)
def dense_by_muon(setup: Setup, trained: dict[str, nn.Module]) -> nn.Module:
    return dense(setup, trained)


@experiment("galore", "dense, by GaLore", optimizer=galore)
def dense_by_galore(setup: Setup, trained: dict[str, nn.Module]) -> nn.Module:
    return dense(setup, trained)


@experiment("lowrank_ffn", "low-rank FFN")
def lowrank_ffn(setup: Setup, trained: dict[str, nn.Module]) -> nn.Module:
    model = dense(setup, trained)
    replace_linear(
        model,
        lambda linear: LowRankLinear(linear.in_features, linear.out_features, setup.ffn_rank),
        target_modules=["ffn.fc1", "ffn.fc2"],
    )
    return model


@experiment("lora", "LoRA on the dense model", text="package")
def lora(setup: Setup, trained: dict[str, nn.Module]) -> nn.Module:
    model = copy.deepcopy(trained["dense"])
    factory = partial(LoRALinear, r=setup.lora_rank, alpha=2 * setup.lora_rank, dropout=0.05)
    replace_linear(model, factory, target_modules="all-linear")
    return model


@experiment("oft", "OFT on the dense model", text="package")
def oft(setup: Setup, trained: dict[str, nn.Module]) -> nn.Module:
    model = copy.deepcopy(trained["dense"])
    replace_linear(model, partial(OFTLinear, block_size=setup.oft_block), target_modules="all-linear")
    return model


@experiment("givens", "Givens on the dense model", text="package")
def givens(setup: Setup, trained: dict[str, nn.Module]) -> nn.Module:
    model = copy.deepcopy(trained["dense"])
    replace_linear(model, GivensLinear, target_modules="all-linear")
    return model
