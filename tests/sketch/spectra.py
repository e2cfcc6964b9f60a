"""Matrices with given singular values, and how good a low-rank approximation is: in float64, by NumPy."""

import numpy as np
import torch

SPECTRA = {
    "exponential": lambda i, n: 0.9**i,
    "polynomial": lambda i, n: 1 / (1 + i),
    "flat": lambda i, n: np.ones_like(i, dtype=float),
    "a step": lambda i, n: np.where(i < n // 8, 1.0, 1e-3),
    "exactly low rank": lambda i, n: np.where(i < 5, 1.0, 0.0),
}


def orthogonal(generator, rows, cols):
    return np.linalg.qr(generator.standard_normal((rows, cols)))[0]


def matrix(rows, cols, spectrum, seed=0):
    """A float64 tensor U·diag(spectrum(i, n))·Vᵀ; a callable spectrum, or the singular values themselves."""
    generator, size = np.random.default_rng(seed), min(rows, cols)
    values = spectrum(np.arange(size), size) if callable(spectrum) else np.asarray(spectrum, dtype=float)
    u, v = orthogonal(generator, rows, size), orthogonal(generator, cols, size)
    return torch.from_numpy(u * values @ v.T)


def noise(rows, cols, seed=0):
    """Gaussian entries: what is called a flat spectrum of a weight."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((rows, cols)))


def best_error(a, rank):
    """‖A − A_k‖_F of the best A_k."""
    return np.sqrt((np.linalg.svd(a.double().numpy(), compute_uv=False)[rank:] ** 2).sum())


def orthogonality_error(q):
    """The largest entry of |QᵀQ − I|."""
    q = q.detach().cpu().double().numpy()
    return np.abs(q.swapaxes(-1, -2) @ q - np.eye(q.shape[-1])).max() if q.shape[-1] else 0.0
