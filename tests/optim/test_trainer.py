"""The optimizers in transformers' Trainer, which only gets a class and its arguments."""

import pytest
import torch
from optimizer_cases import BASES

from lrkernels import optim

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")


class Texts(torch.utils.data.Dataset):
    def __init__(self):
        self.tokens = torch.randint(32, (4, 8), generator=torch.Generator().manual_seed(0)).repeat(8, 1)

    def __len__(self):
        return len(self.tokens)

    def __getitem__(self, index):
        return {"input_ids": self.tokens[index], "labels": self.tokens[index]}


def trainer(folder, cls, options, model, steps):
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=4,
        learning_rate=0.02,
        lr_scheduler_type="constant",
        use_cpu=True,
        report_to=[],
        save_steps=4,
        logging_steps=1,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    return transformers.Trainer(
        model=model, args=arguments, train_dataset=Texts(), optimizer_cls_and_kwargs=(cls, options)
    )


def llama():
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, vocab_size=32
    )
    return transformers.LlamaForCausalLM(config)


CASES = {
    "muon": (optim.Muon, {}),
    "galore": (optim.ProjectedOptimizer, {"inner": "adamw", "basis": BASES["galore"], "refresh_every": 3}),
}


@pytest.mark.parametrize("name", list(CASES))
def test_training_and_resuming(name, tmp_path):
    cls, options = CASES[name]

    def ready(folder, steps):
        model = llama()
        groups = optim.param_groups(model, adamw={"lr": 1e-3}, report=None)
        return trainer(folder, cls, {**options, "params": groups, "lr": 0.02}, model, steps)

    straight = ready(tmp_path / "straight", 8)
    straight.train()
    losses = [entry["loss"] for entry in straight.state.log_history if "loss" in entry]
    assert len(losses) == 8 and losses[-1] < losses[0] - 0.1
    assert isinstance(straight.optimizer.optimizer, cls)
    resumed = ready(tmp_path / "resumed", 8)
    resumed.train(resume_from_checkpoint=str(tmp_path / "straight" / "checkpoint-4"))
    for p, q in zip(straight.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(p, q)


def test_the_trainers_own_groups_are_refused_with_advice(tmp_path):
    with pytest.raises(ValueError, match=r"Muon: params has .* lrkernels.optim.param_groups\(model\) sorts"):
        trainer(tmp_path, optim.Muon, {"lr": 0.02}, llama(), 1).train()
