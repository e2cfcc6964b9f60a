"""Adapters of a frozen linear layer, a base class for new ones, and the layer that gives them merging and names."""

from lrkernels.adapters.adalora import AdaLoRA, orthogonality_penalty
from lrkernels.adapters.adapted_linear import AdaptedLinear, adapted_layers
from lrkernels.adapters.adapter import Adapter
from lrkernels.adapters.cola import CoLA
from lrkernels.adapters.dora import DoRA
from lrkernels.adapters.dylora import DyLoRA
from lrkernels.adapters.lora import LoRA
from lrkernels.adapters.lora_fa import LoRAFA
from lrkernels.adapters.lora_plus import lora_plus_groups
from lrkernels.adapters.lora_xs import LoRAXS
from lrkernels.adapters.low_rank_adapter import Factors, LowRankAdapter
from lrkernels.adapters.pissa import PiSSA
from lrkernels.adapters.rank_allocator import RankAllocator
from lrkernels.adapters.relora import restart
from lrkernels.adapters.singlora import SingLoRA, count_steps
from lrkernels.adapters.vera import VeRA, VeRAFactors

__all__ = [
    "AdaLoRA",
    "AdaptedLinear",
    "Adapter",
    "CoLA",
    "DoRA",
    "DyLoRA",
    "Factors",
    "LoRA",
    "LoRAFA",
    "LoRAXS",
    "LowRankAdapter",
    "PiSSA",
    "RankAllocator",
    "SingLoRA",
    "VeRA",
    "VeRAFactors",
    "adapted_layers",
    "count_steps",
    "lora_plus_groups",
    "orthogonality_penalty",
    "restart",
]
