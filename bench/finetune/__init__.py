"""Training steps of a whole transformer with LoRA adapters: what bench/end_to_end.py measures."""
