"""Every optimizer of lrkernels.optim once, in settings in which all of its parts run within a few steps."""

import torch

from lrkernels import optim

BASES = {
    "galore": optim.GaLore(rank=3),
    "galore_warm": optim.GaLore(rank=3, warm=True),
    "fira": optim.Fira(rank=3),
    "flora": optim.Flora(rank=3, seed=5),
    "dct": optim.DCT(rank=3),
}


def _projected(basis, inner):
    def make(params, **options):
        return optim.ProjectedOptimizer(params, inner, basis, **{"refresh_every": 2, "lr": 1e-2, **options})

    return make


def _staggered(params, **options):
    return _projected(BASES["flora"], "adamw")(params, **{"refresh_every": 3, "stagger": True, **options})


OPTIMIZERS = {
    "muon": lambda params, **options: optim.Muon(params, **{"lr": 1e-2, **options}),
    "normuon": lambda params, **options: optim.NorMuon(params, **{"lr": 1e-2, **options}),
    "dion": lambda params, **options: optim.Dion(params, **{"rank_fraction": 0.5, **options}),
    **{f"{name}_{inner}": _projected(basis, inner) for name, basis in BASES.items() for inner in ("adamw", "sgd")},
    "flora_staggered": _staggered,
}
NAMES = list(OPTIMIZERS)

# Two tall, two wide and a square one: three stacks, one of a single matrix.
SHAPES = [(12, 5), (4, 9), (12, 5), (6, 6), (4, 9)]


def matrices(dtype=torch.float32, seed=0, shapes=SHAPES):
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in shapes]


def set_gradients(parameters, step, seed=1):
    """The same for every optimizer, another at every step."""
    for index, p in enumerate(parameters):
        generator = torch.Generator().manual_seed(seed + 1000 * step + index)
        p.grad = torch.randn(p.shape, generator=generator).to(p.dtype)


def run(optimizer, parameters, steps, start=0):
    for step in range(start, start + steps):
        set_gradients(parameters, step)
        optimizer.step()
