"""``torch.ops.lrk.*`` made complete: fakes, gradients, autocast, vmap, and the Python twins with early checks."""

from lrkernels.ops.lowrank import lowrank_expand, lowrank_linear, lowrank_merge, lowrank_project

__all__ = ["lowrank_expand", "lowrank_linear", "lowrank_merge", "lowrank_project"]
