"""The adapters that PEFT has too: equal outputs and gradients from equal parameters, and equal starting points."""

import pytest
import torch
from adapter_cases import CASES
from torch import nn

from lrkernels.adapters import AdaLoRA, DoRA, LoRA, PiSSA, RankAllocator, VeRA

peft = pytest.importorskip("peft")


class Model(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)


def peft_layer(config, linear):
    """PEFT's layer over a copy of the linear layer, in its dtype."""
    model = Model(nn.Linear(linear.in_features, linear.out_features, dtype=linear.weight.dtype))
    model.layer.load_state_dict(linear.state_dict())
    wrapped = peft.get_peft_model(model, config, autocast_adapter_dtype=False)
    return wrapped.base_model.model.layer.eval()


def common(**options):
    return {"target_modules": ["layer"], **options}


def lora_parameters(layer):
    found = {"down": layer.lora_A["default"].weight, "up": layer.lora_B["default"].weight}
    if layer.lora_magnitude_vector:
        found["magnitude"] = layer.lora_magnitude_vector["default"].weight
    return found


def vera_parameters(layer):
    return {
        "shared.down": layer.vera_A["default"],
        "shared.up": layer.vera_B["default"],
        "gate": layer.vera_lambda_d["default"],
        "row_scale": layer.vera_lambda_b["default"],
    }


def adalora_parameters(layer):
    e = layer.lora_E["default"]
    return {"down": layer.lora_A["default"], "up": layer.lora_B["default"], "gate": e}


# PEFT's config, the names of its parameters, and our options that mean the same.
PARITY = {
    "LoRA": (lambda: peft.LoraConfig(r=4, lora_alpha=6, use_rslora=True, **common()), lora_parameters, {}),
    "DoRA": (lambda: peft.LoraConfig(r=4, lora_alpha=6, use_dora=True, **common()), lora_parameters, {}),
    "VeRA": (lambda: peft.VeraConfig(r=5, **common()), vera_parameters, {}),
    # PEFT divides by r + 10⁻⁵.
    "AdaLoRA": (
        lambda: peft.AdaLoraConfig(init_r=4, target_r=2, lora_alpha=6, total_step=10, **common()),
        adalora_parameters,
        {"alpha": 6.0 * 4 / (4 + 1e-5)},
    ),
}


@pytest.mark.parametrize("name", PARITY)
def test_output_gradients_and_merged_weight(name):
    config, parameters_of, options = PARITY[name]
    ours = CASES[name].layer(**options)
    theirs = peft_layer(config(), ours.base_layer)
    mine, peers = dict(ours.adapter.named_parameters()), parameters_of(theirs)
    assert set(mine) == set(peers)
    with torch.no_grad():
        for key, peer in peers.items():
            peer.copy_(mine[key].reshape(peer.shape))
    x = torch.randn(7, 12, dtype=torch.float64)
    cotangent = torch.randn(7, 10, dtype=torch.float64)
    y, expected = ours(x), theirs(x)
    torch.testing.assert_close(y, expected)
    trained = [key for key, p in mine.items() if p.requires_grad]
    gradients = torch.autograd.grad(y, [mine[key] for key in trained], cotangent)
    peer_gradients = torch.autograd.grad(expected, [peers[key] for key in trained], cotangent)
    for gradient, peer in zip(gradients, peer_gradients, strict=True):
        torch.testing.assert_close(gradient, peer.reshape(gradient.shape), rtol=1e-6, atol=1e-6)
    ours.merge(), theirs.merge()
    torch.testing.assert_close(ours.merged_weight, theirs.get_base_layer().weight.detach(), rtol=1e-6, atol=1e-6)


def test_pissa_starts_and_acts_as_pefts():
    linear, x = nn.Linear(12, 10), torch.randn(7, 12)
    theirs = peft_layer(peft.LoraConfig(r=4, lora_alpha=6, init_lora_weights="pissa", **common()), linear)
    ours = PiSSA.wrap(linear, r=4, alpha=6.0)
    peers = lora_parameters(theirs)
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours.adapter.up @ ours.adapter.down, peers["up"] @ peers["down"])
    with torch.no_grad():
        for key, peer in peers.items():
            getattr(ours.adapter, key).copy_(peer.normal_())
    torch.testing.assert_close(ours(x), theirs(x))
    cotangent = torch.randn(7, 10)
    ours(x).backward(cotangent), theirs(x).backward(cotangent)
    for key, peer in peers.items():
        torch.testing.assert_close(getattr(ours.adapter, key).grad, peer.grad)


