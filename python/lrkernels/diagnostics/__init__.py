"""What the spectra of weights, updates and activations say about a model."""

from lrkernels.diagnostics.heavy_tail import heavy_tail_exponent
from lrkernels.diagnostics.intruders import Intruders, intruder_dimensions
from lrkernels.diagnostics.ranks import effective_rank, numerical_rank, stable_rank, utilised_rank
from lrkernels.diagnostics.utilisation import SpectralUtilisation, spectral_utilisation

__all__ = [
    "Intruders",
    "SpectralUtilisation",
    "effective_rank",
    "heavy_tail_exponent",
    "intruder_dimensions",
    "numerical_rank",
    "spectral_utilisation",
    "stable_rank",
    "utilised_rank",
]
