"""PEFT checkpoints made by hand, and what loading one may not change. Importing it skips without safetensors."""

import json

import pytest

safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def write(folder, config, tensors):
    folder.mkdir(exist_ok=True)
    (folder / CONFIG).write_text(config if isinstance(config, str) else json.dumps(config))
    safetensors.save_file({k: v.contiguous() for k, v in tensors.items()}, folder / WEIGHTS)
    return folder


def state(model):
    """Everything that loading could change: the modules, their attributes, every bit and flag of the tensors."""
    modules = [(name, id(module), repr(module)) for name, module in model.named_modules()]
    parameters = [(name, id(p), p.requires_grad, p.detach().numpy().tobytes()) for name, p in model.named_parameters()]
    return modules, parameters, "save_pretrained" in vars(model)
