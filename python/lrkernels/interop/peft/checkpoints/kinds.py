"""The methods of PEFT that have a layer of lrkernels."""

from lrkernels.interop.peft.checkpoints.boft import BOFTKind
from lrkernels.interop.peft.checkpoints.hra import HRAKind
from lrkernels.interop.peft.checkpoints.lora import LoraKind
from lrkernels.interop.peft.checkpoints.oft import OFTKind

KINDS = (LoraKind(), OFTKind(), BOFTKind(), HRAKind())
