"""load_adapter and save_adapter for OFT, BOFT and HRA against installed PEFT, and the equations of older versions."""

import json
import warnings
from functools import partial

import pytest
import torch
from peft_models import TwoLayers, peft, tiny_llama
from peft_orthogonal import allow_butterfly_factors, config, orthogonal_layers, orthogonal_llama
from torch import nn

import lrkernels
from lrkernels.interop.peft import load_adapter, save_adapter
from lrkernels.nn import BOFTLinear, HouseholderLinear, OFTLinear

safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")

PREFIX = "base_model.model."
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
LAYERS = {"oft": OFTLinear, "boft": BOFTLinear, "hra": HouseholderLinear}
CONFIGURATIONS = {
    "oft": {
        "neumann": {},
        "exact": {"use_cayley_neumann": False},
        "two terms": {"num_cayley_neumann_terms": 2},
        "eight terms": {"num_cayley_neumann_terms": 8},
        "by number": {"r": 4, "oft_block_size": 0},
        "adjusted": {"oft_block_size": 9},  # 8 of 24 features, 8 or 10 of 40
        "adjusted number": {"r": 7, "oft_block_size": 0},
        "shared": {"block_share": True},
        "shared, exact": {"block_share": True, "use_cayley_neumann": False},
        "COFT": {"coft": True, "eps": 0.5},
        "dropout": {"module_dropout": 0.5},
        "one layer": {"target_modules": ["second"]},
        "bias oft_only": {"bias": "oft_only"},
        "bias all": {"bias": "all", "target_modules": ["second"]},
    },
    "boft": {
        "one factor": {},
        "by number": {"boft_block_size": 0, "boft_block_num": 4},
        "two factors": {"boft_n_butterfly_factor": 2},
        "three factors": {"boft_block_size": 2, "boft_n_butterfly_factor": 3},
        "expression": {"target_modules": "fi.*t"},
        "bias boft_only": {"bias": "boft_only"},
    },
    "hra": {
        "plain": {},
        "Gram-Schmidt": {"apply_GS": True},
        "as many as features": {"r": 24},
        "bias hra_only": {"bias": "hra_only"},
    },
}
CASES = [(method, name) for method, cases in CONFIGURATIONS.items() for name in cases]


@pytest.fixture(autouse=True)
def butterfly(monkeypatch):
    allow_butterfly_factors(monkeypatch)


def stock_model(method, **options):
    """A PEFT model with every trained parameter random, as after training, and COFT's weights projected."""
    model = orthogonal_layers(method=method, **options).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias") and parameter.requires_grad:
            nn.init.normal_(parameter, std=0.2)
    model(torch.zeros(1, 24))
    return model


def base_model():
    torch.manual_seed(0)
    return TwoLayers().eval()


def reloaded(folder, model):
    return peft.PeftModel.from_pretrained(model, folder).eval()


def adapted_names(stock):
    return [n for n in ("first", "second") if hasattr(getattr(stock.base_model.model, n), "base_layer")]


@pytest.mark.parametrize(("method", "name"), CASES)
@pytest.mark.parametrize("replaced_before", [False, True])
def test_what_peft_saved(tmp_path, method, name, replaced_before):
    stock = stock_model(method, **CONFIGURATIONS[method][name])
    stock.save_pretrained(tmp_path)
    model, names = base_model(), adapted_names(stock)
    if replaced_before:  # with other settings, which the file overrides
        options = {"oft": {"block_size": 8, "coft_eps": 1.0}, "boft": {"block_size": 8, "factors": 1}, "hra": {"r": 2}}
        lrkernels.replace_linear(model, partial(LAYERS[method], **options[method]), target_modules=names)
    assert load_adapter(model, tmp_path) == names
    assert [type(getattr(model, each)) for each in names] == [LAYERS[method]] * len(names)
    x = torch.randn(6, 24)
    torch.testing.assert_close(model(x), stock(x))
    assert not torch.allclose(model(x), base_model()(x), atol=1e-2)
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    parts = {"oft": ["rotation.skew"], "boft": ["rotation.skew", "scale"], "hra": ["rotation.vectors"]}[method]
    assert trained == {f"{each}.{part}" for each in names for part in parts}


