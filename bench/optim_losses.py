"""Training losses of the optimizers on the demo's corpus, with the demo's model, schedule and batches.

    python bench/optim_losses.py [--steps 150] [--save NAME]

Everybody starts from the same weights and sees the same batches. Learning rates are by hand and not tuned:
`torch.optim.Muon` and ours have the same, and AdamW beside them for what is no hidden matrix. Weights decay by the same
share in every step whatever the learning rate, norms and biases do not. galore-torch takes part where it is installed.
A table of bits per byte: the mean of the last tenth of the training losses, and of the validation text.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from compare import machine
from torch import nn

from lrkernels import optim
from lrkernels.demo.corpus import Corpus, load_corpus, sample_batch
from lrkernels.demo.experiments import Setup
from lrkernels.demo.model import ByteTransformer
from lrkernels.demo.train import _learning_rate_share, bits_per_byte

RESULTS = Path(__file__).resolve().parent / "results" / "optim_losses"
BETAS = (0.9, 0.95)
ADAMW_LR = 3e-3
DECAY = 0.05 * ADAMW_LR  # of a weight in one step, before the schedule: an optimizer's is lr * weight_decay
Build = Callable[[optim.ParamGroups], list[torch.optim.Optimizer]]


def adamw(groups: list[dict]) -> torch.optim.Optimizer:
    own = [{key: group[key] for key in ("params", "weight_decay") if key in group} for group in groups]
    return torch.optim.AdamW(own, lr=ADAMW_LR, betas=BETAS, weight_decay=DECAY / ADAMW_LR)


def torch_muon(groups: optim.ParamGroups) -> list[torch.optim.Optimizer]:
    matrices = [p for _, p in groups[0]["params"]]
    muon = torch.optim.Muon(matrices, lr=3e-3, weight_decay=DECAY / 3e-3, adjust_lr_fn="match_rms_adamw")
    return [muon, adamw(groups[1:])]


def galore_torch(groups: optim.ParamGroups) -> list[torch.optim.Optimizer]:
    from galore_torch import GaLoreAdamW

    group = {"params": [p for _, p in groups[0]["params"]], "rank": 48, "update_proj_gap": 20, "scale": 1.0}
    options = {"lr": 3e-3, "betas": BETAS, "eps": 1e-8, "weight_decay": DECAY / 3e-3, "no_deprecation_warning": True}
    return [GaLoreAdamW([{**group, "proj_type": "std"}], **options), adamw(groups[1:])]


def ours(cls: type, *arguments, lr: float, **options) -> Build:
    return lambda groups: [cls(groups, *arguments, lr=lr, weight_decay=DECAY / lr, betas=BETAS, **options)]


def projected(basis: optim.Basis) -> Build:
    return ours(optim.ProjectedOptimizer, "adamw", basis, lr=3e-3, refresh_every=20)


OPTIMIZERS: dict[str, Build] = {
    "AdamW": lambda groups: [adamw(groups)],
    "torch.optim.Muon": torch_muon,
    "Muon": ours(optim.Muon, lr=3e-3),
    "Muon, Polar Express": ours(optim.Muon, lr=3e-3, coefficients=optim.polar_express(5)),
    "NorMuon": ours(optim.NorMuon, lr=3e-3),
    "Dion, rank 1/4": ours(optim.Dion, lr=1e-2),
    "GaLore, rank 48": projected(optim.GaLore(48)),
    "Fira, rank 48": projected(optim.Fira(48)),
    "DCT, rank 48": projected(optim.DCT(48)),
    "Flora, rank 48": projected(optim.Flora(48)),
}


if importlib.util.find_spec("galore_torch") is not None:
    OPTIMIZERS["galore-torch, rank 48"] = galore_torch


def losses_of(build: Build, setup: Setup, corpus: Corpus, steps: int) -> tuple[list[float], float]:
    """Bits per byte at every step, and of the validation text afterwards."""
    torch.manual_seed(setup.seed)
    batches = torch.Generator().manual_seed(setup.seed)
    model = ByteTransformer(setup.width, setup.layers, setup.heads, setup.context)
    rest = {"lr": ADAMW_LR, "weight_decay": DECAY / ADAMW_LR}
    optimizers = build(optim.param_groups(model, adamw=rest, report=None))
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _learning_rate_share(step, steps))
        for optimizer in optimizers
    ]
    losses = []
    for _ in range(steps):
        tokens, targets = sample_batch(corpus.library.train, setup.batch, setup.context, batches)
        loss = nn.functional.cross_entropy(model(tokens).flatten(0, 1), targets.flatten())
        loss.backward()
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        losses.append(loss.item() / math.log(2))
    return losses, bits_per_byte(model, corpus.library.validation, setup)


def plot(results: list[dict], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 5.5), layout="constrained")
    lrkernels = {name for name in OPTIMIZERS if name != "AdamW" and "torch" not in name}
    for result in results:
        curve = torch.tensor(result["losses"])
        window = max(1, len(curve) // 15)
        smooth = curve.unfold(0, window, 1).mean(1)
        label = f"{result['optimizer']}: {result['validation_bits']:.3f}"
        style = "-" if result["optimizer"] in lrkernels else "--"
        axes.plot(range(window, len(curve) + 1), smooth, style, label=label)
    axes.set(xlabel="step", ylabel=f"training bits per byte, mean of {window} steps", yscale="log")
    axes.legend(title="validation bits per byte")
    figure.savefig(path, dpi=120)


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--width", type=int, default=Setup.width, help="of the model")
    parser.add_argument("--only", nargs="+", choices=list(OPTIMIZERS), metavar="OPTIMIZER")
    parser.add_argument("--save", metavar="NAME", help="write bench/results/optim_losses/NAME.json and .png")
    arguments = parser.parse_args(words)
    if arguments.steps < 1:
        parser.error(f"--steps is {arguments.steps}, expected at least 1")
    setup, corpus = Setup(width=arguments.width), load_corpus()
    results = []
    print("| optimizer | bits per byte, training | validation |\n|---|---:|---:|")
    for name in arguments.only or OPTIMIZERS:
        losses, validation = losses_of(OPTIMIZERS[name], setup, corpus, arguments.steps)
        last = sum(losses[-max(1, len(losses) // 10) :]) / max(1, len(losses) // 10)
        print(f"| {name} | {last:.3f} | {validation:.3f} |", flush=True)
        results.append({"optimizer": name, "losses": losses, "validation_bits": validation})
    if arguments.save:
        RESULTS.mkdir(parents=True, exist_ok=True)
        document = {"machine": machine.describe("cpu"), "steps": arguments.steps, "width": arguments.width}
        document["results"] = results
        (RESULTS / f"{arguments.save}.json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
        plot(results, RESULTS / f"{arguments.save}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
