"""What a parameter's name says that its shape does not: embeddings, heads and coordinates are matrices too."""

from __future__ import annotations

import re

_EMBEDDING = re.compile(r"(\w+_)?(embed|embeds|embedding|embeddings|emb)(_tokens|_positions|_in)?|wte|wpe")
_HEAD = re.compile(r"(lm_|mlm_|classification_)?heads?|classifier|score|unembed(ding)?|embed_out|to_logits|qa_outputs")
# Angles, entries of skew-symmetric matrices and diagonals that lie in rows, here and in PEFT.
_COORDINATES = re.compile(r"skew|angles|bands")
_ROTATION = re.compile(r"rotation|(boft|oft|hra|goft)_\w+")
# DistributedDataParallel, torch.compile, FSDP, activation checkpoints; PEFT's modules_to_save.
_WRAPPER = re.compile(r"(?<![^.])(module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_SAVED = re.compile(r"\.modules_to_save\.\w+(?=\.)")
_PARAMETRIZED = re.compile(r"parametrizations\.(\w+)\.original\d*$")


def role_of_name(name: str) -> str | None:
    """``"an embedding"``, ``"a head"``, ``"coordinates"`` or None, by the parameter's own name and that of the module
    that owns it, or whose numbered child does (``classifier.2.weight``). What wraps a model or a layer does not count.
    """
    name = _PARAMETRIZED.sub(r"\1", _SAVED.sub("", _WRAPPER.sub("", name)))
    *path, own = name.split(".")
    if _COORDINATES.fullmatch(own) or any(map(_ROTATION.fullmatch, [*path, own])):
        return "coordinates"
    owner = path[-1] if path else ""
    above = path[-2] if len(path) > 1 and (owner.isdecimal() or owner == "out_proj") else ""
    if _HEAD.fullmatch(owner) or _HEAD.fullmatch(above) or path == ["output"]:  # Llama's own code calls it output
        return "a head"
    if _EMBEDDING.fullmatch(owner) or _EMBEDDING.fullmatch(own):
        return "an embedding"
    return None
