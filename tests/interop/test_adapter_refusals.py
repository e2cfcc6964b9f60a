"""Malformed checkpoints and models that do not fit raise before anything is changed; saving is whole or not at all."""

import json
import os
import pickle
import struct
import sys
from functools import partial

import pytest
import torch
from checkpoint_files import CONFIG, WEIGHTS, safetensors, state, write
from peft_models import TwoLayers, lora_config, peft, peft_layers
from torch import nn

import lrkernels
from lrkernels.interop.peft import load_adapter, save_adapter
from lrkernels.nn import LoRALinear

PREFIX = "base_model.model."
FIRST_A = f"{PREFIX}first.lora_A.weight"


@pytest.fixture(scope="module")
def checkpoint():
    model = peft_layers(bias="lora_only")
    tensors = {k: v.clone() for k, v in peft.get_peft_model_state_dict(model).items()}
    config = lora_config(target_modules=["first", "second"], bias="lora_only", task_type=None).to_dict()
    return {**config, "target_modules": ["first", "second"]}, tensors


def models():
    """A plain model, one with LoRALinear layers, and one with a layer of each kind."""
    plain, replaced, mixed = TwoLayers(), TwoLayers(), TwoLayers()
    lrkernels.replace_linear(replaced, partial(LoRALinear, r=4), target_modules="all-linear")
    lrkernels.replace_linear(mixed, partial(LoRALinear, r=2, dropout=0.5), target_modules=["second"])
    return plain, replaced, mixed


def assert_refused(folder, message, error=ValueError):
    for model in models():
        before = state(model)
        with pytest.raises(error, match=message):
            load_adapter(model, folder)
        assert state(model) == before


NAN, INFINITY = float("nan"), float("inf")
CONFIGS = {
    "peft_type is None": {"peft_type": None},
    "peft_type is 'IA3', expected": {"peft_type": "IA3"},
    "r is nan, expected a positive integer": {"r": NAN},
    "r is 4.0, expected": {"r": 4.0},
    "r is True": {"r": True},
    "r is -1": {"r": -1},
    "r is '4'": {"r": "4"},
    "lora_alpha is inf, expected a finite number": {"lora_alpha": INFINITY},
    "lora_alpha is 'x'": {"lora_alpha": "x"},
    "lora_dropout is 1.5": {"lora_dropout": 1.5},
    "use_rslora is 1, expected true or false": {"use_rslora": 1},
    "bias is 'some', expected one of none, lora_only, all": {"bias": "some"},
    "rank_pattern is \\['first'\\], expected an object": {"rank_pattern": ["first"]},
    "rank_pattern\\['first'\\] is 2.5": {"rank_pattern": {"first": 2.5}},
    "rank_pattern holds '\\*', which is no regular expression": {"rank_pattern": {"*": 2}},
    "alpha_pattern\\['first'\\] is nan": {"alpha_pattern": {"first": NAN}},
    "target_modules is 7": {"target_modules": 7},
    "target_modules holds '\\(', which is no": {"target_modules": "("},
    "use_dora is set, which LoRALinear does not cover: DoRA": {"use_dora": True},
    "lora_bias is set": {"lora_bias": True},
    "modules_to_save is set": {"modules_to_save": ["second"]},
    "target_parameters is set": {"target_parameters": ["first.weight"]},
    "layer_replication is set": {"layer_replication": [[0, 1]]},
    "alora_invocation_tokens is set": {"alora_invocation_tokens": [1]},
    "holds settings of unknown meaning: use_something_new": {"use_something_new": True},
    "init_lora_weights is 'pissa': PEFT changed the base weights": {"init_lora_weights": "pissa"},
    "init_lora_weights is 'mica'": {"init_lora_weights": "mica"},
    "lora_A of 'first' is \\(4, 24\\), expected \\(3, 24\\): the config's rank is 3": {"r": 3},
    "lora_A of 'second' is \\(4, 40\\), expected \\(5, 40\\)": {"rank_pattern": {"second": 5}},
    "'second' has rank 18, and LoRALinear takes at most 17": {"rank_pattern": {"second": 18}},
    "r is null": {"r": None},
    "lora_alpha is null": {"lora_alpha": None},
    "fan_in_fan_out is 'yes', expected true or false": {"fan_in_fan_out": "yes"},
    "has factors for 'first', which the config's target_modules do not name": {"target_modules": ["second"]},
    "has factors for 'second', which the config's target_modules do not name": {"exclude_modules": ["second"]},
    "holds first.base_layer.bias, which the model does not have or bias 'none' excludes": {"bias": "none"},
}


@pytest.mark.parametrize("message", CONFIGS)
def test_configs(tmp_path, checkpoint, message):
    config, tensors = checkpoint
    assert_refused(write(tmp_path, {**config, **CONFIGS[message]}, tensors), message)


def test_the_checkpoint_that_the_others_are_made_of_loads(tmp_path, checkpoint):
    folder = write(tmp_path, *checkpoint)
    for model in models():
        before = state(model)
        assert load_adapter(model, folder) == ["first", "second"]
        assert state(model) != before


