"""Serve several LoRA adapters on one base model, and switch between them while serving.

    python examples/hotswap.py

Two ways, both PEFT's own calls on an accelerated model:

1. all adapters are loaded, ``set_adapter`` chooses: a switch costs nothing, memory grows with the adapters;
2. one adapter's place is filled anew by ``hotswap_adapter``, from files: constant memory, and a compiled model is not
   compiled again, whatever ranks and scales the adapters have (up to ``target_rank``).

The base model is a random Llama and the adapters are random, so nothing is downloaded.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import peft
import torch
import transformers
from peft.utils.hotswap import hotswap_adapter, prepare_model_for_compiled_hotswap
from torch import Tensor, nn

import lrkernels

TARGETS = ["q_proj", "v_proj", "down_proj"]
ADAPTERS = {"french": dict(r=4, lora_alpha=8), "poetry": dict(r=8, lora_alpha=32)}


def base_model() -> transformers.PreTrainedModel:
    transformers.set_seed(0)
    sizes = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes)).eval()


def write_adapters(folder: Path) -> None:
    """What training would have left: a checkpoint of PEFT for each adapter, with ranks and scales of their own."""
    for seed, (name, settings) in enumerate(ADAPTERS.items()):
        torch.manual_seed(seed)
        config = peft.LoraConfig(target_modules=TARGETS, init_lora_weights=False, task_type="CAUSAL_LM", **settings)
        peft.get_peft_model(base_model(), config).save_pretrained(folder / name)


def switching(folder: Path, requests: list[tuple[str, Tensor]]) -> list[Tensor]:
    """Every adapter in memory; each request is (adapter, token ids), and the answer its logits."""
    first, *others = ADAPTERS
    model = peft.PeftModel.from_pretrained(base_model(), folder / first, adapter_name=first)
    for name in others:
        model.load_adapter(folder / name, adapter_name=name)
    print(lrkernels.accelerate(model, strict=True))
    answers = []
    for name, ids in requests:
        model.set_adapter(name, inference_mode=True)
        with torch.inference_mode():
            answers.append(model(ids).logits)
    return answers


def swapping(folder: Path, requests: list[tuple[str, Tensor]], backend: str = "inductor") -> list[Tensor]:
    """One adapter in memory, compiled once; files replace it, and a recompilation would raise."""
    current = requests[0][0]
    model = peft.PeftModel.from_pretrained(base_model(), folder / current)
    prepare_model_for_compiled_hotswap(model, target_rank=max(settings["r"] for settings in ADAPTERS.values()))
    lrkernels.accelerate(model, strict=True)
    compiled: nn.Module = torch.compile(model, fullgraph=True, backend=backend)
    with torch.no_grad():
        compiled(requests[0][1])
    answers = []
    with torch.compiler.set_stance("fail_on_recompile"), torch.no_grad():
        for name, ids in requests:
            if name != current:
                hotswap_adapter(model, folder / name, adapter_name="default")
                current = name
            answers.append(compiled(ids).logits)
    return answers


def requests() -> list[tuple[str, Tensor]]:
    names = list(ADAPTERS)
    ids = torch.randint(0, 64, (5, 2, 8), generator=torch.Generator().manual_seed(0))
    return [(names[index % 2], ids[index]) for index in range(len(ids))]


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        write_adapters(Path(temporary))
        pairs = zip(switching(Path(temporary), requests()), swapping(Path(temporary), requests()), strict=True)
        for (name, _), (switched, swapped) in zip(requests(), pairs, strict=True):
            print(f"{name}: the two ways differ by {(switched - swapped).abs().max():.1e}")
