"""Malformed OFT, BOFT and HRA checkpoints, and models they do not fit, raise before anything is changed."""

from functools import partial

import pytest
import torch
from checkpoint_files import state, write
from peft_models import TwoLayers, peft
from peft_orthogonal import allow_butterfly_factors, config, orthogonal_layers
from torch import nn

import lrkernels
from lrkernels.interop.peft import load_adapter, save_adapter
from lrkernels.nn import BOFTLinear, HouseholderLinear, LoRALinear, OFTLinear

PREFIX = "base_model.model."
NAN = float("nan")
LAYERS = {
    "oft": partial(OFTLinear, block_size=4),
    "boft": partial(BOFTLinear, block_size=4, factors=2),
    "hra": partial(HouseholderLinear, r=4),
}
OPTIONS = {"oft": {"bias": "oft_only"}, "boft": {"boft_n_butterfly_factor": 2}, "hra": {}}


@pytest.fixture(autouse=True)
def butterfly(monkeypatch):
    allow_butterfly_factors(monkeypatch)


def checkpoint(method):
    model = orthogonal_layers(method=method, **OPTIONS[method])
    tensors = {k: v.clone() for k, v in peft.get_peft_model_state_dict(model).items()}
    settings = config(method, **OPTIONS[method]).to_dict() | {"target_modules": ["first", "second"]}
    return settings, tensors


def models(method):
    """A plain model, one with layers of the kind, and one with a layer of each."""
    plain, replaced, mixed = TwoLayers(), TwoLayers(), TwoLayers()
    lrkernels.replace_linear(replaced, LAYERS[method], target_modules="all-linear")
    lrkernels.replace_linear(mixed, LAYERS[method], target_modules=["second"])
    return plain, replaced, mixed


def assert_refused(method, folder, message):
    for model in models(method):
        before = state(model)
        with pytest.raises(ValueError, match=message):
            load_adapter(model, folder)
        assert state(model) == before


CONFIGS = [
    ("oft", "peft_type is 'OFTX', expected one of LORA, OFT, BOFT, HRA", {"peft_type": "OFTX"}),
    ("oft", "peft_type is \\['OFT'\\], expected", {"peft_type": ["OFT"]}),
    ("oft", "r is 4 and oft_block_size 4, expected one of them to be 0", {"r": 4}),
    ("oft", "r is 0 and oft_block_size 0", {"oft_block_size": 0}),
    ("oft", "oft_block_size is -4, expected an integer of at least 0", {"oft_block_size": -4}),
    ("oft", "oft_block_size is 4.0", {"oft_block_size": 4.0}),
    ("oft", "oft_block_size is True", {"oft_block_size": True}),
    (
        "oft",
        "oft_R of 'first' is \\(6, 6\\), expected \\(3, 28\\): the config gives 24 features",
        {"oft_block_size": 8},
    ),
    ("oft", "expected \\(1, 6\\): the config gives 24 features blocks of 4, shared", {"block_share": True}),
    ("oft", "block_share is 1, expected true or false", {"block_share": 1}),
    ("oft", "use_cayley_neumann is 'no'", {"use_cayley_neumann": "no"}),
    ("oft", "num_cayley_neumann_terms is 5.5", {"num_cayley_neumann_terms": 5.5}),
    ("oft", "eps is nan, expected a finite number", {"coft": True, "eps": NAN}),
    ("oft", "'first': OFT: coft_eps is -1", {"coft": True, "eps": -1.0}),
    ("oft", "peft_version is 'new', expected a version like '0.18.0'", {"peft_version": "new"}),
    ("oft", "peft_version is 18, expected a version", {"peft_version": 18}),
    ("oft", "peft_version is '0.15.0': before PEFT 0.16, OFT was another", {"peft_version": "0.15.0"}),
    ("oft", "bias is 'lora_only', expected one of none, oft_only, all", {"bias": "lora_only"}),
    ("oft", "holds first.base_layer.bias, which the model does not have or bias 'none' excludes", {"bias": "none"}),
    ("oft", "modules_to_save is set, which OFTLinear does not cover", {"modules_to_save": ["second"]}),
    ("oft", "settings of unknown meaning: use_something_new", {"use_something_new": True}),
    ("oft", "target_modules is 7", {"target_modules": 7}),
    ("boft", "boft_block_size is 4 and boft_block_num 4", {"boft_block_num": 4}),
    ("boft", "boft_n_butterfly_factor is 0, expected a positive integer", {"boft_n_butterfly_factor": 0}),
    ("boft", "'first' has 24 features, which boft_block_size = 7 does not divide", {"boft_block_size": 7}),
    ("boft", "'first' has 24 features, which boft_block_num = 5", {"boft_block_size": 0, "boft_block_num": 5}),
    ("boft", "boft_R of 'first' is \\(2, 6, 4, 4\\), expected \\(3, 6, 4, 4\\), or", {"boft_n_butterfly_factor": 3}),
    ("boft", "expected \\(2, 3, 8, 8\\)", {"boft_block_size": 8}),
    ("boft", "modules_to_save is set, which BOFTLinear does not cover", {"modules_to_save": ["second"]}),
    ("hra", "r is 0, expected a positive integer", {"r": 0}),
    ("hra", "hra_u of 'first' is \\(24, 4\\), expected \\(24, 6\\)", {"r": 6}),
    ("hra", "apply_GS is 'yes', expected true or false", {"apply_GS": "yes"}),
    ("hra", "modules_to_save is set, which HouseholderLinear does not cover", {"modules_to_save": ["second"]}),
]


