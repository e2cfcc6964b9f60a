"""PEFT: ``accelerate`` runs the LoRA, OFT, BOFT and HRA layers of a PEFT model on the ops, and ``restore`` undoes it.

``load_adapter`` and ``save_adapter`` carry such adapters between PEFT's checkpoints and models with ``LoRALinear``,
``OFTLinear``, ``BOFTLinear`` or ``HouseholderLinear`` layers.
"""

from lrkernels.interop.peft.accelerate import accelerate, restore
from lrkernels.interop.peft.accelerate_report import AccelerateReport, LayerReport
from lrkernels.interop.peft.checkpoints.load import load_adapter
from lrkernels.interop.peft.checkpoints.save import save_adapter

__all__ = ["AccelerateReport", "LayerReport", "accelerate", "load_adapter", "restore", "save_adapter"]
