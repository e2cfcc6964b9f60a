"""load_adapter and save_adapter against installed PEFT: the same numbers in both directions, the same bits there and
back."""

import copy
import json
from functools import partial

import pytest
import torch
from peft_models import TwoLayers, lora_config, peft, tiny_llama, transformers
from torch import nn

import lrkernels
from lrkernels.interop.peft import load_adapter, save_adapter
from lrkernels.nn import LoRALinear

pytest.importorskip("safetensors", reason="safetensors is not installed")
from safetensors.torch import load_file

CONFIGURATIONS = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "rank_pattern": {"rank_pattern": {"first": 7, "sec.*": 3}},
    "alpha_pattern": {"alpha_pattern": {"^second": 3.5}},
    "all patterns, rslora": {"use_rslora": True, "rank_pattern": {"first": 7}, "alpha_pattern": {"first": 3}},
    "one layer": {"target_modules": ["second"]},
    "expression": {"target_modules": "fi.*t"},
    "bias lora_only": {"bias": "lora_only"},
    "bias all": {"bias": "all", "target_modules": ["second"]},
    "dropout": {"lora_dropout": 0.25},
    "gaussian": {"init_lora_weights": "gaussian"},
}


def stock_model(**options):
    """A PEFT model with every trained parameter random, as after training."""
    model = peft.get_peft_model(TwoLayers(), lora_config(**{"target_modules": ["first", "second"], **options}))
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.2)
    return model.eval()


def base_model():
    torch.manual_seed(0)
    return TwoLayers().eval()


def reloaded(folder, model):
    return peft.PeftModel.from_pretrained(model, folder).eval()


@pytest.fixture
def options(request):
    return {"task_type": None, **CONFIGURATIONS[request.param]}


@pytest.mark.parametrize("options", CONFIGURATIONS, indirect=True)
@pytest.mark.parametrize("replaced_before", [False, True])
def test_what_peft_saved(tmp_path, options, replaced_before):
    torch.manual_seed(0)
    stock = stock_model(**options)
    stock.save_pretrained(tmp_path)
    model = base_model()
    names = [name for name in ("first", "second") if hasattr(getattr(stock.base_model.model, name), "lora_A")]
    if replaced_before:  # with another rank, alpha and dropout, which the file overrides
        lrkernels.replace_linear(model, partial(LoRALinear, r=4, alpha=100, dropout=0.5), target_modules=names)
    assert load_adapter(model, tmp_path) == names
    x = torch.randn(6, 24)
    torch.testing.assert_close(model(x), stock(x))
    assert not torch.allclose(model(x), base_model()(x), atol=1e-2)
    for name in names:
        ours, theirs = getattr(model, name), getattr(stock.base_model.model, name)
        assert (ours.r, ours.scale) == (theirs.r["default"], theirs.scaling["default"])
        assert ours.dropout == options.get("lora_dropout", 0.0)
        assert torch.equal(ours.lora_A, theirs.lora_A["default"].weight)


@pytest.mark.parametrize("options", CONFIGURATIONS, indirect=True)
def test_there_and_back(tmp_path, options):
    torch.manual_seed(0)
    stock = stock_model(**options)
    stock.save_pretrained(tmp_path / "peft")
    model = base_model()
    load_adapter(model, tmp_path / "peft")
    save_adapter(model, tmp_path / "ours")  # with the biases that were loaded
    expected, saved = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("peft", "ours"))
    assert saved.keys() == expected.keys()
    assert all(torch.equal(saved[key], value) for key, value in expected.items())
    again = reloaded(tmp_path / "ours", base_model())
    x = torch.randn(6, 24)
    torch.testing.assert_close(again(x), stock(x))
    for name in ("first", "second"):
        before, after = (getattr(each.base_model.model, name) for each in (stock, again))
        assert type(after) is type(before)
        if hasattr(before, "scaling"):
            assert after.scaling == pytest.approx(before.scaling, rel=1e-15)
            assert type(after.lora_dropout["default"]) is type(before.lora_dropout["default"])


