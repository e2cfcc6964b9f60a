"""Adapters of a frozen linear layer, a base class for new ones, and the layer that gives them merging and names."""

from lrkernels.adapters.adalora import AdaLoRA, orthogonality_penalty
from lrkernels.adapters.adapted_linear import AdaptedLinear, adapted_layers
from lrkernels.adapters.adapter import Adapter
from lrkernels.adapters.boft import BOFT
from lrkernels.adapters.cola import CoLA
from lrkernels.adapters.dora import DoRA
from lrkernels.adapters.dylora import DyLoRA
from lrkernels.adapters.eigenlorax import eigenlorax_
from lrkernels.adapters.eva import eva_
from lrkernels.adapters.first_gradients import lora_ga_, lora_sb_
from lrkernels.adapters.givens import Givens
from lrkernels.adapters.goft import GOFT
from lrkernels.adapters.hra import HRA
from lrkernels.adapters.lamda import LaMDA
from lrkernels.adapters.lora import LoRA
from lrkernels.adapters.lora_fa import LoRAFA
from lrkernels.adapters.lora_plus import lora_plus_groups
from lrkernels.adapters.lora_xs import LoRAXS
from lrkernels.adapters.low_rank_adapter import Factors, LowRankAdapter
from lrkernels.adapters.nora import NoRA
from lrkernels.adapters.offset_lora import OffsetLoRA
from lrkernels.adapters.oft import OFT
from lrkernels.adapters.pissa import PiSSA
from lrkernels.adapters.psoft import PSOFT
from lrkernels.adapters.rank_allocator import RankAllocator
from lrkernels.adapters.relora import restart
from lrkernels.adapters.rotation_adapter import RotationAdapter
from lrkernels.adapters.singlora import SingLoRA, count_steps
from lrkernels.adapters.sorsa import SORSA
from lrkernels.adapters.svft import SVFT
from lrkernels.adapters.tlora import TLoRA
from lrkernels.adapters.vera import VeRA, VeRAFactors

__all__ = [
    "BOFT",
    "GOFT",
    "HRA",
    "OFT",
    "PSOFT",
    "SORSA",
    "SVFT",
    "AdaLoRA",
    "AdaptedLinear",
    "Adapter",
    "CoLA",
    "DoRA",
    "DyLoRA",
    "Factors",
    "Givens",
    "LaMDA",
    "LoRA",
    "LoRAFA",
    "LoRAXS",
    "LowRankAdapter",
    "NoRA",
    "OffsetLoRA",
    "PiSSA",
    "RankAllocator",
    "RotationAdapter",
    "SingLoRA",
    "TLoRA",
    "VeRA",
    "VeRAFactors",
    "adapted_layers",
    "count_steps",
    "eigenlorax_",
    "eva_",
    "lora_ga_",
    "lora_plus_groups",
    "lora_sb_",
    "orthogonality_penalty",
    "restart",
]
