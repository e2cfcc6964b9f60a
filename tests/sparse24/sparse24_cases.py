"""What the tests of the 2:4 ops share: matrices, exact products, tolerances."""

import numpy as np
import torch

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
EPS = {torch.float32: 2e-6, torch.float64: 1e-13, torch.bfloat16: 2**-8, torch.float16: 2**-10}


def random_mask(out, features, transposable=False):
    """Two of every four, chosen by NumPy."""
    generator = np.random.default_rng(out * 1000 + features)
    if not transposable:
        keys = generator.random((out, features // 4, 4))
        kept = np.zeros(keys.shape, bool)
        np.put_along_axis(kept, np.argsort(keys, axis=-1)[..., :2], True, axis=-1)
        return torch.from_numpy(kept.reshape(out, features))
    tile = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]], bool)
    mask = np.zeros((out, features), bool)
    for row in range(0, out, 4):
        for column in range(0, features, 4):
            order = tile[generator.permutation(4)]
            mask[row : row + 4, column : column + 4] = order[:, generator.permutation(4)]
    return torch.from_numpy(mask)


def packbits(mask):
    """The bitmask of a bool matrix."""
    packed = np.packbits(mask.cpu().numpy(), axis=1, bitorder="little")
    return torch.from_numpy(packed.reshape(mask.shape[0], (mask.shape[1] + 7) // 8))


def make(device, dtype, rows, out, features, rank=None, leading=None, transposable=False):
    """x, weight (zero where nothing is kept), values, bitmask, down, up, bias of one problem, on ``device``."""
    mask = random_mask(out, features, transposable)
    weight = torch.randn(out, features, dtype=torch.float64).to(dtype)
    values = weight[mask].reshape(out, features // 2)
    x = torch.randn(*(leading if leading is not None else (rows,)), features, dtype=torch.float64).to(dtype)
    down = up = None
    if rank is not None:
        down = torch.randn(rank, features, dtype=torch.float64).to(dtype)
        up = (torch.randn(out, rank, dtype=torch.float64) / max(rank, 1)).to(dtype)
    bias = torch.randn(out, dtype=torch.float64).to(dtype)
    tensors = (x, torch.where(mask, weight, 0), values, packbits(mask), down, up, bias)
    return tuple(None if t is None else t.to(device) for t in tensors)


def exact(*tensors):
    return tuple(None if t is None else t.detach().cpu().double() for t in tensors)


def assert_near(ours, expected, dtype, terms=1.0, what=""):
    """Within a rounding of the result, and of the terms that were summed for it."""
    assert ours.dtype == dtype and ours.shape == expected.shape, what
    bound = EPS[dtype] * (expected.abs() + (terms if dtype in (torch.float32, torch.float64) else 1e-5 * terms) + 1e-30)
    difference = (ours.detach().cpu().double() - expected).abs()
    assert (difference <= bound).all(), f"{what}: {(difference / bound).max().item():.2f} of the bound"
