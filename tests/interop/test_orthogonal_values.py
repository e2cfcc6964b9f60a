"""Fused OFT, BOFT and HRA layers against stock PEFT: outputs and gradients of every option in every dtype."""

import copy

import pytest
import torch
import torch.nn.functional as F
from peft_models import kernels_of, outputs, peft, stock_and_fused
from peft_orthogonal import (
    CASES,
    OPTIONS,
    allow_butterfly_factors,
    assert_equal,
    both,
    config,
    forwards_of_peft,
    orthogonal_layers,
    with_adapters_of,
)

METHODS = list(OPTIONS)


@pytest.fixture(autouse=True)
def butterfly(monkeypatch):
    allow_butterfly_factors(monkeypatch)


def error(actual, exact):
    return (actual.double() - exact).norm()


@pytest.mark.parametrize(("method", "name"), CASES)
@pytest.mark.parametrize("shape", [(6, 24), (2, 3, 24), (24,), (0, 24)], ids=str)
def test_equal_to_peft(method, name, shape):
    stock, fused = stock_and_fused(orthogonal_layers(method=method, **OPTIONS[method][name]))
    x = torch.randn(shape)
    assert_equal(stock.eval(), fused.eval(), x)
    assert_equal(stock.train(), fused.train(), x)
    assert all(torch.equal(a, b) for a, b in zip(stock.parameters(), fused.parameters(), strict=True)) or "COFT" in name
    base = stock.unload()
    if x.numel() and name != "one term":
        assert not torch.allclose(base(x), fused(x), rtol=0.1)


def half_in_its_own_dtype(stock):
    """HRA as plain torch in half precision; PEFT computes the base layer too in the dtype of the adapters."""
    model = copy.deepcopy(stock)
    for layer in model.modules():
        if isinstance(layer, peft.tuners.hra.HRALinear):

            def forward(x, layer=layer):
                turned = (x.float() @ layer.get_delta_weight("default").float().mT).to(x.dtype)
                return F.linear(turned, layer.base_layer.weight, layer.base_layer.bias)

            layer.forward = forward
    return model


@pytest.mark.parametrize(("method", "name"), CASES)
@pytest.mark.parametrize("adapter_dtype", [torch.bfloat16, torch.float32])
def test_half_precision_is_as_accurate_as_peft(method, name, adapter_dtype):
    """Against the same numbers in float64: at most twice the error of PEFT, or of plain torch in half precision."""
    stock, fused = stock_and_fused(
        orthogonal_layers(torch.bfloat16, adapter_dtype, method=method, **OPTIONS[method][name])
    )  # fmt: skip
    x = torch.randn(64, 24).bfloat16()
    torch.manual_seed(1)
    exact = outputs(copy.deepcopy(stock).double(), x.double())
    plain = half_in_its_own_dtype(stock) if method == "hra" else None
    expected, actual = both(stock, fused, x)
    plain = outputs(plain, x) if plain else expected
    for key, value in exact.items():
        assert actual[key].dtype == expected[key].dtype
        allowed = 2 * max(error(each[key], value) for each in (plain, expected))
        assert error(actual[key], value) <= allowed + 1e-5 * value.norm(), key


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("adapter_dtype", [torch.bfloat16, torch.float64])
def test_float32_with_adapters_of_another_dtype(method, adapter_dtype):
    stock, fused = stock_and_fused(orthogonal_layers(torch.float32, adapter_dtype, method=method))
    x = torch.randn(64, 24)
    exact = outputs(copy.deepcopy(stock).double(), x.double())
    expected = outputs(stock, x)
    with forwards_of_peft() as ran:
        actual = outputs(fused, x)
    assert bool(ran) == (adapter_dtype == torch.float64)
    for key, value in exact.items():
        assert actual[key].dtype == expected[key].dtype
        assert error(actual[key], value) <= 2 * error(expected[key], value) + 1e-6 * value.norm(), key


@pytest.mark.parametrize("method", METHODS)
def test_float32_activations_over_a_half_precision_base(method):
    """PEFT's HRA casts the weight; with the others the base layer itself refuses."""
    stock, fused = stock_and_fused(orthogonal_layers(torch.bfloat16, torch.float32, method=method))
    x = torch.randn(6, 24)
    if method == "hra":
        assert_equal(stock, fused, x)
        return
    for model in (stock, fused):
        with pytest.raises(RuntimeError, match="dtype"):
            model(x)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("x_dtype", [torch.float32, torch.bfloat16])
def test_autocast(method, x_dtype):
    stock, fused = stock_and_fused(orthogonal_layers(method=method))
    x = torch.randn(64, 24).to(x_dtype)
    exact = outputs(copy.deepcopy(stock).double(), x.double())
    plain = half_in_its_own_dtype(stock) if method == "hra" else stock
    with torch.autocast("cpu", torch.bfloat16):
        expected, actual = both(stock, fused, x)
        plain = outputs(plain, x)
    for key, value in exact.items():
        assert actual[key].dtype == expected[key].dtype
        allowed = 2 * max(error(each[key], value) for each in (plain, expected))
        assert error(actual[key], value) <= allowed + 1e-5 * value.norm(), key