TENSORS = {
    "has no lora_A for 'first'": {FIRST_A: None},
    "has no factors for 'second', (a LoRALinear of the model|which the config's target_modules name)": {
        f"{PREFIX}second.lora_A.weight": None,
        f"{PREFIX}second.lora_B.weight": None,
    },
    "lora_A of 'first' is \\(4, 23\\), expected \\(4, 24\\)": {FIRST_A: torch.zeros(4, 23)},
    "lora_A of 'first' is \\(96,\\)": {FIRST_A: torch.zeros(96)},
    "lora_B of 'second' is \\(4, 17\\)": {f"{PREFIX}second.lora_B.weight": torch.zeros(4, 17)},
    f"{FIRST_A} has 4 dimensions: LoRA of convolutions": {FIRST_A: torch.zeros(4, 24, 1, 1)},
    f"{FIRST_A} is torch.int64": {FIRST_A: torch.zeros(4, 24, dtype=torch.int64)},
    f"{FIRST_A} is torch.float8_e4m3fn": {FIRST_A: torch.zeros(4, 24).to(torch.float8_e4m3fn)},
    f"{FIRST_A} holds NaN or Inf": {FIRST_A: torch.full((4, 24), NAN)},
    "has factors for 'third', which the model does not have": {
        f"{PREFIX}third.lora_A.weight": torch.zeros(4, 24),
        f"{PREFIX}third.lora_B.weight": torch.zeros(24, 4),
    },
    "has factors for 'first.inner', which the model does not have; close names: first": {
        f"{PREFIX}first.inner.lora_A.weight": torch.zeros(4, 24),
    },
    "holds first.lora_A.weight, expected keys that begin with base_model.model.": {
        "first.lora_A.weight": torch.zeros(4, 24)
    },
    "holds base_model.model.first.base_layer.weight, which is neither a LoRA factor nor a bias \\(PEFT": {
        f"{PREFIX}first.base_layer.weight": torch.zeros(40, 24)
    },
    "lora_magnitude_vector, which is neither a LoRA factor nor a bias": {
        f"{PREFIX}first.lora_magnitude_vector": torch.zeros(40)
    },
    "first.lora_B.bias, which is neither": {f"{PREFIX}first.lora_B.bias": torch.zeros(40)},
    "LoRA of embeddings is not covered": {f"{PREFIX}first.lora_embedding_A": torch.zeros(4, 24)},
    "has no first.base_layer.bias, and bias is 'lora_only'": {f"{PREFIX}first.base_layer.bias": None},
    "first.base_layer.bias is \\(39,\\), the model's \\(40,\\)": {f"{PREFIX}first.base_layer.bias": torch.zeros(39)},
    "holds second.base_layer.bias, which the model does not have": {f"{PREFIX}second.base_layer.bias": torch.zeros(17)},
}


@pytest.mark.parametrize("message", TENSORS)
def test_tensors(tmp_path, checkpoint, message):
    config, tensors = checkpoint
    changed = {k: v for k, v in {**tensors, **TENSORS[message]}.items() if v is not None}
    assert_refused(write(tmp_path, config, changed), message)


def test_files(tmp_path, checkpoint):
    config, tensors = checkpoint
    assert_refused(tmp_path / "none", "is no folder", FileNotFoundError)
    folder = write(tmp_path / "checkpoint", config, tensors)
    assert_refused(folder / CONFIG, "is no folder", FileNotFoundError)
    whole = (folder / WEIGHTS).read_bytes()
    for text, message in (("", "is not JSON"), ("{", "is not JSON"), ("[]", "holds list"), ("\ud800", "is not JSON")):
        (folder / CONFIG).write_bytes(text.encode("utf-8", "surrogatepass"))
        assert_refused(folder, message)
    (folder / CONFIG).write_text(json.dumps(config))
    length = struct.unpack("<Q", whole[:8])[0]
    header = whole[8 : 8 + length]
    for damaged in (
        b"",
        whole[:7],
        whole[:100],
        whole[:-1],
        whole + b"\0",
        struct.pack("<Q", 2**63) + whole[8:],
        whole[:8] + header.replace(b"F32", b"F31") + whole[8 + length :],
        whole[:8] + header.replace(b"{", b"[", 1) + whole[8 + length :],
        pickle.dumps(tensors),
    ):
        (folder / WEIGHTS).write_bytes(damaged)
        assert_refused(folder, "is damaged or no safetensors file")
    (folder / WEIGHTS).unlink()
    assert_refused(folder, f"holds no {WEIGHTS}", FileNotFoundError)
    torch.save(tensors, folder / "adapter_model.bin")
    assert_refused(folder, "adapter_model.bin is a pickle, which may run any code")
    (folder / CONFIG).unlink()
    assert_refused(folder, f"holds no {CONFIG}", FileNotFoundError)
    write(folder, config, {})
    assert_refused(folder, "holds no LoRA factors")