def test_layers_that_differ_in_rank_alpha_and_rslora(tmp_path):
    settings = {"first": dict(r=3, alpha=7.5, rslora=True), "second": dict(r=5, alpha=4)}
    model = base_model()
    for name, setting in settings.items():
        lrkernels.replace_linear(model, partial(LoRALinear, **setting), target_modules=[name])
        nn.init.normal_(getattr(model, name).lora_B, std=0.2)
    save_adapter(model, tmp_path)
    x = torch.randn(6, 24)
    torch.testing.assert_close(reloaded(tmp_path, base_model())(x), model(x))
    other = base_model()
    load_adapter(other, tmp_path)
    torch.testing.assert_close(other(x), model(x))
    assert (other.first.r, other.second.r) == (3, 5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_llama_of_transformers(tmp_path, dtype):
    """Names that end alike, biases in some layers, half-precision bases beside float32 factors."""
    ids = torch.randint(0, 64, (2, 9))
    base = tiny_llama(num_hidden_layers=2).to(dtype).eval()
    config = lora_config(target_modules=["q_proj", "down_proj"], rank_pattern={r"layers\.1\.mlp\.down_proj": 2})
    stock = peft.get_peft_model(copy.deepcopy(base), config).eval()
    stock.save_pretrained(tmp_path / "peft")
    model = copy.deepcopy(base)
    assert len(load_adapter(model, tmp_path / "peft")) == 4
    assert [layer.r for layer in model.modules() if isinstance(layer, LoRALinear)] == [4, 4, 4, 2]
    close = {} if dtype == torch.float32 else {"rtol": 0.05, "atol": 0.01}
    with torch.no_grad():
        expected = stock(ids).logits
        torch.testing.assert_close(model(ids).logits, expected, **close)
        save_adapter(torch.compile(model), tmp_path / "ours", task_type="CAUSAL_LM", base_model_name_or_path="a/name")
        again = reloaded(tmp_path / "ours", copy.deepcopy(base))
        assert torch.equal(again(ids).logits, expected)
    assert isinstance(again, peft.PeftModelForCausalLM)
    config = json.loads((tmp_path / "ours" / "adapter_config.json").read_text())
    assert config["target_modules"] == ["down_proj", "q_proj"] and config["base_model_name_or_path"] == "a/name"
    assert (config["r"], config["rank_pattern"]) == (4, {r"^model\.layers\.1\.mlp\.down_proj": 2})


def test_target_modules_name_the_adapted_layers_alone(tmp_path):
    """Among layers whose names end alike: first names, then whole names, then an expression."""
    model = nn.Sequential()
    for name in ("head", "tail"):
        model.add_module(
            name, nn.ModuleDict({"proj": nn.Linear(4, 4), "head": nn.ModuleDict({"proj": nn.Linear(4, 4)})})
        )
    expected = {
        ("head.proj", "tail.proj", "head.head.proj", "tail.head.proj"): ["proj"],
        ("tail.proj", "head.head.proj"): ["head.head.proj", "tail.proj"],
        ("head.proj",): r"head\.proj",
    }
    for names, targets in expected.items():
        adapted = copy.deepcopy(model)
        lrkernels.replace_linear(
            adapted, partial(LoRALinear, r=2), filter_fn=lambda _, name, names=names: name in names
        )  # fmt: skip
        save_adapter(adapted, tmp_path)
        assert json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"] == targets
        again = reloaded(tmp_path, copy.deepcopy(model)).base_model.model
        assert {name for name, module in again.named_modules() if hasattr(module, "lora_A")} == set(names)


def test_conv1d(tmp_path):
    """GPT-2's layers store [in, out] (fan_in_fan_out)."""
    config = transformers.GPT2Config(vocab_size=64, n_embd=32, n_layer=1, n_head=4, n_positions=32)
    base = transformers.GPT2LMHeadModel(config).eval()
    options = lora_config(target_modules=["c_attn", "c_proj"], fan_in_fan_out=True, bias="lora_only")
    stock = peft.get_peft_model(copy.deepcopy(base), options).eval()
    for parameter in stock.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.1)
    stock.save_pretrained(tmp_path / "peft")
    model = copy.deepcopy(base)
    memory = model.transformer.h[0].attn.c_attn.weight.data_ptr()
    assert len(load_adapter(model, tmp_path / "peft")) == 3
    layer = model.transformer.h[0].attn.c_attn
    assert isinstance(layer, LoRALinear) and layer.base_layer.weight.data_ptr() == memory
    assert [name for name, p in model.named_parameters() if p.requires_grad and ".lora_" not in name] == []
    ids = torch.randint(0, 64, (2, 9))
    expected = stock(ids).logits
    torch.testing.assert_close(model(ids).logits, expected)
    with pytest.raises(RuntimeError, match="save_pretrained: lrkernels replaced layers"):
        model.save_pretrained(tmp_path / "whole")
    save_adapter(model, tmp_path / "ours", fan_in_fan_out=True)
    torch.testing.assert_close(reloaded(tmp_path / "ours", copy.deepcopy(base))(ids).logits, expected)


