"""A model with replaced layers refuses save_pretrained, which would write what from_pretrained cannot load."""

import copy
import io
from functools import partial

import pytest
import torch
from peft_models import TwoLayers, lora_config, peft, tiny_llama
from torch import nn

import lrkernels
from lrkernels.nn import LoRALinear, LowRankLinear

REFUSAL = "save_pretrained: lrkernels replaced layers of this model.*save_adapter"


def adapted(model, names=("q_proj",)):
    lrkernels.replace_linear(model, partial(LoRALinear, r=2), target_modules=list(names))
    return model


def refuses(model, folder):
    with pytest.raises(RuntimeError, match=REFUSAL):
        model.save_pretrained(folder)
    return not folder.exists()


@pytest.mark.parametrize("factory", [partial(LoRALinear, r=2), partial(LowRankLinear.from_linear, rank=2)])
def test_a_model_of_transformers(tmp_path, factory):
    model = tiny_llama()
    lrkernels.replace_linear(model, factory, target_modules=["q_proj"])
    assert refuses(model, tmp_path / "folder")
    assert refuses(model.model, tmp_path / "folder")  # a PreTrainedModel too, which holds the layers
    assert refuses(torch.compile(model), tmp_path / "folder")


def test_copies_refuse_too(tmp_path):
    model = adapted(tiny_llama())
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for copied in (copy.deepcopy(model), torch.load(file, weights_only=False)):
        assert refuses(copied, tmp_path / "folder")
        ids = torch.randint(0, 64, (1, 4))
        assert torch.equal(copied(ids).logits, model(ids).logits)
    assert adapted(tiny_llama()).state_dict().keys() == model.state_dict().keys()


def test_a_peft_model(tmp_path):
    """PEFT's checkpoint would hold its own adapters and none of ours."""
    model = peft.get_peft_model(tiny_llama(), lora_config(target_modules=["v_proj"]))
    adapted(model)
    for part in (model, model.base_model.model):
        assert refuses(part, tmp_path / "folder")


def test_the_method_comes_back(tmp_path):
    model = adapted(tiny_llama())
    del model.save_pretrained
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").exists()


def test_other_models_are_left_alone(tmp_path):
    model, untouched = adapted(TwoLayers(), ["first"]), tiny_llama()
    assert not hasattr(model, "save_pretrained")
    failing = tiny_llama()
    with pytest.raises(ValueError):
        adapted(failing, ["none"])
    both = nn.ModuleDict({"ours": adapted(tiny_llama()), "theirs": untouched})
    adapted(both, ["ours.model.layers.0.mlp.up_proj"])
    for index, other in enumerate((untouched, failing)):
        other.save_pretrained(tmp_path / str(index))
    assert refuses(both["ours"], tmp_path / "folder")
