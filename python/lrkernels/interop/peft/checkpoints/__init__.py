"""PEFT's checkpoints, read and written without PEFT: a method a file, each a ``Kind``."""
