"""Adapters that rotate: every variant passes check_adapter, acts as its module, and as PEFT's where PEFT has it."""

import dense_rotations as dense
import pytest
import torch
from torch import nn

from lrkernels.adapters import BOFT, GOFT, HRA, OFT, PSOFT, AdaptedLinear, Givens, LoRA
from lrkernels.nn import BOFTLinear, GivensLinear, GOFTLinear, HouseholderLinear, OFTLinear, PSOFTLinear
from lrkernels.nn.rotations.boft import interleave_halves, separate_halves
from lrkernels.testing import check_adapter
from lrkernels.testing.adapter_checks import CHECKS

VARIANTS = [
    (Givens, {"strides": (5, 1, 3)}),
    (OFT, {"block_size": 3, "block_share": True}),
    (OFT, {"block_size": 4, "method": "neumann"}),
    (OFT, {"block_size": 4, "coft_eps": 100.0}),
    (BOFT, {"block_size": 2, "factors": 2}),
    (GOFT, {"quasi": True}),
    (PSOFT, {"r": 4, "method": "neumann", "terms": 7}),
]


@pytest.mark.parametrize(("adapter_class", "options"), VARIANTS)
def test_variants_pass_check_adapter(adapter_class, options):
    checks = [check for check in CHECKS if check != "compile"]  # slow; tests/nn/test_rotated_linear.py does it
    assert list(check_adapter(adapter_class, only=checks, **options)) == checks


def test_the_gradient_of_coft_goes_straight_through_its_bound():
    """Where the bound is at work no finite difference agrees, and all else that an adapter must do holds."""
    checks = [check for check in CHECKS if check not in ("compile", "gradients")]
    options = {"block_size": 4, "coft_eps": 0.5}
    assert list(check_adapter(OFT, only=checks, **options)) == checks
    with pytest.raises(AssertionError, match="the gradient of .*skew"):
        check_adapter(OFT, only="gradients", **options)
    layer = OFT.wrap(nn.Linear(12, 10, dtype=torch.float64), **options)
    within = OFT.wrap(layer.base_layer, block_size=4)
    x, gradients = torch.randn(5, 12, dtype=torch.float64), []
    with torch.no_grad():
        layer.adapter.rotation.skew.normal_()
        within.adapter.rotation.skew.copy_(layer.adapter.rotation.constrained_skew())
    for one in (layer, within):
        one(x).square().sum().backward()
        gradients.append(one.adapter.rotation.skew.grad)
    torch.testing.assert_close(*gradients)


PAIRS = [
    (Givens, GivensLinear, {}),
    (OFT, OFTLinear, {"block_size": 4}),
    (BOFT, BOFTLinear, {"block_size": 2, "factors": 2}),
    (HRA, HouseholderLinear, {"r": 4}),
    (GOFT, GOFTLinear, {"quasi": True}),
    (PSOFT, PSOFTLinear, {"r": 4}),
]


@pytest.mark.parametrize(("adapter_class", "layer_class", "options"), PAIRS)
def test_an_adapter_is_its_module(adapter_class, layer_class, options):
    linear, x = nn.Linear(12, 10), torch.randn(5, 12)
    adapted = adapter_class.wrap(linear, **options)
    module = layer_class(linear, **options)
    with torch.no_grad():
        for name, parameter in adapted.adapter.named_parameters():
            if parameter.requires_grad:
                module.get_parameter(name).copy_(parameter.normal_(std=0.3))
    assert torch.equal(adapted(x), module(x)) and torch.equal(adapted.weight, module.weight)
    assert torch.equal(adapted.to_linear().weight, module.to_linear().weight)
    assert torch.equal(adapted.adapter.orthogonality_error(), module.orthogonality_error())
    if adapter_class is not PSOFT:
        torch.testing.assert_close(adapted.adapter.inverse(adapted.adapter.rotate(x)), x, rtol=1e-4, atol=1e-5)


def test_a_rotation_beside_an_additive_adapter():
    layer, x = AdaptedLinear(nn.Linear(12, 10)), torch.randn(5, 12)
    base = layer(x)
    layer.add_adapter("turn", OFT, block_size=4)
    layer.add_adapter("add", LoRA, r=2)
    for parameter in layer.adapters.parameters():
        nn.init.normal_(parameter)
    turned = layer(x)
    torch.testing.assert_close(turned, layer.base_layer(layer.adapter.rotate(x)))
    layer.set_adapter("add")
    torch.testing.assert_close(layer(x), base + x @ layer.adapter.delta().T)
    layer.disable()
    assert torch.equal(layer(x), base)


def test_psoft_keeps_the_angles_of_the_principal_part_and_leaves_the_rest():
    linear = nn.Linear(12, 10, dtype=torch.float64)
    layer = PSOFTLinear(linear, r=4)
    u, s, vh = torch.linalg.svd(linear.weight.detach())
    residual = linear.weight - u[:, :4] * s[:4] @ vh[:4]
    torch.testing.assert_close(layer.up @ layer.down, linear.weight - residual)
    nn.init.normal_(layer.skew)
    principal = layer.weight - residual
    assert not torch.allclose(principal, layer.up @ layer.down)
    torch.testing.assert_close(principal @ principal.T, layer.up @ layer.up.T)
    assert layer.orthogonality_error() < 1e-14
    torch.testing.assert_close(layer.rotation(), dense.cayley(layer.skew, 4))
    nn.init.normal_(layer.out_scale), nn.init.normal_(layer.in_scale)
    core = torch.diag(layer.out_scale) @ dense.cayley(layer.skew, 4) @ torch.diag(layer.in_scale)
    expected, x = residual + layer.up @ core @ layer.down, torch.randn(5, 12, dtype=torch.float64)
    torch.testing.assert_close(layer(x), x @ expected.T + layer.bias)
    layer.merge()
    torch.testing.assert_close(layer.weight, expected.detach())
    layer.unmerge()
    layer.merge(keep=False)
    torch.testing.assert_close(layer(x), x @ expected.T + layer.bias)
    assert not layer.skew.any() and (layer.out_scale == 1).all()