def test_a_pickle_is_not_run(tmp_path, checkpoint):
    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "sprung"),))

    folder = write(tmp_path / "checkpoint", *checkpoint)
    for name in (WEIGHTS, "adapter_model.bin"):
        (folder / name).write_bytes(pickle.dumps(Trap()))
        with pytest.raises(ValueError):
            load_adapter(TwoLayers(), folder)
        (folder / WEIGHTS).unlink(missing_ok=True)
    assert not (tmp_path / "sprung").exists()


def test_models_that_do_not_fit(tmp_path, checkpoint):
    folder = write(tmp_path, *checkpoint)
    with pytest.raises(TypeError, match="load_adapter: model is dict, expected an nn.Module"):
        load_adapter({}, folder)
    with pytest.raises(ValueError, match="load_adapter: the model holds layers of PEFT"):
        load_adapter(peft_layers(), folder)
    with pytest.raises(ValueError, match="'first', which is Tanh, expected a linear layer"):
        load_adapter(nn.ModuleDict({"first": nn.Tanh(), "second": nn.Linear(40, 17)}), folder)
    with torch.device("meta"), pytest.raises(ValueError, match="'first' is on the meta device"):
        load_adapter(TwoLayers(), folder)
    for keep in (True, False):
        model = models()[1]
        model.second.merge(keep=keep)
        before = state(model)
        with pytest.raises(ValueError, match="'second' is merged"):
            load_adapter(model, folder)
        assert state(model) == before


def test_factors_that_the_models_dtype_cannot_hold(tmp_path, checkpoint):
    config, tensors = checkpoint
    folder = write(tmp_path, config, tensors | {FIRST_A: torch.full((4, 24), 1e5)})
    for model in models():
        model.half()
        with pytest.raises(ValueError, match="lora_A of 'first' holds values beyond torch.float16"):
            load_adapter(model, folder)
    load_adapter(TwoLayers(), folder)


def test_a_layer_that_replace_linear_refuses(tmp_path):
    """PEFT adapts the out_proj of an nn.MultiheadAttention by reimplementing the attention; here it would not act."""
    model = nn.ModuleDict({"attention": nn.MultiheadAttention(8, 2)})
    config = lora_config(target_modules=["out_proj"], task_type=None).to_dict() | {"target_modules": ["out_proj"]}
    factors = {
        f"{PREFIX}attention.out_proj.lora_{kind}.weight": torch.zeros(s) for kind, s in (("A", (4, 8)), ("B", (8, 4)))
    }
    folder = write(tmp_path, config, factors)
    before = state(model)
    with pytest.raises(ValueError, match="refused 'attention.out_proj': nn.MultiheadAttention reads out_proj.weight"):
        load_adapter(model, folder)
    assert state(model) == before


# --- Saving ---


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("broken", ["safetensors.torch.save_file", "json.dumps", "os.replace"])
def test_a_save_that_fails_leaves_the_folder_as_it_was(tmp_path, monkeypatch, broken):
    model = models()[1]
    save_adapter(model, tmp_path / "old")
    before = files(tmp_path / "old")
    nn.init.normal_(model.first.lora_B)
    stock = {"safetensors.torch.save_file": safetensors.save_file}.get(broken)

    def fail(*args, **kwargs):
        if stock is not None:  # it had written a part
            stock(*args, **kwargs)
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(broken, fail)
        for name in ("old", "new/folder"):
            with pytest.raises(OSError, match="No space left"):
                save_adapter(model, tmp_path / name)
    assert files(tmp_path / "old") == before and not (tmp_path / "new" / "folder").exists()
    save_adapter(model, tmp_path / "old")
    assert files(tmp_path / "old").keys() == before.keys() == {CONFIG, WEIGHTS} and files(tmp_path / "old") != before


def test_what_cannot_be_saved(tmp_path):
    def refused(model, message, **options):
        with pytest.raises((TypeError, ValueError), match=f"save_adapter: {message}"):
            save_adapter(model, tmp_path / "folder", **options)
        assert not (tmp_path / "folder").exists()

    refused([], "model is list, expected an nn.Module")
    refused(TwoLayers(), "the model has no LoRALinear")
    refused(LoRALinear(nn.Linear(4, 4), 2), "the model is itself a LoRALinear")
    refused(peft_layers(), "the model holds layers of PEFT")
    model = models()[1]
    refused(model, "bias is 'some', expected one of", bias="some")
    model.first.dropout = 0.5
    refused(model, "dropout differs between layers")
    model.first.dropout = 0.0
    refused(model.to("meta"), "first.lora_A.weight is on the meta device")
    model = models()[1]
    model.first.merge(keep=False)
    refused(model, "'first' is merged with keep=False")
    (tmp_path / "folder").write_text("a file")
    with pytest.raises(ValueError, match="is no folder"):
        save_adapter(models()[1], tmp_path / "folder")


def test_without_safetensors_the_error_names_the_extra(tmp_path, checkpoint, monkeypatch):
    folder = write(tmp_path / "checkpoint", *checkpoint)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    for call in (load_adapter, save_adapter):
        message = f"{call.__name__}: safetensors is not installed: pip install 'lrkernels\\[interop\\]'"
        with pytest.raises(ImportError, match=message):
            call(models()[1], folder)
