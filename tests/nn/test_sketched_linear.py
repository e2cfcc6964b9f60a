"""SketchedLinear: an unbiased gradient of the weight with the variance it says, all else exact, and what it keeps."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from lrkernels.nn import SketchedLinear, replace_linear


def gradients(layer, x, cotangent):
    inputs = [x, layer.weight, *([] if layer.bias is None else [layer.bias])]
    return torch.autograd.grad(layer(x), inputs, cotangent)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", ["rademacher", "sparse_sign", "gaussian", "hadamard"])
def test_the_weights_gradient_is_unbiased_and_all_else_exact(kind, bias):
    layer = SketchedLinear(5, 4, bias, dtype=torch.float64, share=0.5, kind=kind)
    x, cotangent = torch.randn(2, 16, 5, dtype=torch.float64, requires_grad=True), torch.randn(2, 16, 4).double()
    y = F.linear(x, layer.weight, layer.bias)
    torch.testing.assert_close(layer(x), y)
    exact = torch.autograd.grad(y, [x, layer.weight, *([layer.bias] if bias else [])], cotangent)
    draws = []
    for _ in range(2000):
        dx, dweight, *dbias = gradients(layer, x, cotangent)
        draws.append(dweight)
    torch.testing.assert_close([dx, *dbias], [exact[0], *exact[2:]])
    draws = torch.stack(draws)
    deviation = draws.std(0) / 2000**0.5
    assert ((draws.mean(0) - exact[1]).abs() < 5 * deviation).all() and (deviation > 0).all()
    variance = (draws - exact[1]).square().sum((1, 2)).mean()
    gaussian = (x.square().sum() * cotangent.square().sum() + exact[1].square().sum()) / 16
    if kind == "gaussian":
        torch.testing.assert_close(variance, gaussian.detach(), rtol=0.1, atol=0)
    else:
        assert variance < 1.1 * gaussian


def test_a_whole_hadamard_sketch_is_exact():
    layer = SketchedLinear(5, 4, dtype=torch.float64, share=1.0, kind="hadamard")
    x, cotangent = torch.randn(32, 5, dtype=torch.float64, requires_grad=True), torch.randn(32, 4).double()
    exact = torch.autograd.grad(F.linear(x, layer.weight, layer.bias), [x, layer.weight, layer.bias], cotangent)
    torch.testing.assert_close(gradients(layer, x, cotangent), exact)


def test_it_keeps_the_sketch_and_not_the_input():
    layer, x = SketchedLinear(6, 4, share=0.125), torch.randn(64, 6)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(tuple(t.shape)) or t, lambda t: t):
        y = layer(x)
    assert sorted(saved) == [(4, 6), (8, 6)]
    y.sum().backward()
    assert layer.weight.grad.shape == (4, 6)


def test_seeds_and_checkpointing_repeat_it():
    layer, x, cotangent = SketchedLinear(6, 4), torch.randn(32, 6, requires_grad=True), torch.randn(32, 4)
    found = []
    for call in (layer, layer, lambda x: checkpoint(layer, x, use_reentrant=False)):
        torch.manual_seed(3)
        found.append(torch.autograd.grad(call(x), layer.weight, cotangent)[0])
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
    assert not torch.equal(found[0], torch.autograd.grad(layer(x), layer.weight, cotangent)[0])


def test_dtypes_autocast_and_nothing_to_keep():
    layer, x = SketchedLinear(6, 4), torch.randn(32, 6)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    y.float().square().sum().backward()
    assert y.dtype == torch.bfloat16 and layer.weight.grad.dtype == torch.float32 and layer.bias.grad.any()
    half = SketchedLinear(6, 4, dtype=torch.bfloat16)
    half(x.bfloat16()).sum().backward()
    assert half.weight.grad.dtype == torch.bfloat16
    assert layer(torch.zeros(0, 6)).shape == (0, 4) and layer(torch.zeros(6)).shape == (4,)
    with torch.no_grad():
        assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))


def test_it_takes_the_place_of_layers_and_trains():
    model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1, bias=False))
    weights = [model[0].weight, model[2].weight]
    replace_linear(model, partial(SketchedLinear.from_linear, share=0.5), target_modules="all-linear")
    assert model[0].weight is weights[0] and model[2].weight is weights[1] and type(model[2]) is SketchedLinear
    x = torch.randn(256, 8)
    target = torch.tanh(x @ torch.randn(8, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(150):
        optimizer.zero_grad()
        loss = (model(x) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
    for arguments, message in (({"share": 0.0}, "share is 0.0"), ({"kind": "dct"}, "kind is 'dct'")):
        with pytest.raises(ValueError, match=f"SketchedLinear: {message}"):
            SketchedLinear(3, 3, **arguments)
    assert repr(model[0]).endswith("share=0.5, kind='rademacher')")
