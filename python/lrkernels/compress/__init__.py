"""Models made smaller by low-rank approximation: which ranks, when, and what to do with what is left over."""

from lrkernels.compress.model import compress, linear_layers
from lrkernels.compress.penalties import frobenius_decay, nuclear_penalty
from lrkernels.compress.ranks import ranks_above, ranks_within, singular_values
from lrkernels.compress.residuals import apply_residuals, compensate, weight_residuals
from lrkernels.compress.sharing import share_weight
from lrkernels.compress.splits import splits_within
from lrkernels.compress.stable_rank_switch import StableRankSwitch
from lrkernels.compress.truncation import add_nuclear_subgradient_, truncate_

__all__ = [
    "StableRankSwitch",
    "add_nuclear_subgradient_",
    "apply_residuals",
    "compensate",
    "compress",
    "frobenius_decay",
    "linear_layers",
    "nuclear_penalty",
    "ranks_above",
    "ranks_within",
    "share_weight",
    "singular_values",
    "splits_within",
    "truncate_",
    "weight_residuals",
]