@pytest.mark.parametrize(("method", "message", "change"), CONFIGS, ids=[f"{m}: {text}" for m, text, _ in CONFIGS])
def test_configs(tmp_path, method, message, change):
    settings, tensors = checkpoint(method)
    assert_refused(method, write(tmp_path, settings | change, tensors), message)


FIRST = {"oft": "first.oft_R.weight", "boft": "first.boft_R", "hra": "first.hra_u"}
EQUAL = torch.randn(24, 2, generator=torch.Generator().manual_seed(0)).repeat_interleave(2, 1)
TENSORS = [
    ("oft", "has no oft_R for 'first'|has no weights for 'first'", {"first.oft_R.weight": None}),
    ("oft", "oft_R of 'first' is \\(6, 5\\), expected \\(6, 6\\)", {"first.oft_R.weight": torch.zeros(6, 5)}),
    ("oft", "oft_R.weight holds NaN or Inf", {"first.oft_R.weight": torch.full((6, 6), NAN)}),
    ("oft", "oft_R.weight is torch.int64", {"first.oft_R.weight": torch.zeros(6, 6, dtype=torch.int64)}),
    ("oft", "from before PEFT 0.16, whose OFT was another", {"first.oft_r": torch.zeros(6, 4, 4)}),
    ("oft", "OFT of embeddings is not covered", {"first.oft_embedding_R.weight": torch.zeros(6, 6)}),
    (
        "oft",
        "holds .*lora_A.weight, which is neither an OFT weight nor a bias",
        {"first.lora_A.weight": torch.zeros(4)},
    ),
    ("oft", "has weights for 'third', which the model does not have", {"third.oft_R.weight": torch.zeros(6, 6)}),
    ("oft", "has no first.base_layer.bias, and bias is 'oft_only'", {"first.base_layer.bias": None}),
    ("boft", "has no boft_s for 'first'", {"first.boft_s": None}),
    ("boft", "boft_s of 'first' is \\(1, 40\\), expected \\(40, 1\\)", {"first.boft_s": torch.ones(1, 40)}),
    ("boft", "boft_R of 'first' is \\(2, 6, 4, 3\\)", {"first.boft_R": torch.zeros(2, 6, 4, 3)}),
    ("boft", "'first' holds values beyond", {"first.boft_s": torch.full((40, 1), 1e300, dtype=torch.float64)}),
    ("hra", "hra_u of 'first' is \\(4, 24\\), expected \\(24, 4\\)", {"first.hra_u": torch.ones(4, 24)}),
    ("hra", "hra_u of 'first' has a column of zeros, which is no reflection", {"first.hra_u": torch.eye(24, 4) * 0}),
]


@pytest.mark.parametrize(("method", "message", "change"), TENSORS, ids=[f"{m}: {text}" for m, text, _ in TENSORS])
def test_tensors(tmp_path, method, message, change):
    settings, tensors = checkpoint(method)
    tensors |= {PREFIX + key: value for key, value in change.items()}
    assert_refused(method, write(tmp_path, settings, {k: v for k, v in tensors.items() if v is not None}), message)


@pytest.mark.parametrize("method", LAYERS)
def test_the_checkpoints_that_the_others_are_made_of_load(tmp_path, method):
    settings, tensors = checkpoint(method)
    for model in models(method):
        before = state(model)
        assert load_adapter(model, write(tmp_path, settings, tensors)) == ["first", "second"]
        assert state(model) != before
    empty = write(tmp_path, settings, {})
    assert_refused(method, empty, f"holds no {method.upper()} weights")