@pytest.mark.parametrize(("method", "name"), CASES)
def test_there_and_back(tmp_path, method, name):
    options = CONFIGURATIONS[method][name]
    stock = stock_model(method, **options)
    stock.save_pretrained(tmp_path / "peft")
    model = base_model()
    load_adapter(model, tmp_path / "peft")
    save_adapter(model, tmp_path / "ours", bias=options.get("bias", "none"))
    expected, saved = (safetensors.load_file(tmp_path / folder / WEIGHTS) for folder in ("peft", "ours"))
    assert saved.keys() == expected.keys()
    for key, value in expected.items():
        if key.endswith("boft_R"):  # of which PEFT reads this
            value = 0.5 * (value - value.mT)
        assert name == "Gram-Schmidt" or torch.equal(saved[key], value), key
    again = reloaded(tmp_path / "ours", base_model())
    x = torch.randn(6, 24)
    torch.testing.assert_close(again(x), stock(x))
    assert adapted_names(again) == adapted_names(stock)


@pytest.mark.parametrize("method", LAYERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_training_goes_on_as_in_peft(tmp_path, method, dtype):
    options = {} if method != "oft" else {"coft": True, "eps": 2.0, "use_cayley_neumann": False}
    stock = orthogonal_llama(method, **options)
    stock(torch.zeros(1, 2, dtype=torch.int64))
    stock.save_pretrained(tmp_path / "peft")
    stock.base_model.model.to(dtype)
    for parameter in stock.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    model = tiny_llama().to(dtype)
    assert len(load_adapter(model, tmp_path / "peft")) == 7
    ids = torch.randint(0, 64, (2, 9))
    for each in (stock, model):
        each(ids, labels=ids).loss.backward()
    close = {} if dtype == torch.float32 else {"rtol": 0.05, "atol": 0.02}
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, stock(ids).logits, **close)
    ours = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    assert len(ours) == (14 if method == "boft" else 7)
    sign = -1 if method == "oft" else 1
    for name, gradient in ours.items():
        layer = stock.base_model.model.get_submodule(name.partition(".rotation")[0].removesuffix(".scale"))
        if method == "oft":
            theirs = layer.oft_R["default"].weight.grad
        elif method == "hra":
            theirs = layer.hra_u["default"].grad.mT
        elif name.endswith(".scale"):
            theirs = layer.boft_s["default"].grad.squeeze(1)
        else:  # dA = ½(dS − dSᵀ), and S = −Q
            row, column = torch.triu_indices(4, 4, 1)
            theirs = -2 * layer.boft_R["default"].grad[..., row, column]
        if dtype == torch.float32:
            torch.testing.assert_close(gradient, sign * theirs, rtol=1e-3, atol=1e-5, msg=name)
        else:
            assert (gradient - sign * theirs).norm() < 0.05 * theirs.norm(), name


# --- Older versions ---


def write(folder, settings, tensors):
    folder.mkdir(exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(settings))
    safetensors.save_file({PREFIX + k: v.contiguous() for k, v in tensors.items()}, folder / WEIGHTS)
    return folder


def oft_checkpoint(folder, version, terms=5, exact=False, scale=0.3):
    settings = config("oft", use_cayley_neumann=not exact, num_cayley_neumann_terms=terms).to_dict()
    settings |= {"target_modules": ["first"], "peft_version": version}
    if version is None:
        del settings["peft_version"]  # 0.18 was the first to write it
    weight = scale * torch.randn(6, 6, generator=torch.Generator().manual_seed(2))
    return write(folder, settings, {"first.oft_R.weight": weight}), weight


