"""A model to compress, with spectra that fall at different rates, and NumPy's view of them."""

import numpy as np
import torch
from torch import nn


def falling(rows, cols, rate, seed):
    """A float64 matrix whose singular values are rate⁰, rate¹, …"""
    generator = np.random.default_rng(seed)
    u, v = (np.linalg.qr(generator.standard_normal((n, min(rows, cols))))[0] for n in (rows, cols))
    return torch.from_numpy(u * rate ** np.arange(min(rows, cols), dtype=float) @ v.T)


def network():
    """24 → 20 → 24 → 6; the second weight's spectrum falls fastest."""
    model = nn.Sequential(nn.Linear(24, 20), nn.Tanh(), nn.Linear(20, 24), nn.Tanh(), nn.Linear(24, 6)).double()
    with torch.no_grad():
        for seed, (layer, rate) in enumerate(zip(model[::2], (0.8, 0.4, 0.9), strict=True)):
            layer.weight.copy_(falling(*layer.weight.shape, rate, seed))
    return model


def values(matrix):
    return np.linalg.svd(np.asarray(matrix.detach()), compute_uv=False)


def tail(matrix, rank):
    return np.sqrt((values(matrix)[rank:] ** 2).sum())
