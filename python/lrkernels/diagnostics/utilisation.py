"""How many of its dimensions a representation uses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lrkernels.diagnostics.ranks import exponential_entropy


@dataclass(frozen=True)
class SpectralUtilisation:
    """Of the eigenvalues λ of a covariance with ``dimensions`` features.

    ``hard_rank`` (Σλ)² / Σλ², the participation ratio, counts what carries much; ``soft_rank`` exp(H(λ / Σλ)) counts
    the long tail too, and is never the smaller. Both are ``dimensions`` for isotropic features and 1 for features that
    all follow one. ``concentration`` is the share of the largest eigenvalue.
    """

    dimensions: int
    hard_rank: float
    soft_rank: float
    concentration: float

    @property
    def hard_utilisation(self) -> float:
        return self.hard_rank / self.dimensions

    @property
    def soft_utilisation(self) -> float:
        return self.soft_rank / self.dimensions


@torch.no_grad()
def spectral_utilisation(covariance: Tensor) -> SpectralUtilisation:
    """From the covariance ``[features, features]``, as ``lrkernels.nn.input_statistics(…)[name].covariance`` has it.

        statistics = input_statistics(model, batches, {"ffn": model.block.fc2})  # fc2's inputs: the hidden features
        print(spectral_utilisation(statistics["ffn"].covariance))

    Raises ValueError where it is not square, not finite or zero.

    Jha and Reagen, "Spectral scaling laws in language models: how effectively do feed-forward networks use their latent
    space?", EMNLP 2025.
    """
    if covariance.dim() != 2 or covariance.shape[0] != covariance.shape[1] or not covariance.numel():
        raise ValueError(
            f"spectral_utilisation: covariance has shape {tuple(covariance.shape)}, expected (features, features)"
        )
    if not torch.isfinite(covariance).all():
        raise ValueError("spectral_utilisation: covariance holds NaN or Inf")
    values = torch.linalg.eigvalsh(covariance.double()).clamp(min=0.0)
    total = values.sum()
    if total == 0:
        raise ValueError("spectral_utilisation: covariance is zero, so nothing varies")
    hard = total.square() / values.square().sum()
    return SpectralUtilisation(
        len(values), hard.item(), exponential_entropy(values).item(), (values.max() / total).item()
    )
