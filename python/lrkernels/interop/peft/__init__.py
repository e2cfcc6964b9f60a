"""PEFT: ``accelerate`` runs the LoRA layers of a PEFT model on lrkernels' ops, ``restore`` undoes it."""

from lrkernels.interop.peft.accelerate import accelerate, restore
from lrkernels.interop.peft.accelerate_report import AccelerateReport, LayerReport

__all__ = ["AccelerateReport", "LayerReport", "accelerate", "restore"]
