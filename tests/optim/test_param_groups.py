"""param_groups: which parameter goes where, in plain models and in those of transformers, and how it says so."""

import pytest
import torch
from optimizer_cases import matrices
from torch import nn

from lrkernels import adapters, optim
from lrkernels.demo.model import ByteTransformer
from lrkernels.optim.naming import role_of_name


def sorted_names(model, **options):
    groups = optim.param_groups(model, report=None, **options)
    found = {"matrices": [], "embeddings and heads": [], "other weights": [], "others": []}
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
        "other weights": ["conv.weight"],
        "others": [
            "scale", "conv.bias", "norm.weight", "norm.bias", "hidden.bias", "attention.in_proj_bias",
            "attention.out_proj.bias", "column.weight", "column.bias",
        ],
    }  # fmt: skip
    matrices, ends, weights, others = groups
    assert matrices["algorithm"] == "matrix" and set(matrices) == {"params", "algorithm"}
    assert all(group["algorithm"] == "adamw" and group["lr"] == 1e-4 for group in (ends, weights, others))
    assert [group["weight_decay"] for group in (ends, weights, others)] == [0.3, 0.3, 0.0]
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
        ("classifier.0.weight", "a head"),
        ("classifier.out_proj.weight", "a head"),
        ("attention.out_proj.weight", None),
        ("layers.0.weight", None),
        ("module.output.weight", "a head"),
        ("module._orig_mod.lm_head.weight", "a head"),
        ("_fsdp_wrapped_module.wte._fsdp_wrapped_module.weight", "an embedding"),
        ("layers.3._checkpoint_wrapped_module.output.weight", None),
        ("score.modules_to_save.default.weight", "a head"),
        ("head.parametrizations.weight.original0", "a head"),
        ("parametrizations.pos_embed.original", "an embedding"),
        ("ffn.parametrizations.weight.original", None),
        ("layers.3.rotation.skew", "coordinates"),
        ("layers.3.adapters.default.bands", "coordinates"),
        ("layers.3.oft_R.default.weight", "coordinates"),
        ("layers.3.vectors", None),
    ],
)
def test_roles_by_name(name, role):
    assert role_of_name(name) == role


class Wrapped(nn.Module):
    """DistributedDataParallel's way: the model under one name, its methods out of reach."""

    def __init__(self, model):
        super().__init__()
        self.module = model

    def forward(self, *arguments):
        return self.module(*arguments)


class Named(nn.Module):
    """Ends that no name gives away."""

    def __init__(self):
        super().__init__()
        self.first, self.hidden, self.last = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.output = nn.Linear(8, 8)

    def get_input_embeddings(self):
        return self.first

    def get_output_embeddings(self):
        return self.last


@pytest.mark.parametrize("wrap", [Wrapped, torch.compile, lambda model: Wrapped(torch.compile(model))])
def test_a_wrapped_model_is_sorted_like_itself(wrap):
    _, found = sorted_names(wrap(Named()))
    ends = {name.removesuffix(".weight").split(".")[-1] for name in found["embeddings and heads"]}
    assert ends == {"first", "last", "output"} and len(found["matrices"]) == 1


def test_convolutions_and_experts_keep_their_decay_and_tokens_do_not():
    model = nn.ParameterDict(
        {
            "experts": torch.zeros(4, 6, 5),
            "cls_token": torch.zeros(1, 1, 6),
            "pos_embed": torch.zeros(1, 7, 6),
            "hidden": torch.zeros(6, 6),
        }
    )
    groups, found = sorted_names(model, adamw={"weight_decay": 0.3})
    assert found == {
        "matrices": ["hidden"],
        "embeddings and heads": ["pos_embed"],
        "other weights": ["experts"],
        "others": ["cls_token"],
    }
    assert [group.get("weight_decay") for group in groups] == [None, 0.3, 0.3, 0.0]
    weights = matrices(shapes=[(6, 6), (4, 6, 5), (6,)])
    optimizer = optim.Muon(
        [{**group, "params": [p]} for group, p in zip((groups[0], groups[2], groups[3]), weights)], lr=0.1
    )
    for p in weights:
        p.grad = torch.zeros_like(p)
    before = [p.detach().clone() for p in weights]
    optimizer.step()
    for p, w, share in zip(weights, before, (0.99, 0.97, 1.0), strict=True):
        torch.testing.assert_close(p, share * w)


@pytest.mark.parametrize("adapter", ["Givens", "OFT", "BOFT", "HRA", "GOFT", "SVFT"])
def test_coordinates_of_adapters_are_no_matrices(adapter):
    options = {"OFT": {"block_size": 4}, "BOFT": {"block_size": 4, "factors": 2}, "HRA": {"r": 2}}
    options |= {"SVFT": {"r": 4, "band": 1}}
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    layer = getattr(adapters, adapter).wrap(model[0], **options.get(adapter, {}))
    _, found = sorted_names(nn.Sequential(layer, model[1]))
    assert found["matrices"] == ["1.weight"] and not found["other weights"]
    trained = [(name, p) for name, p in layer.named_parameters() if p.requires_grad]
    assert trained and {f"0.{name}" for name, _ in trained} <= {*found["others"]}
    shaped = [(name, p) for name, p in trained if p.dim() == 2]
    if shaped:
        with pytest.raises(ValueError, match="Muon: params has .* by its name coordinates; "):
            optim.Muon(shaped)


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


def test_a_word_to_exclude_is_one_word():
    assert sorted_names(Model(), exclude="hidden")[1] == sorted_names(Model(), exclude=["hidden"])[1]
    assert "hidden.weight" in sorted_names(Model(), exclude="hidden")[1]["embeddings and heads"]
