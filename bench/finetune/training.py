"""One model a contender, from the same weights and on the same batches."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable, Iterator

import peft
import torch
import transformers
from torch import Tensor, nn

import lrkernels
from finetune.settings import Setting, Size
from lrkernels.demo.corpus import load_corpus, sample_batch
from lrkernels.demo.memory import peak_memory

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
LEARNING_RATE = 1e-3
# Losses of the first steps may differ from stock PEFT's by rounding, and with dropout by the masks.
VERIFIED_STEPS = 3
TOLERANCE = {"fp32": 1e-4, "half": 2e-2, "dropout": 5e-2}


def adapter_config(setting: Setting) -> peft.PeftConfig:
    common = {"target_modules": list(setting.targets), "task_type": "CAUSAL_LM"}
    if setting.method == "lora":
        return peft.LoraConfig(
            r=setting.rank, lora_alpha=2 * setting.rank, lora_dropout=setting.dropout, use_dora=setting.dora, **common
        )  # fmt: skip
    if setting.method == "boft":
        return peft.BOFTConfig(boft_block_size=setting.rank, **common)
    if setting.method == "hra":
        return peft.HRAConfig(r=setting.rank, **common)
    return peft.OFTConfig(oft_block_size=setting.rank, use_cayley_neumann=setting.method == "oft", **common)


def peft_model(setting: Setting, size: Size, device: str) -> nn.Module:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=256, hidden_size=size.hidden, intermediate_size=size.intermediate, num_hidden_layers=size.layers,
        num_attention_heads=size.heads, num_key_value_heads=size.heads, use_cache=False,
    )  # fmt: skip
    base = transformers.LlamaForCausalLM(config).to(device, DTYPES[setting.dtype])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's BOFT has no CUDA extension here, and makes one factor
        model = peft.get_peft_model(base, adapter_config(setting)).train()
    if setting.checkpointing:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    return model


def batches(size: Size, device: str) -> Iterator[Tensor]:
    """Windows of the demo's corpus, the same sequence at every call."""
    text, generator = load_corpus().package.train, torch.Generator().manual_seed(0)
    while True:
        yield sample_batch(text, size.batch, size.context, generator)[0].to(device)


class Contender:
    """A model in training; every call of ``step`` is one step on the next batch."""

    def __init__(self, model: nn.Module, setting: Setting, size: Size, device: str, compiled: bool) -> None:
        self.model, self.setting, self.device = model, setting, device
        self.call: Callable = torch.compile(model) if compiled else model
        self.optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=LEARNING_RATE)
        self.batches = batches(size, device)
        self.losses: list[float] = []

    def step(self) -> float:
        ids = next(self.batches)
        with torch.autocast(self.device, torch.bfloat16, enabled=self.setting.autocast):
            loss = self.call(input_ids=ids, labels=ids).loss
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.losses.append(loss.item())  # on a GPU this waits for the step
        return self.losses[-1]

    def timed_step(self) -> float:
        begin = time.perf_counter()
        self.step()
        return (time.perf_counter() - begin) * 1e6

    def peak_bytes(self) -> int:
        return peak_memory(self.step, self.model, self.optimizer)[1]


def contenders(setting: Setting, size: Size, device: str, with_compile: bool) -> dict[str, Contender]:
    stock = peft_model(setting, size, device)
    fused = copy.deepcopy(stock)
    lrkernels.accelerate(fused, strict=True)
    models = {"peft": (stock, False), "lrkernels": (fused, False)}
    if with_compile and setting.compiled:
        models["peft, compiled"] = (copy.deepcopy(stock), True)
        models["lrkernels, compiled"] = (copy.deepcopy(fused), True)
    return {
        name: Contender(model, setting, size, device, compiled) for name, (model, compiled) in models.items()
    }  # fmt: skip


def warm_up_and_verify(found: dict[str, Contender]) -> dict[str, str]:
    """Takes the first steps; what went wrong, by contender. A contender that fails is taken out of ``found``."""
    failures = {}
    setting = found["peft"].setting
    half = setting.autocast or setting.dtype != "fp32"
    tolerance = TOLERANCE["dropout" if setting.dropout else "half" if half else "fp32"]
    expected = [found["peft"].step() for _ in range(VERIFIED_STEPS)]
    for name, contender in list(found.items()):
        if name == "peft":
            continue
        try:
            losses = [contender.step() for _ in range(VERIFIED_STEPS)]
        except Exception as error:
            failures[name] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        else:
            off = max(abs(a - b) / abs(b) for a, b in zip(losses, expected, strict=True))
            if not off <= tolerance:
                failures[name] = f"its loss is off by {off:.1e} of PEFT's, allowed are {tolerance:g}"
        if name in failures:
            del found[name]
    return failures