def test_psoft_refuses():
    for r, message in ((1, "r is 1, expected at least 2"), (11, "r is 11, expected at most 10")):
        with pytest.raises(ValueError, match=f"PSOFTLinear: {message}"):
            PSOFTLinear(nn.Linear(12, 10), r)
    packed = nn.Linear(12, 10)
    packed.weight = nn.Parameter(torch.zeros(60, 1, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(TypeError, match=r"PSOFTLinear: base_layer.weight is torch.uint8"):
        PSOFTLinear(packed, 4)


# --- PEFT's layers ---


class Model(nn.Module):
    def __init__(self, linear):
        super().__init__()
        self.layer = nn.Linear(linear.in_features, linear.out_features, dtype=linear.weight.dtype)
        self.layer.load_state_dict(linear.state_dict())

    def forward(self, x):
        return self.layer(x)


def peft_layer(config, linear):
    peft = pytest.importorskip("peft")
    config = getattr(peft, config[0])(target_modules=["layer"], **config[1])
    return peft.get_peft_model(Model(linear), config, autocast_adapter_dtype=False).base_model.model.layer.eval()


def upper(matrices):
    row, column = torch.triu_indices(*matrices.shape[-2:], 1)
    return matrices[..., row, column]


# Our layer, PEFT's configuration, PEFT's parameters, and those as ours.
PEFT = {
    "OFT, Neumann": (
        lambda linear: OFTLinear(linear, 4, method="neumann"),
        ("OFTConfig", {"r": 0, "oft_block_size": 4, "use_cayley_neumann": True}),
        lambda layer: [layer.oft_R["default"].weight],
        lambda skew: {"rotation.skew": skew},
    ),
    "OFT, shared": (
        lambda linear: OFTLinear(linear, 4, method="neumann", terms=7, block_share=True),
        ("OFTConfig", {"r": 0, "oft_block_size": 4, "block_share": True, "num_cayley_neumann_terms": 7}),
        lambda layer: [layer.oft_R["default"].weight],
        lambda skew: {"rotation.skew": skew},
    ),
    "OFT, exact": (  # whose exact map is the transpose of its series
        lambda linear: OFTLinear(linear, 4),
        ("OFTConfig", {"r": 0, "oft_block_size": 4, "use_cayley_neumann": False}),
        lambda layer: [layer.oft_R["default"].weight],
        lambda skew: {"rotation.skew": -skew},
    ),
    "BOFT": (  # without its CUDA extension PEFT has one factor
        lambda linear: BOFTLinear(linear, 4, 1),
        ("BOFTConfig", {"boft_block_size": 4, "boft_n_butterfly_factor": 1}),
        lambda layer: [layer.boft_R["default"], layer.boft_s["default"]],
        lambda r, s: {"rotation.skew": -upper((r - r.mT) / 2), "scale": s[:, 0]},
    ),
    "HRA": (
        lambda linear: HouseholderLinear(linear, 4),
        ("HRAConfig", {"r": 4}),
        lambda layer: [layer.hra_u["default"]],
        lambda u: {"rotation.vectors": u.T},
    ),
    "PSOFT": (
        lambda linear: PSOFTLinear(linear, 4),
        ("PsoftConfig", {"r": 4, "psoft_alpha": 4}),
        lambda layer: [getattr(layer.psoft_R["default"], name) for name in ("weight", "vector_b", "vector_a")],
        lambda skew, b, a: {"skew": skew, "out_scale": b, "in_scale": a},
    ),
}


@pytest.mark.parametrize("factor", range(4))
def test_a_butterflys_order_of_features_is_pefts(factor):
    boft = pytest.importorskip("peft.tuners.boft.layer").BOFTLayer
    places = boft.block_butterfly_perm(None, 64, 64 // 8 // 2**factor, 4, 3)
    x = torch.arange(64.0)
    assert torch.equal(interleave_halves(x, 4, factor)[places], x)
    assert torch.equal(separate_halves(interleave_halves(x, 4, factor), 4, factor), x)


@pytest.mark.parametrize("name", PEFT)
def test_output_and_gradients_are_pefts(name):
    make, config, parameters_of, translated = PEFT[name]
    linear, x = nn.Linear(12, 10), torch.randn(7, 12)
    ours, theirs = make(linear), peft_layer(config, linear)
    peers = parameters_of(theirs)
    torch.testing.assert_close(ours(x), theirs(x))
    with torch.no_grad():
        for peer in peers:
            peer.normal_(std=0.3)
        for key, value in translated(*peers).items():
            ours.get_parameter(key).copy_(value)
    y, expected, cotangent = ours(x), theirs(x), torch.randn(7, 10)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
    y.backward(cotangent)
    # The chain rule through the translation: ∂/∂peer of Σ ours·∂loss/∂ours.
    pulled = sum((value * ours.get_parameter(key).grad).sum() for key, value in translated(*peers).items())
    gradients = torch.autograd.grad(pulled, peers)
    for gradient, peer in zip(gradients, torch.autograd.grad(expected, peers, cotangent), strict=True):
        torch.testing.assert_close(gradient, peer, rtol=1e-3, atol=1e-4)
    with torch.no_grad():
        ours.merge(), theirs.merge()
    torch.testing.assert_close(ours.weight, theirs.get_base_layer().weight.detach(), rtol=1e-4, atol=1e-5)