def test_hra_of_an_odd_number_or_of_dependent_vectors(tmp_path):
    settings, tensors = checkpoint("hra")
    odd = {key: value[:, :3] for key, value in tensors.items()}
    assert_refused("hra", write(tmp_path, settings | {"r": 3}, odd), "'first': HRA: r is 3, expected an even number")
    dependent = tensors | {f"{PREFIX}first.hra_u": EQUAL}
    folder = write(tmp_path, settings | {"apply_GS": True}, dependent)
    assert_refused("hra", folder, "hra_u of 'first' has columns that depend on each other")
    load_adapter(TwoLayers(), write(tmp_path, settings, dependent))


def test_oft_in_blocks_of_one(tmp_path):
    settings, _ = checkpoint("oft")
    nothing = {f"{PREFIX}{name}.oft_R.weight": torch.zeros(size, 0) for name, size in (("first", 24), ("second", 40))}
    folder = write(tmp_path, settings | {"oft_block_size": 1, "bias": "none"}, nothing)
    assert_refused("oft", folder, "OFT: block_size is 1, expected at least 2")


def test_oft_of_before_peft_0_14(tmp_path):
    settings, tensors = checkpoint("oft")
    del settings["oft_block_size"]
    assert_refused("oft", write(tmp_path, settings, tensors), "has no oft_block_size: it is from before PEFT 0.14")


@pytest.mark.parametrize("method", LAYERS)
def test_layers_of_another_method(tmp_path, method):
    folder = write(tmp_path, *checkpoint(method))
    model = TwoLayers()
    lrkernels.replace_linear(model, partial(LoRALinear, r=2), target_modules=["first"])
    before = state(model)
    with pytest.raises(ValueError, match="has weights for 'first', which is LoRALinear, expected a linear layer"):
        load_adapter(model, folder)
    settings, tensors = checkpoint(method)
    second = {key: value for key, value in tensors.items() if ".second." in key}
    folder = write(tmp_path, settings | {"target_modules": ["second"], "bias": "none"}, second)
    with pytest.raises(ValueError, match="has no weights for 'first', a LoRALinear of the model"):
        load_adapter(model, folder)
    assert state(model) == before


@pytest.mark.parametrize("method", LAYERS)
def test_merged_and_meta_layers(tmp_path, method):
    folder = write(tmp_path, *checkpoint(method))
    model = models(method)[1]
    model.first.merge()
    before = state(model)
    with pytest.raises(ValueError, match="'first' is merged: unmerge"):
        load_adapter(model, folder)
    assert state(model) == before
    with torch.device("meta"), pytest.raises(ValueError, match="'first' is on the meta device"):
        load_adapter(TwoLayers(), folder)


# --- Saving ---


def test_what_cannot_be_saved(tmp_path):
    def refused(model, message, **options):
        with pytest.raises(ValueError, match=f"save_adapter: {message}"):
            save_adapter(model, tmp_path / "folder", **options)
        assert not (tmp_path / "folder").exists()

    refused(TwoLayers(), "the model has no LoRALinear, OFTLinear, BOFTLinear or HouseholderLinear")
    model = models("oft")[2]
    refused(model, "bias is 'lora_only', expected one of none, oft_only, all", bias="lora_only")
    refused(model, "fan_in_fan_out is set, and PEFT's OFT adapts no Conv1D", fan_in_fan_out=True)
    lrkernels.replace_linear(model, partial(LoRALinear, r=2), target_modules=["first"])
    refused(model, "the model has LoRALinear and OFTLinear layers, and one checkpoint of PEFT holds one method")
    refused(nn.Sequential(OFTLinear(nn.Linear(4, 4), 2)).to("meta"), "0.oft_R.weight is on the meta device")
    refused(OFTLinear(nn.Linear(4, 4), 2), "the model is itself")
    model = models("hra")[1]
    model.first.merge(keep=False)
    refused(model, "'first' is merged with keep=False, its weights are gone")

    def two(first, second):
        return nn.Sequential(first(nn.Linear(24, 40)), second(nn.Linear(40, 17)))

    oft = partial(OFTLinear, block_size=4)
    refused(two(oft, partial(oft, method="neumann")), "method differs between layers, and PEFT has one for all")
    refused(two(oft, partial(oft, coft_eps=1.0)), "coft_eps differs")
    refused(two(oft, partial(oft, block_share=True)), "block_share differs")
    refused(two(oft, partial(OFTLinear, block_size=20)), "block sizes differ between layers")
    boft = partial(BOFTLinear, block_size=4)
    refused(two(partial(boft, factors=1), boft), "factors differs")
    refused(two(boft, partial(BOFTLinear, block_size=2)), "block_size differs")
    refused(two(partial(HouseholderLinear, r=2), partial(HouseholderLinear, r=4)), "r differs")
