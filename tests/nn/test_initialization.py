"""ZerO and LSUV."""

import numpy as np
import pytest
import torch
from torch import nn

from lrkernels.nn import lsuv_, orthogonal, zero_one_
from lrkernels.nn.initialization import hadamard


@pytest.mark.parametrize("order", [1, 2, 8, 64])
def test_hadamard_is_orthogonal_times_its_root(order):
    h = hadamard(order)
    assert (h.abs() == 1).all()
    assert torch.equal(h @ h.T, order * torch.eye(order))


def test_hadamard_of_four():
    assert hadamard(4).tolist() == [[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]
    with pytest.raises(ValueError, match="hadamard: order is 6, expected a power of two"):
        hadamard(6)


@pytest.mark.parametrize(("out", "width"), [(6, 6), (4, 7)])
def test_zero_is_a_partial_identity_where_nothing_widens(out, width):
    weight = zero_one_(torch.full((out, width), 7.0))
    assert torch.equal(weight, torch.eye(out, width))


@pytest.mark.parametrize(("out", "width"), [(8, 3), (6, 5), (16, 16 - 1)])
def test_zero_is_part_of_a_hadamard_matrix_where_a_layer_widens(out, width):
    weight = zero_one_(torch.empty(out, width, dtype=torch.float64))
    order = 8 if out <= 8 else 16
    signs = np.array([[(-1) ** bin(i & j).count("1") for j in range(width)] for i in range(out)])
    np.testing.assert_allclose(weight.numpy(), signs / np.sqrt(order))
    if out == order:
        torch.testing.assert_close(weight.T @ weight, torch.eye(width, dtype=torch.float64))
    assert torch.equal(zero_one_(torch.empty(out, width, dtype=torch.float64)), weight), "nothing is random"


def test_zero_of_a_kernel_is_at_its_centre():
    kernel = zero_one_(torch.full((6, 3, 3, 5), 7.0))
    assert torch.equal(kernel[:, :, 1, 2], zero_one_(torch.empty(6, 3)))
    assert int((kernel != 0).sum()) == 18
    with pytest.raises(ValueError, match=r"zero_one_: weight has shape \(6, 3, 2\), expected \(out, in, …\) with odd"):
        zero_one_(torch.empty(6, 3, 2))


def deep():
    layers = []
    for k in range(6):
        layers += [nn.Linear(24 if k else 12, 24), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(24, 3))


def variances(model, x):
    found = []
    for layer in model:
        x = layer(x)
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            found.append(x.double().var().item())
    return found


def test_lsuv_gives_every_layer_unit_variance():
    model, x = deep(), torch.randn(256, 12)
    assert min(variances(model, x)) < 0.5
    assert lsuv_(model, x, tolerance=1e-6, iterations=20) is model
    assert variances(model, x) == pytest.approx([1.0] * 7, abs=2e-6)
    for layer in model[::2]:
        gram = (
            layer.weight @ layer.weight.T if layer.out_features <= layer.in_features else layer.weight.T @ layer.weight
        )
        scale = gram.diagonal().mean()
        torch.testing.assert_close(gram / scale, torch.eye(len(gram)), rtol=0, atol=1e-5)
        assert not layer.bias.any()


def test_lsuv_scales_in_the_order_of_calls_and_keeps_modes():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.drop, self.unused = nn.Linear(24, 5), nn.Dropout(0.5), nn.Linear(3, 3)
            self.first = nn.Conv2d(2, 6, 3)

        def forward(self, x):
            self.hidden = self.first(x)
            self.output = self.last(self.drop(self.hidden.relu().flatten(1)))
            return self.output

    model, x = Backwards(), torch.randn(64, 2, 4, 4)
    model.drop.eval()
    unused = model.unused.weight.detach().clone()
    lsuv_(model, x, tolerance=1e-4)
    model(x)
    assert model.hidden.var().item() == pytest.approx(1.0, abs=1e-3)
    assert model.output.var().item() == pytest.approx(1.0, abs=1e-3)
    assert model.training and model.first.training and not model.drop.training
    assert torch.equal(model.unused.weight, unused)
    assert not model.first._forward_hooks


def test_lsuv_leaves_computed_weights_alone():
    model, x = nn.Sequential(orthogonal(nn.Linear(12, 12)), nn.Linear(12, 5)), torch.randn(64, 12)
    weight = model[0].weight.detach().clone()
    lsuv_(model, x, tolerance=1e-4)
    assert torch.equal(model[0].weight, weight) and model(x).var().item() == pytest.approx(1.0, abs=1e-3)


def test_lsuv_refuses():
    with pytest.raises(ValueError, match="lsuv_: the model calls no linear or convolution layer"):
        lsuv_(nn.Tanh(), torch.randn(4, 3))
    with pytest.raises(ValueError, match=r"lsuv_: Linear puts out values of variance 0.0 on this batch"):
        lsuv_(nn.Linear(3, 3), torch.zeros(4, 3))
