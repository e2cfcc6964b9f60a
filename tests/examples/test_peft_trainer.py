"""examples/peft_trainer.py: what it promises, on its own tiny model."""

import json

import pytest
import torch

pytest.importorskip("peft", reason="PEFT is not installed (requirements-dev.txt has it)")
pytest.importorskip("transformers", reason="transformers is not installed (requirements-dev.txt has it)")

import lrkernels


def test_trains_saves_and_reloads_in_stock_peft(example, tmp_path, capsys):
    trainer = example("peft_trainer")
    result = trainer.main(tmp_path, steps=24)
    assert result["report"].declined == {} and len(result["report"].fused) == 14
    assert result["losses"][-1] < 0.5 < 1.5 < result["losses"][0]  # a guess costs ln 28 = 3.3
    texts = list(result["texts"].values())
    assert texts[0] == texts[1] == (trainer.TEXT * 2)[: len(texts[0])]
    assert all(text in capsys.readouterr().out for text in texts[:1])
    # The checkpoints, the Trainer's and the last, are PEFT's, and the reloaded model has nothing of ours.
    for folder in (tmp_path / "adapter", tmp_path / "checkpoints" / "checkpoint-24"):
        assert json.loads((folder / "adapter_config.json").read_text())["peft_type"] == "LORA"
        assert (folder / "adapter_model.safetensors").exists()
    assert lrkernels.restore(result["reloaded"]) == 0 and lrkernels.restore(result["model"]) == 14
    ids = torch.randint(0, 28, (2, 8))
    assert torch.equal(result["reloaded"](ids).logits, result["model"](ids).logits)