def test_a_pissa_by_rsvd_starts_as_pefts_exact_one():
    linear = nn.Linear(200, 300)
    u, _, vh = torch.linalg.svd(linear.weight.detach(), full_matrices=False)
    linear.weight.data = u * 0.8 ** torch.arange(200.0) @ vh
    theirs = lora_parameters(peft_layer(peft.LoraConfig(r=8, init_lora_weights="pissa", **common()), linear))
    ours = PiSSA.wrap(linear, r=8).adapter
    torch.testing.assert_close(ours.up @ ours.down, theirs["up"] @ theirs["down"], atol=1e-4, rtol=0)
    signs = (ours.up * theirs["up"]).sum(0).sign()
    torch.testing.assert_close(ours.up * signs, theirs["up"], atol=1e-3, rtol=0)
    torch.testing.assert_close(ours.down * signs[:, None], theirs["down"], atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("adapter_class", "options", "config", "parameters_of"),
    [
        (LoRA, {"r": 4}, lambda: peft.LoraConfig(r=4, **common()), lora_parameters),
        (DoRA, {"r": 4}, lambda: peft.LoraConfig(r=4, use_dora=True, **common()), lora_parameters),
        (VeRA, {"r": 4}, lambda: peft.VeraConfig(r=4, **common()), vera_parameters),
        (AdaLoRA, {"r": 4}, lambda: peft.AdaLoraConfig(init_r=4, total_step=10, **common()), adalora_parameters),
    ],
)
def test_parameters_start_from_the_same_distribution(adapter_class, options, config, parameters_of):
    linear = nn.Linear(256, 192)
    ours, theirs = adapter_class.wrap(linear, **options).adapter, parameters_of(peft_layer(config(), linear))
    for key, peer in theirs.items():
        mine = dict(ours.named_parameters())[key].detach()
        peer = peer.detach().reshape(mine.shape)
        if key == "magnitude" or float(peer.std(correction=0)) == 0.0:
            torch.testing.assert_close(mine, peer)
        else:
            assert float(mine.std()) == pytest.approx(float(peer.std()), rel=0.1)
            assert float(mine.abs().max()) == pytest.approx(float(peer.abs().max()), rel=0.5)


def test_the_allocator_prunes_what_pefts_does():
    torch.manual_seed(0)
    r, total, warmup, final, interval = 4, 12, 2, 4, 2
    linears = [nn.Linear(12, 10, dtype=torch.float64), nn.Linear(12, 10, dtype=torch.float64)]
    config = peft.AdaLoraConfig(
        init_r=r, target_r=2, tinit=warmup, tfinal=final, deltaT=interval, total_step=total, target_modules=["0", "1"]
    )
    theirs = peft.get_peft_model(nn.Sequential(*[nn.Linear(12, 10, dtype=torch.float64) for _ in linears]), config)
    ours = nn.ModuleList([AdaLoRA.wrap(linear, r=r) for linear in linears])
    pairs = []
    for name, layer in zip("01", ours, strict=True):
        peers = adalora_parameters(theirs.base_model.model.get_submodule(name))
        for key, mine in layer.adapter.named_parameters():
            nn.init.normal_(mine)
            peers[key].data.copy_(mine.detach().reshape(peers[key].shape))
            pairs.append((mine, peers[key]))
    allocator = RankAllocator(ours, target=2 * len(linears), steps=total, warmup=warmup, final=final, interval=interval)
    reference = theirs.base_model.rankallocator
    for step in range(1, total + 1):
        for mine, peer in pairs:
            mine.grad = torch.randn_like(mine)
            peer.grad = mine.grad.reshape(peer.shape).clone()
            with torch.no_grad():  # what an optimizer would do
                mine.sub_(0.1 * mine.grad), peer.sub_(0.1 * peer.grad)
        allocator.step()
        budget, _ = reference.update_and_allocate(theirs.base_model.model, step)
        assert allocator.budget(step) == budget
        for mine, peer in pairs:
            torch.testing.assert_close(mine, peer.reshape(mine.shape))
    assert sum(int((layer.adapter.gate != 0).sum()) for layer in ours) == 2 * len(linears)