def test_loading_keeps_the_parameters_where_the_rank_is_the_same(tmp_path):
    for index, rank in enumerate((3, 3, 5)):
        torch.manual_seed(index)
        stock_model(r=rank, task_type=None).save_pretrained(tmp_path / str(index))
    model = base_model()
    load_adapter(model, tmp_path / "0")
    factors = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert set(factors) == {f"{layer}.{kind}" for layer in ("first", "second") for kind in ("lora_A", "lora_B")}
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    x = torch.randn(6, 24)
    outputs = [compiled(x)]
    load_adapter(compiled, tmp_path / "1")
    with torch.compiler.set_stance("fail_on_recompile"):
        outputs.append(compiled(x))
    assert all(p is factors[name] for name, p in model.named_parameters() if p.requires_grad)
    load_adapter(compiled, tmp_path / "2")
    outputs.append(compiled(x))
    for index, y in enumerate(outputs):
        torch.testing.assert_close(y, reloaded(tmp_path / str(index), base_model())(x))
    assert model.first.lora_A.requires_grad and model.first.lora_A.shape == (5, 24)


def test_biases_are_saved_as_they_were_loaded_unless_said(tmp_path):
    model = base_model()
    for which, keys in (("all", 1), ("lora_only", 1), ("none", 0)):
        stock_model(bias=which, task_type=None).save_pretrained(tmp_path / which)
        load_adapter(model, tmp_path / which)
        save_adapter(model, tmp_path / "ours")
        assert json.loads((tmp_path / "ours" / "adapter_config.json").read_text())["bias"] == which
        saved = load_file(tmp_path / "ours" / "adapter_model.safetensors")
        assert sum(key.endswith(".bias") for key in saved) == keys
    load_adapter(model, tmp_path / "all")
    save_adapter(model, tmp_path / "ours", bias="none")
    assert not any(key.endswith(".bias") for key in load_file(tmp_path / "ours" / "adapter_model.safetensors"))
    load_adapter(model, tmp_path / "all")
    model.first.checkpoint_bias = "lora_only"
    with pytest.raises(ValueError, match="save_adapter: layers were loaded with bias all and lora_only; say which"):
        save_adapter(model, tmp_path / "ours")


def test_a_merged_layer_saves_its_factors(tmp_path):
    stock_model(task_type=None).save_pretrained(tmp_path / "peft")
    model = base_model()
    load_adapter(model, tmp_path / "peft")
    model.first.merge()
    save_adapter(model, tmp_path / "ours")
    expected, saved = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("peft", "ours"))
    assert all(torch.equal(saved[key], value) for key, value in expected.items())
