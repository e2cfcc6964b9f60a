"""What people do with PEFT's OFT, BOFT and HRA works the same when accelerated: train, save, load, switch, merge."""

import copy
import io
import json

import pytest
import torch
from peft_models import Int8Linear, peft, stock_and_fused, tiny_llama
from peft_orthogonal import (
    OPTIONS,
    allow_butterfly_factors,
    assert_equal,
    config,
    forwards_of_peft,
    is_adapter,
    orthogonal_layers,
    orthogonal_llama,
)
from torch import nn

import lrkernels

METHODS = list(OPTIONS)


@pytest.fixture(autouse=True)
def butterfly(monkeypatch):
    allow_butterfly_factors(monkeypatch)


def ids(rows=2, tokens=9):
    return torch.randint(0, 64, (rows, tokens), generator=torch.Generator().manual_seed(1))


def fused_only(function):
    with forwards_of_peft() as ran:
        result = function()
    assert not ran
    return result


def train(model, steps=4):
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    batch = ids()
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model(batch, labels=batch).loss
        loss.backward()
        optimizer.step()
    return loss.item()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("init_weights", [True, False])
def test_training_and_saved_files(tmp_path, method, init_weights):
    stock, fused = stock_and_fused(orthogonal_llama(method, init_weights=init_weights))
    start = {name: p.detach().clone() for name, p in stock.named_parameters() if p.requires_grad}
    assert len(start) == (14 if method == "boft" else 7)
    expected, loss = train(stock), fused_only(lambda: train(fused))
    assert loss == pytest.approx(expected, rel=1e-5)
    for name, parameter in fused.named_parameters():
        theirs = stock.get_parameter(name)
        torch.testing.assert_close(
            parameter, theirs, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}:{text}"
        )
        assert name not in start or not torch.equal(parameter, start[name])
    for name, model in (("stock", stock), ("fused", fused)):
        model.save_pretrained(tmp_path / name)
    files = [sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("stock", "fused")]
    assert files[0] == files[1]
    configs = [json.loads((tmp_path / name / "adapter_config.json").read_text()) for name in ("stock", "fused")]
    for each in configs:
        each["target_modules"].sort()  # PEFT writes a set
    assert configs[0] == configs[1]
    # A checkpoint of one is the other's: equal numbers in stock PEFT, equal numbers fused.
    again = peft.PeftModel.from_pretrained(tiny_llama(), tmp_path / "fused").eval()
    logits = fused.eval()(ids()).logits
    accelerated = copy.deepcopy(again)
    lrkernels.accelerate(accelerated, strict=True)
    assert torch.equal(accelerated(ids()).logits, logits)
    assert lrkernels.restore(fused) == 7
    assert torch.equal(again(ids()).logits, fused(ids()).logits)


@pytest.mark.parametrize("method", METHODS)
def test_state_dict_and_load_adapter_after_accelerate(tmp_path, method):
    stock, fused = stock_and_fused(orthogonal_llama(method))
    assert fused.state_dict().keys() == stock.state_dict().keys()
    other = orthogonal_llama(method, **({"r": 2} if method == "hra" else {}))
    other.save_pretrained(tmp_path)
    for model in (stock, fused):
        model.load_adapter(tmp_path, "other")
        model.set_adapter("other")
        model.eval()
    logits = fused_only(lambda: fused(ids()).logits)
    torch.testing.assert_close(logits, stock(ids()).logits)
    torch.testing.assert_close(logits, other.eval()(ids()).logits)
    for model in (stock, fused):
        model.delete_adapter("other")
    torch.testing.assert_close(fused_only(lambda: fused(ids()).logits), stock(ids()).logits)