def skew(weight):
    q = torch.zeros(len(weight), 4, 4, dtype=torch.float64)
    row, column = torch.triu_indices(4, 4, 1)
    q[:, row, column] = weight.double()
    return q - q.mT


def power_series(weight, coefficients):
    q = skew(weight)
    return sum(c * torch.linalg.matrix_power(q, n) for n, c in enumerate(coefficients))


SERIES = {  # by version and terms
    **{(version, 5): (1, 2, 2, 2, 2) for version in (None, "0.16.0", "0.17.1", "0.17.2.dev0@abc")},
    **{(version, 5): (1, 2, 2, 2, 1) for version in ("0.18.0.rc0", "0.18.0", "0.21.2", "1.0.0@abc")},
    ("0.17.0", 1): (1,),
    ("0.17.0", 2): (1, 2),
    ("0.17.0", 3): (1, 2, 2),
    ("0.18.0", 3): (1, 2, 2, 1),
    ("0.17.0", 6): (1, 2, 2, 2, 2, 2),
    ("0.18.0", 6): (1, 2, 2, 2, 2, 1),
}


@pytest.mark.parametrize(("version", "terms"), SERIES)
def test_the_series_of_oft_is_that_of_the_version(tmp_path, version, terms):
    folder, weight = oft_checkpoint(tmp_path / "peft", version, terms)
    rotation = torch.block_diag(*power_series(weight, SERIES[version, terms]))
    model = base_model()
    load_adapter(model, folder)
    x = torch.randn(6, 24)
    linear = base_model().first.double()
    expected = linear(x.double() @ rotation).float()
    torch.testing.assert_close(model.first(x), expected, rtol=1e-5, atol=1e-5)
    merged = base_model()
    load_adapter(merged, folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        merged.first.merge()
    torch.testing.assert_close(merged.first(x), expected, rtol=1e-5, atol=1e-5)
    # What is written again says which series it is.
    save_adapter(model, tmp_path / "ours")
    again = base_model()
    load_adapter(again, tmp_path / "ours")
    assert torch.equal(again(x), model(x))
    (result, ours), excess = (
        (again.first.rotation.orthogonality_error(), again.first.rotation.neumann_error_bound()),
        torch.linalg.matrix_norm(rotation.mT @ rotation - torch.eye(24, dtype=torch.float64), 2),
    )
    torch.testing.assert_close(result, excess, rtol=1e-4, atol=1e-6)
    assert ours >= excess * (1 - 1e-5)


@pytest.mark.parametrize("version", [None, "0.17.0", "0.18.0"])
def test_the_exact_map_of_oft_never_changed(tmp_path, version):
    folder, weight = oft_checkpoint(tmp_path, version, exact=True)
    q, identity = skew(weight), torch.eye(4, dtype=torch.float64)
    rotation = torch.block_diag(*((identity - q) @ torch.linalg.inv(identity + q)))
    model = base_model()
    load_adapter(model, folder)
    x = torch.randn(6, 24)
    expected = base_model().first.double()(x.double() @ rotation).float()
    torch.testing.assert_close(model.first(x), expected, rtol=1e-5, atol=1e-5)
    save_adapter(model, tmp_path / "ours")
    torch.testing.assert_close(reloaded(tmp_path / "ours", base_model()).base_model.model.first(x), expected)


def test_one_series_after_the_other_in_one_model(tmp_path):
    x, outputs = torch.randn(6, 24), {}
    model = base_model()
    for version in ("0.17.0", "0.18.0", "0.17.0", "0.18.0"):
        folder, weight = oft_checkpoint(tmp_path / version, version)
        load_adapter(model, folder)
        rotation = torch.block_diag(*power_series(weight, SERIES[version if version == "0.18.0" else None, 5]))
        expected = base_model().first.double()(x.double() @ rotation).float()
        torch.testing.assert_close(model.first(x), expected, rtol=1e-5, atol=1e-5)
        outputs[version] = model.first(x)
        assert model.first.rotation.skew.requires_grad and model.first.rotation.training == model.first.training
    assert not torch.allclose(outputs["0.17.0"], outputs["0.18.0"], rtol=1e-3)


def test_boft_before_0_13_held_its_permutations(tmp_path):
    stock = stock_model("boft", boft_n_butterfly_factor=2, target_modules=["first"])
    stock.save_pretrained(tmp_path)
    tensors = safetensors.load_file(tmp_path / WEIGHTS)
    permutations = stock.base_model.model.first.boft_P
    settings = json.loads((tmp_path / CONFIG).read_text())
    folder = tmp_path / "old"
    plain = {key.removeprefix(PREFIX): value for key, value in tensors.items()}
    model = base_model()
    load_adapter(model, write(folder, settings, plain | {"first.boft_P": permutations}))
    x = torch.randn(6, 24)
    torch.testing.assert_close(model(x), stock(x))
    for wrong in (permutations.flip(1), permutations[:1], permutations.flip(0)):
        model, before = base_model(), base_model()(x)
        with pytest.raises(ValueError, match="boft_P of 'first' holds other permutations"):
            load_adapter(model, write(folder, settings, plain | {"first.boft_P": wrong}))
        assert torch.equal(model(x), before) and type(model.first) is nn.Linear


def test_boft_without_peft_s_cuda_extension_has_one_factor(tmp_path, monkeypatch):
    """Whatever the config says; the file tells."""
    monkeypatch.undo()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stock = stock_model("boft", boft_n_butterfly_factor=2)
        stock.save_pretrained(tmp_path)
        assert json.loads((tmp_path / CONFIG).read_text())["boft_n_butterfly_factor"] == 2
        model = base_model()
        load_adapter(model, tmp_path)
        x = torch.randn(6, 24)
        assert model.first.rotation.factors == 1
        torch.testing.assert_close(model(x), stock(x))
        save_adapter(model, tmp_path / "ours")
        torch.testing.assert_close(reloaded(tmp_path / "ours", base_model())(x), stock(x))


def test_boft_dropout_is_said_to_be_left_out(tmp_path):
    stock_model("boft", boft_dropout=0.5).save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="boft_dropout is 0.5; BOFTLinear has no dropout"):
        load_adapter(base_model(), tmp_path)


