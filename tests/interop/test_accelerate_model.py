"""What people do with a PEFT model works the same when accelerated: train, save, load, switch, merge, generate."""

import copy
import io
import json

import pytest
import torch
from peft_models import kernels_of, peft, peft_layers, peft_llama, stock_and_fused, tiny_llama

import lrkernels


def ids(rows=2, tokens=9):
    return torch.randint(0, 64, (rows, tokens), generator=torch.Generator().manual_seed(1))


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


def trained(model):
    return torch.cat([p.detach().double().flatten() for p in model.parameters() if p.requires_grad])


def adapter_tensors(folder):
    from safetensors.torch import load_file

    return load_file(folder / "adapter_model.safetensors")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_training_and_saved_files(tmp_path, dtype):
    stock, fused = stock_and_fused(peft_llama().to(dtype))
    exact = copy.deepcopy(stock).double()
    start = trained(exact)
    expected, (loss, kernels) = train(stock), kernels_of(lambda: train(fused))
    assert kernels
    train(exact)
    # What training has changed, measured from training in float64.
    whole = (trained(exact) - start).norm()
    theirs, ours = ((trained(model) - trained(exact)).norm() for model in (stock, fused))
    assert theirs < 0.25 * whole and ours < 2 * theirs + 1e-5 * whole
    torch.testing.assert_close(loss, expected, rtol=1e-5 if dtype == torch.float32 else 0.01, atol=0)
    for name, model in (("stock", stock), ("fused", fused)):
        model.save_pretrained(tmp_path / name)
    tensors, saved = adapter_tensors(tmp_path / "stock"), adapter_tensors(tmp_path / "fused")
    assert saved.keys() == tensors.keys() and len(saved) == 14
    for name, value in fused.state_dict().items():
        if "lora_" in name:
            assert torch.equal(saved[name.replace(".default", "")], value)
    files = [sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("stock", "fused")]
    assert files[0] == files[1]
    configs = [json.loads((tmp_path / name / "adapter_config.json").read_text()) for name in ("stock", "fused")]
    for config in configs:
        config["target_modules"].sort()  # PEFT writes a set
    assert configs[0] == configs[1]
    # A checkpoint of one is the other's: equal numbers in stock PEFT.
    reloaded = peft.PeftModel.from_pretrained(tiny_llama().to(dtype), tmp_path / "fused", autocast_adapter_dtype=False)
    assert lrkernels.restore(fused) == 7
    assert torch.equal(reloaded.eval()(ids()).logits, fused.eval()(ids()).logits)


def test_state_dict_and_load_adapter_after_accelerate(tmp_path):
    stock, fused = stock_and_fused(peft_llama())
    assert fused.state_dict().keys() == stock.state_dict().keys()
    other = peft_llama(r=3)
    for parameter in other.parameters():
        if parameter.requires_grad:
            parameter.data = torch.randn_like(parameter) / 8
    other.save_pretrained(tmp_path)
    for model in (stock, fused):
        model.load_adapter(tmp_path, "other")
        model.set_adapter("other")
        model.eval()
    logits, kernels = kernels_of(lambda: fused(ids()).logits)
    assert kernels
    torch.testing.assert_close(logits, stock(ids()).logits)
    torch.testing.assert_close(logits, other.eval()(ids()).logits)
    fused.delete_adapter("other")
    stock.delete_adapter("other")
    assert fused.active_adapters == stock.active_adapters == ["default"]
    torch.testing.assert_close(fused(ids()).logits, stock(ids()).logits)


def test_merge_and_unload():
    stock, fused = stock_and_fused(peft_llama().eval())
    before, merged = fused(ids()).logits, fused.merge_and_unload()
    assert [type(m) for m in merged.modules()] == [type(m) for m in tiny_llama().modules()]
    assert torch.equal(merged(ids()).logits, stock.merge_and_unload()(ids()).logits)
    torch.testing.assert_close(merged(ids()).logits, before)


def test_generate():
    stock, fused = stock_and_fused(peft_llama().eval())
    options = dict(max_new_tokens=6, do_sample=False, pad_token_id=0)
    tokens, kernels = kernels_of(lambda: fused.generate(input_ids=ids(), **options))
    assert kernels and tokens.shape == (2, 15)
    assert torch.equal(tokens, stock.generate(input_ids=ids(), **options))


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_repeats_the_dropout_mask(reentrant):
    gradients = []
    for checkpointing in (False, True):
        model = peft_llama(lora_dropout=0.3)
        lrkernels.accelerate(model)
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
            model.enable_input_require_grads()
        model.train()
        torch.manual_seed(3)
        model(ids(), labels=ids()).loss.backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) == 14
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)


def test_compile_fullgraph():
    torch.compiler.reset()
    model = peft_layers(lora_dropout=0.2, target_modules=["first"])
    stock, fused = stock_and_fused(model)
    x = torch.randn(6, 24)
    fused.eval(), stock.eval()
    compiled = torch.compile(fused, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), stock(x))
    compiled(x).square().sum().backward()
    stock(x).square().sum().backward()
    expected = {n: p.grad for n, p in stock.named_parameters() if p.requires_grad}
    assert len(expected) == 2
    for name, parameter in fused.named_parameters():
        torch.testing.assert_close(parameter.grad, expected.get(name))
    for each in (stock, fused):
        each.base_model.model.first.set_scale("default", 0.25)
    torch.testing.assert_close(compiled(x), stock(x))  # at the price of a recompilation, as in PEFT
    with stock.disable_adapter(), fused.disable_adapter():
        torch.testing.assert_close(compiled(x), stock(x))
    fused.train()
    assert not torch.equal(compiled(x), compiled(x))  # a new mask a call


def test_deepcopy_and_pickle():
    stock, fused = stock_and_fused(peft_llama().eval())
    file = io.BytesIO()
    torch.save(fused, file)
    file.seek(0)
    for copied in (copy.deepcopy(fused), torch.load(file, weights_only=False)):
        logits, kernels = kernels_of(lambda copied=copied: copied(ids()).logits)
        assert kernels and torch.equal(logits, fused(ids()).logits)
        assert lrkernels.restore(copied) == 7
        assert torch.equal(copied(ids()).logits, stock(ids()).logits)
    assert repr(fused) == repr(stock)


def test_compile_fullgraph_of_what_is_left_to_peft():
    """PEFT's own DoRA does not compile in one graph (0.21), a layer with a hook does."""
    torch.compiler.reset()
    stock, fused = stock_and_fused(peft_layers(target_modules=["first"]))
    for each in (stock, fused):
        each.base_model.model.first.lora_A["default"].register_forward_hook(lambda module, args, y: y + 1)
    x = torch.randn(6, 24)
    compiled = torch.compile(fused, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), stock(x))