@pytest.mark.parametrize("method", METHODS)
def test_merge_and_unload(method):
    stock, fused = stock_and_fused(orthogonal_llama(method).eval())
    before, merged = fused(ids()).logits, fused.merge_and_unload()
    assert [type(m) for m in merged.modules()] == [type(m) for m in tiny_llama().modules()]
    assert torch.equal(merged(ids()).logits, stock.merge_and_unload()(ids()).logits)
    torch.testing.assert_close(merged(ids()).logits, before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing(method, reentrant):
    options = {"oft": {"coft": True, "eps": 0.5}, "boft": {"boft_dropout": 0.5}, "hra": {}}[method]
    gradients = []
    for checkpointing in (False, True):
        model = orthogonal_llama(method, **options)
        lrkernels.accelerate(model, strict=True)
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
            model.enable_input_require_grads()
        model.train()
        torch.manual_seed(3)
        fused_only(lambda model=model: model(ids(), labels=ids()).loss.backward())
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) == (14 if method == "boft" else 7)
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("oft", {}),
        ("oft", {"use_cayley_neumann": False}),
        ("oft", {"coft": True, "eps": 0.5, "block_share": True}),
        ("boft", {"boft_n_butterfly_factor": 2}),
        ("hra", {}),
        ("hra", {"apply_GS": True}),
    ],
)
def test_compile_fullgraph(method, options):
    torch.compiler.reset()
    stock, fused = stock_and_fused(orthogonal_layers(method=method, target_modules=["first"], **options))
    compiled = torch.compile(fused, fullgraph=True, backend="aot_eager")
    x = torch.randn(6, 24)
    torch.testing.assert_close(compiled(x), stock(x))
    compiled(x).square().sum().backward()
    stock(x).square().sum().backward()
    expected = {n: p.grad for n, p in stock.named_parameters() if p.requires_grad}
    assert expected and all(is_adapter(name) for name in expected)
    for name, parameter in fused.named_parameters():
        torch.testing.assert_close(parameter.grad, expected.get(name))
    with torch.no_grad():
        for model in (stock, fused):
            for name, parameter in model.named_parameters():
                if is_adapter(name):
                    parameter.mul_(0.5)
    with torch.compiler.set_stance("fail_on_recompile"):
        torch.testing.assert_close(fused_only(lambda: compiled(x.requires_grad_(False))), stock(x))


@pytest.mark.parametrize("method", METHODS)
def test_deepcopy_and_pickle(method):
    stock, fused = stock_and_fused(orthogonal_llama(method).eval())
    file = io.BytesIO()
    torch.save(fused, file)
    file.seek(0)
    for copied in (copy.deepcopy(fused), torch.load(file, weights_only=False)):
        assert torch.equal(fused_only(lambda copied=copied: copied(ids()).logits), fused(ids()).logits)
        assert lrkernels.restore(copied) == 7
        assert torch.equal(copied(ids()).logits, stock(ids()).logits)
    assert repr(fused) == repr(stock)


@pytest.mark.parametrize("method", ["oft", "boft"])
def test_a_quantised_base(method):
    """The rotated x goes into the base layer's own forward."""
    model = orthogonal_layers(method=method)
    inner = model.base_model.model
    inner.first.base_layer, inner.second.base_layer = map(
        Int8Linear, (inner.first.base_layer, inner.second.base_layer)
    )  # fmt: skip
    stock, fused = stock_and_fused(model)
    how = "the ops rotate x, Int8Linear computes its own output"
    assert all(text.startswith(how) for text in lrkernels.accelerate(fused).fused.values())
    assert_equal(stock, fused, torch.randn(6, 24))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.filterwarnings("ignore:.*inputs will be cast.*")
def test_bitsandbytes(bits):
    bitsandbytes = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed (requirements-dev.txt)")
    torch.manual_seed(0)
    if bits == 4:
        quantised = bitsandbytes.nn.Linear4bit(64, 128, compute_dtype=torch.float32, quant_type="nf4")
    else:
        quantised = bitsandbytes.nn.Linear8bitLt(64, 128, has_fp16_weights=False, threshold=6.0)
    quantised.load_state_dict(nn.Linear(64, 128).state_dict())
    for method in ("oft", "boft"):
        model = nn.Sequential(copy.deepcopy(quantised).to("cpu"))
        setattr(model, f"is_loaded_in_{bits}bit", True)
        stock, fused = stock_and_fused(peft.get_peft_model(model, config(method, target_modules=["0"])))
        assert type(fused.base_model.model[0].base_layer) is type(quantised)
        assert_equal(stock, fused, torch.randn(6, 64))


def test_conv1d_of_transformers():
    """GPT-2's layers store [in, out] (fan_in_fan_out), which PEFT adapts with none of the three."""
    import transformers

    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=64, n_embd=32, n_layer=1, n_head=4))
    for method in METHODS:
        with pytest.raises(TypeError, match="not supported"):
            peft.get_peft_model(copy.deepcopy(model), config(method, target_modules=["c_attn"]))
