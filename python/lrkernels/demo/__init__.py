"""``python -m lrkernels.demo``: train a small transformer on real text, dense, low-rank and with LoRA, and compare."""
