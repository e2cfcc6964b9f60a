"""What a backward pass keeps from the forward: of a fused LoRA layer no more than x and s, s being [tokens, rank]."""

import copy

import pytest
import torch
from peft_models import lora_config, peft, peft_layers, tiny_llama
from torch import nn

import lrkernels

ROWS, WIDTH, HEIGHT, RANK = 64, 24, 40, 4
FLOAT = 4


class SavedBytes:
    """The memory that saved tensors keep alive, each storage once, without what the model holds anyway."""

    def __init__(self, model, *held):
        tensors = (*model.parameters(), *model.buffers(), *held)
        self._held = {tensor.untyped_storage().data_ptr() for tensor in tensors}
        self._alive = {}  # the storages, so that none is freed and its address used again

    def __enter__(self):
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor)
        self._hooks.__enter__()
        return self

    def __exit__(self, *error):
        self._hooks.__exit__(*error)

    def _pack(self, tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._held:
            self._alive[storage.data_ptr()] = storage
        return tensor

    @property
    def total(self):
        return sum(storage.nbytes() for storage in self._alive.values())


def saved_by(model, x, held=()):
    with SavedBytes(model, *held) as saved:
        y = model(x)
    return saved.total, y


def layer(**options):
    return peft_layers(target_modules=["first"], r=RANK, **options).base_model.model.first


S = ROWS * RANK * FLOAT
X = ROWS * WIDTH * FLOAT
CONFIGURATIONS = {
    "plain": ({}, 0),
    "rslora": ({"use_rslora": True}, 0),
    "lora_bias": ({"lora_bias": True}, 0),
    "dropout": ({"lora_dropout": 0.25}, 8),  # the seed; no mask, no dropped copy of x
    # The scaled output for the magnitude's gradient; magnitude, norms and their ratio; the scaled up factor.
    "dora": ({"use_dora": True}, (ROWS + 4 + RANK) * HEIGHT * FLOAT),
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_layer_keeps_x_and_s(name):
    options, beside = CONFIGURATIONS[name]
    stock = layer(**options).train()
    fused = copy.deepcopy(stock)
    assert lrkernels.accelerate(nn.Sequential(fused)).declined == {}
    x = torch.randn(ROWS, WIDTH, requires_grad=True)
    saved, _ = saved_by(fused, x)
    assert S + X <= saved <= S + X + beside
    with_peft = saved_by(stock, x)[0]
    assert saved < with_peft if beside else saved == with_peft
    # x belongs to whoever made it, often another layer that keeps it too.
    assert saved_by(fused, x, held=(x,))[0] == saved - X


def test_frozen_factors_keep_less():
    fused = layer()
    lrkernels.accelerate(nn.Sequential(fused))
    x = torch.randn(ROWS, WIDTH, requires_grad=True)
    fused.lora_A["default"].weight.requires_grad_(False)
    assert saved_by(fused, x)[0] == S
    fused.lora_B["default"].weight.requires_grad_(False)
    assert saved_by(fused, x)[0] == 0


def test_half_precision_beside_float32_factors_keeps_no_float32_copy_of_x():
    """PEFT casts x to the factors' dtype and keeps that."""
    stock = layer(dtype=torch.bfloat16).float()
    stock.base_layer.bfloat16()
    fused = copy.deepcopy(stock)
    lrkernels.accelerate(nn.Sequential(fused))
    x = torch.randn(ROWS, WIDTH, dtype=torch.bfloat16, requires_grad=True)
    assert saved_by(fused, x)[0] == X // 2 + S
    assert saved_by(stock, x)[0] >= X + S


@pytest.mark.parametrize("lora_dropout", [0.0, 0.25])
def test_a_transformer_keeps_the_inputs_of_its_layers(lora_dropout):
    """As with PEFT, and with dropout less: PEFT keeps the mask and the dropped input of every layer."""
    config = lora_config(lora_dropout=lora_dropout)
    stock = peft.get_peft_model(tiny_llama(), config).train()
    fused = copy.deepcopy(stock)
    lrkernels.accelerate(fused)
    base = copy.deepcopy(stock).unload().requires_grad_(False)
    base.model.embed_tokens.requires_grad_()  # so that there is a backward pass
    ids = torch.randint(0, 64, (2, 16))
    totals = {}
    for name, model in (("stock", stock), ("fused", fused), ("base", base)):
        with SavedBytes(model) as saved:
            loss = model(ids, labels=ids).loss
        totals[name] = saved.total
        loss.backward()
    tokens, layers, rank = ids.numel(), 7, 4
    # A frozen linear layer keeps nothing; a fused one its input, of which q, k and v share one, and gate and up.
    inputs = (32 + 32 + 32 + 48) * tokens * FLOAT
    most = totals["base"] + inputs + layers * (tokens * rank * FLOAT + 8 * bool(lora_dropout))
    assert totals["fused"] <= most
    assert totals["fused"] <= totals["stock"] - 7 * 32 * tokens * bool(lora_dropout)
