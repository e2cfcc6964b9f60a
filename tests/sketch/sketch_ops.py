"""One call of every op of the family, for the tests that all of them must pass."""

from functools import partial

import torch

import lrkernels
from lrkernels import reference

OPS = {
    "sketch": (lrkernels.sketch, reference.sketch, (5,), {"seed": 3}),
    "sketch dct": (lrkernels.sketch, reference.sketch, (2, torch.tensor([0, 3])), {"kind": "dct", "dim": 0}),
    "unsketch": (lrkernels.unsketch, reference.unsketch, (11,), {"kind": "sparse_sign", "dim": -2}),
    "orthonormalize": (lrkernels.orthonormalize, reference.orthonormalize, (), {}),
    "range_finder": (lrkernels.range_finder, reference.range_finder, (3,), {"oversample": 2, "seed": 5}),
    "rsvd": (lrkernels.rsvd, reference.rsvd, (3,), {"seed": 1}),
    "low_rank_approx": (lrkernels.low_rank_approx, reference.low_rank_approx, (3,), {}),
    "polar": (lrkernels.polar, reference.polar, (), {}),
    "polar exact": (lrkernels.polar, reference.polar, (), {"method": "exact"}),
    "polar with coefficients": (
        lrkernels.polar,
        reference.polar,
        (),
        {"steps": 2, "coefficients": [2.0, -1.5, 0.5, 1.5, -0.5, 0.0]},
    ),
    "spectral_norm_bound": (lrkernels.spectral_norm_bound, reference.spectral_norm_bound, (), {"iters": 4}),
}


def names():
    return tuple(OPS)


def call(name):
    """(the twin, its reference, the raw op), each a function of the matrix alone."""
    twin, plain, args, kwargs = OPS[name]
    raw = getattr(torch.ops.lrk, twin.__name__)
    return tuple(partial(_call, function, args, kwargs) for function in (twin, plain, raw))


def _call(function, args, kwargs, a):
    return function(a, *args, **kwargs)


def as_tuple(outputs):
    return outputs if isinstance(outputs, tuple) else (outputs,)


def comparable(name, a, outputs):
    """What two right answers have in common: of a basis its projector, of everything else the numbers."""
    outputs = as_tuple(outputs)
    if name == "range_finder":
        return (outputs[0] @ outputs[0].mT,)
    return outputs
