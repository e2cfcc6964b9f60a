"""param_groups: which parameter goes where, in plain models and in those of transformers, and how it says so."""

import pytest
import torch
from torch import nn

from lrkernels import optim
from lrkernels.demo.model import ByteTransformer
from lrkernels.optim.naming import role_of_name


def sorted_names(model, **options):
    groups = optim.param_groups(model, report=None, **options)
    found = {"matrices": [], "embeddings and heads": [], "others": []}
    for name, _, group, _ in groups.decisions:
        found[group].append(name)
    return groups, found


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.token_table = nn.Embedding(11, 8)
        self.pos_embed = nn.Parameter(torch.zeros(5, 8))
        self.conv = nn.Conv1d(8, 8, 3)
        self.norm = nn.LayerNorm([5, 8])
        self.hidden = nn.Linear(8, 6)
        self.attention = nn.MultiheadAttention(8, 2)
        self.mixer = nn.Parameter(torch.zeros(4, 4))
        self.column = nn.Linear(8, 1)
        self.scale = nn.Parameter(torch.zeros(()))
        self.frozen = nn.Linear(8, 8)
        self.frozen.requires_grad_(False)
        self.head = nn.Linear(8, 11, bias=False)


def test_a_plain_model():
    model = Model()
    groups, found = sorted_names(model, adamw={"lr": 1e-4, "weight_decay": 0.3})
    assert found == {
        "matrices": ["mixer", "hidden.weight", "attention.in_proj_weight", "attention.out_proj.weight"],
        "embeddings and heads": ["pos_embed", "token_table.weight", "head.weight"],
        "others": [
            "scale", "conv.weight", "conv.bias", "norm.weight", "norm.bias", "hidden.bias", "attention.in_proj_bias",
            "attention.out_proj.bias", "column.weight", "column.bias",
        ],
    }  # fmt: skip
    matrices, ends, others = groups
    assert matrices["algorithm"] == "matrix" and set(matrices) == {"params", "algorithm"}
    assert ends["algorithm"] == others["algorithm"] == "adamw" and ends["lr"] == others["lr"] == 1e-4
    assert ends["weight_decay"] == 0.3 and others["weight_decay"] == 0.0
    trained = [p for group in groups for _, p in group["params"]]
    assert {id(p) for p in trained} == {id(p) for p in model.parameters() if p.requires_grad}
    assert len(trained) == len({id(p) for p in trained})


def test_a_head_tied_to_an_embedding_goes_with_it_once():
    model = ByteTransformer(16, 1, 2, 8)
    groups, found = sorted_names(model)
    assert found["embeddings and heads"] == ["embedding.weight"]
    assert "tied: head.weight" in str(groups)
    assert found["matrices"] == [
        f"blocks.0.{name}.weight" for name in ("attention.qkv", "attention.out", "ffn.fc1", "ffn.fc2")
    ]


def test_the_table_has_a_line_for_all_layers(capsys):
    groups = optim.param_groups(ByteTransformer(16, 3, 2, 8))
    printed = capsys.readouterr().out
    assert printed == str(groups) + "\n"
    lines = [line.split() for line in printed.splitlines()]
    assert ["blocks.*.ffn.fc1.weight", "3", "64", "x", "16", "matrices", "hidden", "matrix"] in lines
    assert ["norm.weight", "1", "16", "others", "has", "1", "dimension"] in lines


def test_excluded_by_name():
    _, found = sorted_names(Model(), exclude=["attention"])
    assert found["matrices"] == ["mixer", "hidden.weight"]
    with pytest.raises(ValueError, match="param_groups: exclude has 'atention'"):
        optim.param_groups(Model(), exclude=["atention"])


def test_a_model_without_hidden_matrices_is_refused():
    with pytest.raises(ValueError, match="param_groups: the model has no hidden matrix"):
        optim.param_groups(nn.Sequential(nn.Embedding(4, 4), nn.LayerNorm(4)))


def test_the_names_come_along_and_the_groups_serve_twice():
    model = ByteTransformer(16, 1, 2, 8)
    groups = optim.param_groups(model, report=None)
    optimizers = [optim.Muon(groups), optim.Dion(groups)]
    assert set(groups[0]) == {"params", "algorithm"}
    for optimizer in (*optimizers, torch.optim.AdamW(groups)):
        named = [
            pair for group in optimizer.param_groups for pair in zip(group["param_names"], group["params"], strict=True)
        ]  # fmt: skip
        own = dict(model.named_parameters())
        assert len(named) == len(own) and all(own[name] is p for name, p in named)


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("model.embed_tokens.weight", "an embedding"),
        ("bert.embeddings.word_embeddings.weight", "an embedding"),
        ("bert.embeddings.projection.weight", None),
        ("transformer.wte.weight", "an embedding"),
        ("encoder.pos_embed", "an embedding"),
        ("lm_head.weight", "a head"),
        ("classifier.weight", "a head"),
        ("output.weight", "a head"),
        ("layers.3.output.weight", None),
        ("layers.3.attention.dense.weight", None),
        ("layers.0.header.weight", None),
        ("weight", None),
    ],
)
def test_roles_by_name(name, role):
    assert role_of_name(name) == role


def test_models_of_transformers():
    transformers = pytest.importorskip("transformers")
    small = {"num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 33}
    llama = {**small, "hidden_size": 16, "intermediate_size": 24, "num_key_value_heads": 1}
    for tied in (False, True):
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**llama, tie_word_embeddings=tied))
        _, found = sorted_names(model)
        assert found["embeddings and heads"] == ["model.embed_tokens.weight"] + ([] if tied else ["lm_head.weight"])
        assert len(found["matrices"]) == 2 * 7 and len(found["others"]) == 2 * 2 + 1
    gpt2 = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_layer=2, n_head=2, n_embd=16, vocab_size=33))
    _, found = sorted_names(gpt2)
    assert found["embeddings and heads"] == ["transformer.wte.weight", "transformer.wpe.weight"]
    assert len(found["matrices"]) == 2 * 4
    bert = transformers.BertForSequenceClassification(
        transformers.BertConfig(**small, hidden_size=16, intermediate_size=24, num_labels=3)
    )
    _, found = sorted_names(bert)
    ends = ["word_embeddings", "position_embeddings", "token_type_embeddings"]
    assert found["embeddings and heads"] == [f"bert.embeddings.{end}.weight" for end in ends] + ["classifier.weight"]
    assert len(found["matrices"]) == 2 * 6 + 1  # the pooler
