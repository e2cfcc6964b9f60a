"""Small models with PEFT's orthogonal adapters: OFT, BOFT and HRA. Importing it skips where PEFT is missing."""

import contextlib

import pytest
import torch
from peft.tuners import hra, oft
from peft.tuners.boft import layer as boft_layer
from peft_models import ALL_LINEAR, TwoLayers, outputs, peft, tiny_llama

STOCK_LAYERS = (oft.Linear, boft_layer.Linear, hra.HRALinear)
# What PEFT's forward knows, by method; block sizes that divide 24 and 40.
OPTIONS = {
    "oft": {
        "neumann": {},
        "exact": {"use_cayley_neumann": False},
        "one term": {"num_cayley_neumann_terms": 1},
        "two terms": {"num_cayley_neumann_terms": 2},
        "three terms": {"num_cayley_neumann_terms": 3},
        "four terms": {"num_cayley_neumann_terms": 4},
        "eight terms": {"num_cayley_neumann_terms": 8},
        "one block": {"r": 1, "oft_block_size": 0},
        "shared": {"block_share": True},
        "shared, exact": {"block_share": True, "use_cayley_neumann": False},
        "COFT": {"coft": True, "eps": 0.5},
        "COFT within its bound": {"coft": True, "eps": 50.0, "use_cayley_neumann": False},
        "COFT, shared": {"coft": True, "eps": 0.5, "block_share": True},
        "dropout": {"module_dropout": 0.5},
        "trained bias": {"bias": "oft_only"},
    },
    "boft": {
        "one factor": {},
        "by number": {"boft_block_size": 0, "boft_block_num": 2},
        "two factors": {"boft_n_butterfly_factor": 2},
        "odd blocks": {"boft_block_size": 1},
        "three factors": {"boft_block_size": 2, "boft_n_butterfly_factor": 3},
        "four factors": {"boft_block_size": 2, "boft_n_butterfly_factor": 3, "target_modules": ["first"]},
        "dropout": {"boft_dropout": 0.5, "boft_n_butterfly_factor": 2},
        "trained bias": {"bias": "boft_only"},
    },
    "hra": {
        "even": {},
        "odd": {"r": 5},
        "Gram-Schmidt": {"apply_GS": True},
        "as many as features": {"r": 24},
        "trained bias": {"bias": "hra_only"},
    },
}
CASES = [(method, name) for method, cases in OPTIONS.items() for name in cases]


class _BlockDiagonal:
    """In plain torch what PEFT's CUDA extension does, without which it sets the number of butterfly factors to one."""

    @staticmethod
    def forward(blocks):
        return [torch.stack([torch.block_diag(*factor) for factor in blocks])]

    @staticmethod
    def backward(grad, blocks):
        size = blocks.shape[-1]
        places = [slice(i * size, (i + 1) * size) for i in range(blocks.shape[1])]
        return [torch.stack([grad[:, place, place] for place in places], 1)]


def allow_butterfly_factors(monkeypatch):
    monkeypatch.setattr(boft_layer, "get_fbd_cuda", lambda: _BlockDiagonal)


def config(method, **options):
    options = {"target_modules": ["first", "second"], "init_weights": False, **options}
    if method == "oft":
        if "r" not in options:
            options = {"oft_block_size": 4, **options}
        return peft.OFTConfig(**options)
    if method == "boft":
        return peft.BOFTConfig(**{"boft_block_size": 4, **options})
    return peft.HRAConfig(**{"r": 4, **options})


def is_adapter(name: str) -> bool:
    return any(part in name for part in ("oft_R", "boft_", "hra_u"))


def orthogonal_layers(dtype=torch.float32, adapter_dtype=None, method="oft", **options):
    """TwoLayers adapted, with random weights: rotations by angles of about a half."""
    torch.manual_seed(0)
    model = peft.get_peft_model(TwoLayers(dtype), config(method, **options), autocast_adapter_dtype=False)
    return with_adapters_of(model, adapter_dtype or dtype)


def with_adapters_of(model, dtype):
    for name, parameter in model.named_parameters():
        if is_adapter(name):
            parameter.data = parameter.data.to(dtype)
    return model


def orthogonal_llama(method="oft", **options):
    adapter = config(method, **{"target_modules": ALL_LINEAR, "task_type": "CAUSAL_LM", **options})
    return peft.get_peft_model(tiny_llama(), adapter)


@contextlib.contextmanager
def forwards_of_peft():
    """The layers whose PEFT forward runs inside the block: none of a model that is fused throughout."""
    ran = []
    with pytest.MonkeyPatch.context() as patch:
        for cls in STOCK_LAYERS:

            def forward(self, x, *args, stock=cls.forward, **kwargs):
                ran.append(self)
                return stock(self, x, *args, **kwargs)

            patch.setattr(cls, "forward", forward)
        yield ran


def both(stock, fused, x):
    """Outputs and gradients of the two; no layer of the second may have been PEFT's to compute."""
    torch.manual_seed(1)
    expected = outputs(stock, x)
    torch.manual_seed(1)
    with forwards_of_peft() as ran:
        actual = outputs(fused, x)
    assert not ran and actual.keys() == expected.keys()
    return expected, actual


def assert_equal(stock, fused, x):
    expected, actual = both(stock, fused, x)
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, msg=lambda text, name=name: f"{name}: {text}")