@pytest.mark.parametrize("method", METHODS)
def test_input_casting_disabled(method):
    stock, fused = stock_and_fused(orthogonal_layers(method=method))
    x = torch.randn(6, 24)
    with peft.helpers.disable_input_dtype_casting(fused), forwards_of_peft() as ran:
        y = fused(x)
    assert len(ran) == 2 and torch.equal(y, stock(x))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_several_adapters(method, dtype):
    """Which of them comes first differs between PEFT's methods."""
    model = orthogonal_layers(dtype, method=method, target_modules=["first", "second"])
    other = {"oft": {"oft_block_size": 8, "use_cayley_neumann": False}, "boft": {}, "hra": {"r": 3}}[method]
    model.add_adapter("other", config(method, **other, target_modules=["first"]))
    bare = {"oft": {"block_share": True}, "boft": {}, "hra": {"apply_GS": True}}[method]
    model.add_adapter("bare", config(method, **bare))
    stock, fused = stock_and_fused(with_adapters_of(model, dtype))
    x = torch.randn(32, 24).to(dtype)
    results = {}
    for active in (["default"], ["other"], ["default", "other"], ["bare", "other", "default"], ["other", "default"]):
        for each in (stock, fused):
            each.base_model.set_adapter(active)
        exact = outputs(copy.deepcopy(stock).double(), x.double())
        if active == ["other"]:  # second has none that is active, so PEFT calls its base layer
            with forwards_of_peft() as ran:
                actual = outputs(fused, x)
            assert ran == [fused.base_model.model.second]
            expected = outputs(stock, x)
        else:
            expected, actual = both(stock, fused, x)
        for key, value in exact.items():
            allowed = 2 * error(expected[key], value) + (1e-5 if dtype == torch.float32 else 5e-3) * value.norm()
            assert error(actual[key], value) <= allowed, (active, key)
        results[tuple(active)] = actual["y"]
    assert not torch.allclose(results["default", "other"], results["other", "default"], rtol=0.1)


@pytest.mark.parametrize("method", METHODS)
def test_disabled_and_merged_adapters_are_the_base_layer(method):
    stock, fused = stock_and_fused(orthogonal_layers(method=method))
    x = torch.randn(6, 24)
    with stock.disable_adapter(), fused.disable_adapter(), forwards_of_peft() as ran:
        assert torch.equal(fused(x), stock(x)) and len(ran) == 4
    unmerged = fused(x)
    for model in (stock, fused):
        model.merge_adapter()
    assert torch.equal(fused(x), stock(x))
    torch.testing.assert_close(fused(x), unmerged)
    for model in (stock, fused):
        model.unmerge_adapter()
    assert_equal(stock, fused, x)


@pytest.mark.parametrize("method", METHODS)
def test_four_dimensions_and_wrong_sizes(method):
    """PEFT's OFT takes four dimensions for an image and fails; here they are leading dimensions as any others."""
    stock, fused = stock_and_fused(orthogonal_layers(method=method))
    x = torch.randn(2, 3, 4, 24)
    torch.testing.assert_close(fused(x), stock(x.flatten(0, 1)).view(2, 3, 4, 17))
    for model in (stock, fused):
        with pytest.raises(RuntimeError):
            model(torch.randn(3, 23))


def test_coft_projects_the_weight_once_more_before_the_first_backward():
    """Two forwards, then both backwards: the weight, written in place in between, is not what the first one saved."""
    stock, fused = stock_and_fused(orthogonal_layers(coft=True, eps=0.5))
    batches = [torch.randn(6, 24), torch.randn(5, 24)]
    for model in (stock, fused):
        sum(model(x).square().sum() for x in batches).backward()
    for (name, theirs), ours in zip(stock.named_parameters(), fused.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, msg=lambda text, name=name: f"{name}: {text}")
        assert (theirs.grad is None) == (ours.grad is None)
        if theirs.grad is not None:
            torch.testing.assert_close(ours.grad, theirs.grad)
    blocks = fused.base_model.model.first.oft_R["default"].weight
    assert torch.linalg.vector_norm(blocks, dim=1).max() <= 0.5 / 6**0.5 / 2**0.5 * (1 + 1e-6)


def test_gram_schmidt_of_peft_s_default_initialisation():
    """Pairs of equal vectors: Gram-Schmidt divides rounding errors by their norm, in PEFT and here."""
    _, fused = stock_and_fused(orthogonal_layers(method="hra", apply_GS=True, init_weights=True))
    x = torch.eye(24)
    first = fused.base_model.model.first
    y = first(x) - first.base_layer.bias
    rotation = torch.linalg.lstsq(first.base_layer.weight, y.mT).solution  # weight has full column rank
    torch.testing.assert_close(rotation.mT @ rotation, x, atol=1e-4, rtol=0)


def test_a_base_weight_that_trains_gets_no_gradient_under_hra():
    stock, fused = stock_and_fused(orthogonal_layers(method="hra"))
    for model in (stock, fused):
        model.requires_grad_(True)
    assert_equal(stock, fused, torch.randn(6, 24))
    assert fused.base_model.model.first.base_layer.weight.grad is None


KERNELS = {
    "oft": ["cayley_neumann", "block_diagonal", "block_diagonal_backward", "cayley_neumann_backward"],
    "boft": ["cayley", "block_diagonal", "block_diagonal_backward", "cayley_backward"],
    "hra": ["householder", "lowrank_project", "lowrank_expand", "lowrank_factor_grad"],
}


@pytest.mark.parametrize("method", METHODS)
def test_on_every_backend(device, method):
    """The CPU's kernels, and the CUDA kernels, emulated or on a GPU, in the place of PEFT's layers."""
    options = {"boft": {"boft_n_butterfly_factor": 2}}.get(method, {})
    model = orthogonal_layers(method=method, **options).to(device.device)
    stock, fused = stock_and_fused(model)
    x = torch.randn(6, 24, device=device.device)
    _, kernels = kernels_of(lambda: outputs(fused, x))
    assert [name for name in KERNELS[method] if not any(kernel.startswith(name) for kernel in kernels)] == []
    assert_equal(stock, fused, x)