# --- Parameters that stay ---


@pytest.mark.parametrize("method", LAYERS)
def test_loading_keeps_the_parameters_where_the_shapes_are_the_same(tmp_path, method):
    sizes = {"oft": ("oft_block_size", 8), "boft": ("boft_block_size", 8), "hra": ("r", 6)}[method]
    for index, options in enumerate(({}, {}, dict([sizes]))):
        torch.manual_seed(index)
        stock_model(method, **options).save_pretrained(tmp_path / str(index))
    model = base_model()
    load_adapter(model, tmp_path / "0")
    before = {name: p for name, p in model.named_parameters() if p.requires_grad}
    load_adapter(model, tmp_path / "1")
    assert all(p is before[name] for name, p in model.named_parameters() if p.requires_grad)
    x = torch.randn(6, 24)
    torch.testing.assert_close(model(x), reloaded(tmp_path / "1", base_model())(x))
    load_adapter(model, tmp_path / "2")
    torch.testing.assert_close(model(x), reloaded(tmp_path / "2", base_model())(x))
    assert {name for name, p in model.named_parameters() if p.requires_grad} == before.keys()


@pytest.mark.parametrize("method", LAYERS)
def test_a_merged_layer_saves_its_weights(tmp_path, method):
    stock_model(method).save_pretrained(tmp_path / "peft")
    model = base_model()
    load_adapter(model, tmp_path / "peft")
    save_adapter(model, tmp_path / "before")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        model.first.merge()
    save_adapter(model, tmp_path / "merged")
    first, second = (safetensors.load_file(tmp_path / folder / WEIGHTS) for folder in ("before", "merged"))
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
