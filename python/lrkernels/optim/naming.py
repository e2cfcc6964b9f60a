"""What a parameter's name says that its shape does not: embeddings and heads are matrices too."""

from __future__ import annotations

import re

_EMBEDDING = re.compile(r"(\w+_)?(embed|embeds|embedding|embeddings|emb)(_tokens|_positions|_in)?|wte|wpe")
_HEAD = re.compile(r"(lm_|mlm_|classification_)?heads?|classifier|score|unembed(ding)?|embed_out|to_logits|qa_outputs")


def role_of_name(name: str) -> str | None:
    """``"an embedding"``, ``"a head"`` or None, by the parameter's own name and that of the module that owns it."""
    *_, owner, own = ["", *name.split(".")]
    if _HEAD.fullmatch(owner) or (owner == "output" and name.count(".") == 1):  # Llama's own code calls it output
        return "a head"
    if _EMBEDDING.fullmatch(owner) or _EMBEDDING.fullmatch(own):
        return "an embedding"
    return None
