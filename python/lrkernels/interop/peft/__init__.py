"""PEFT: ``accelerate`` runs the LoRA layers of a PEFT model on lrkernels' ops, and ``restore`` undoes it.

``load_adapter`` and ``save_adapter`` carry adapters between PEFT's checkpoints and models with ``LoRALinear`` layers.
"""

from lrkernels.interop.peft.accelerate import accelerate, restore
from lrkernels.interop.peft.accelerate_report import AccelerateReport, LayerReport
from lrkernels.interop.peft.load_adapter import load_adapter
from lrkernels.interop.peft.save_adapter import save_adapter

__all__ = ["AccelerateReport", "LayerReport", "accelerate", "load_adapter", "restore", "save_adapter"]
