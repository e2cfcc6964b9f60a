"""Fine-tune with PEFT and the Trainer of transformers on lrkernels' ops, save, and reload in stock PEFT.

    python examples/peft_trainer.py [FOLDER]

One line differs from a script without lrkernels: ``lrkernels.accelerate(model)``. The checkpoint is PEFT's own. The
model here is a random Llama of a few thousand parameters over the characters of a sentence, so nothing is downloaded;
put ``AutoModelForCausalLM.from_pretrained(...)`` in its place.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import peft
import torch
import transformers

import lrkernels

TEXT = "the quick brown fox jumps over the lazy dog; "
ALPHABET = sorted(set(TEXT))


def base_model() -> transformers.PreTrainedModel:
    """The same random weights at every call, as from_pretrained gives the same trained ones."""
    transformers.set_seed(0)
    sizes = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4)
    # Weights large enough that adapters of random layers can learn something.
    config = transformers.LlamaConfig(vocab_size=len(ALPHABET), initializer_range=0.2, **sizes)
    return transformers.LlamaForCausalLM(config)


def dataset(length: int = 32) -> list[dict[str, torch.Tensor]]:
    tokens = torch.tensor([ALPHABET.index(character) for character in TEXT * 2])
    windows = [tokens[start : start + length] for start in range(len(TEXT))]
    return [{"input_ids": window, "labels": window} for window in windows]


def complete(model: torch.nn.Module, prompt: str, characters: int = 24) -> str:
    ids = torch.tensor([[ALPHABET.index(character) for character in prompt]])
    model.eval()
    out = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=characters, do_sample=False, pad_token_id=0
    )
    return "".join(ALPHABET[token] for token in out[0])


def main(folder: Path, steps: int = 30) -> dict:
    options = dict(lora_dropout=0.05, target_modules="all-linear", task_type="CAUSAL_LM")
    config = peft.LoraConfig(r=8, lora_alpha=16, **options)
    model = peft.get_peft_model(base_model(), config)
    report = lrkernels.accelerate(model)
    print(report)

    arguments = transformers.TrainingArguments(
        output_dir=str(folder / "checkpoints"), max_steps=steps, learning_rate=1e-2, per_device_train_batch_size=16,
        save_steps=steps, logging_steps=steps // 3, report_to="none", use_cpu=not torch.cuda.is_available(), seed=0,
        disable_tqdm=True,
    )  # fmt: skip
    trainer = transformers.Trainer(model=model, args=arguments, train_dataset=dataset())
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

    model.save_pretrained(folder / "adapter")
    reloaded = peft.PeftModel.from_pretrained(base_model(), folder / "adapter")  # no lrkernels in it
    prompt = TEXT[:9]
    texts = {"accelerated": complete(model.to("cpu"), prompt), "reloaded in stock PEFT": complete(reloaded, prompt)}
    for name, text in texts.items():
        print(f"{name}: {text}")
    return {"report": report, "losses": losses, "texts": texts, "model": model, "reloaded": reloaded}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="where checkpoints go, made if missing; default: nowhere")
    folder = parser.parse_args().folder
    if folder is not None and folder.exists() and not folder.is_dir():
        parser.error(f"{folder} is no folder")
    with tempfile.TemporaryDirectory() as temporary:
        main(folder or Path(temporary))
