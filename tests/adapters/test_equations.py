"""Each adapter against its equation in plain torch and float64: output, gradients, merged weight, starting point."""

import dense_rotations as dense
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from adapter_cases import CASES, MULTIPLICATIVE
from torch import nn

from lrkernels.adapters import SORSA, DoRA, LoRAFA, LoRAXS, PiSSA, SingLoRA, VeRA, VeRAFactors


def leading_triplets(weight: torch.Tensor, rank: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    u, s, vh = np.linalg.svd(weight.detach().double().numpy(), full_matrices=False)
    return u[:, :rank], s[:rank], vh[:rank]


def dora_weight(p, weight):
    direction = weight + 1.5 * p["up"] @ p["down"]
    return p["magnitude"][:, None] * direction / direction.detach().norm(dim=1, keepdim=True)


def vera_weight(p, weight):
    return weight + torch.diag(p["row_scale"]) @ p["shared.up"] @ torch.diag(p["gate"]) @ p["shared.down"]


def pissa_weight(p, weight):
    u, s, vh = leading_triplets(weight, 4)
    residual = weight - torch.from_numpy(u * s @ vh)
    return residual + 1.5 * p["up"] @ p["down"]


def singlora_weight(p, weight):
    out_features, in_features = weight.shape
    return weight + 1.5 * 0.3 * p["factor"][:out_features] @ p["factor"][:in_features].T


def givens_weight(p, weight):
    features = weight.shape[1]
    strides = [s for s in (1, 2, 4, 8) if s < features]
    return weight @ dense.givens(p["rotation.angles"], strides, features).T


def goft_weight(p, weight):
    return weight @ dense.tree(torch.stack([dense.turn(angle) for angle in p["rotation.angles"]]))


def psoft_weight(p, weight):
    u, s, vh = leading_triplets(weight, 4)
    up, down = torch.from_numpy(u * s), torch.from_numpy(vh.copy())
    core = torch.diag(p["out_scale"]) @ dense.cayley(p["skew"], 4) @ torch.diag(p["in_scale"])
    return weight - up @ down + up @ core @ down


def sorsa_weight(p, weight):
    u, s, vh = leading_triplets(weight, 4)
    return weight - 1.5 * torch.from_numpy(u * s @ vh) + 1.5 * p["up"] @ torch.diag(p["gate"]) @ p["down"]


def tlora_weight(p, weight):
    start = p["up_start"] @ torch.diag(p["gate_start"]) @ p["down_start"]
    return weight + 1.5 * (p["up"] @ torch.diag(p["gate"]) @ p["down"] - start)


def svft_weight(p, weight):
    u, _, vh = leading_triplets(weight, 4)
    matrix = torch.zeros(4, 4, dtype=weight.dtype)
    for i in range(4):
        for j in range(max(0, i - 1), min(4, i + 2)):
            matrix[i, j] = p["bands"][1 + j - i, i]
    return weight + 1.5 * torch.from_numpy(u.copy()) @ matrix @ torch.from_numpy(vh.copy())


# The weight that acts, as a function of the adapter's parameters and the base weight; alpha / r = 6 / 4.
WEIGHTS = {
    "LoRA": lambda p, weight: weight + 6.0 / 2.0 * p["up"] @ p["down"],  # rslora: alpha / √r
    "LoRAFA": lambda p, weight: weight + 1.5 * p["up"] @ p["down"],
    "DoRA": dora_weight,
    "VeRA": vera_weight,
    "PiSSA": pissa_weight,
    "OffsetLoRA": lambda p, weight: weight + 1.5 * (p["up"] @ p["down"] - p["up_start"] @ p["down_start"]),
    "LaMDA": lambda p, weight: weight + 1.5 * p["up"] @ p["core"] @ p["down"],
    "TLoRA": tlora_weight,
    "NoRA": lambda p, weight: weight + 1.5 * p["up"] @ p["inner_up"] @ p["inner_down"] @ p["down"],
    "SVFT": svft_weight,
    "LoRAXS": lambda p, weight: weight + 1.5 * p["up"] @ p["core"] @ p["down"],
    "SingLoRA": singlora_weight,
    "AdaLoRA": lambda p, weight: weight + 1.5 * p["up"] @ torch.diag(p["gate"]) @ p["down"],
    "DyLoRA": lambda p, weight: weight + 1.5 * p["up"] @ p["down"],
    "Givens": givens_weight,
    "OFT": lambda p, weight: weight @ dense.block_diagonal(p["rotation.skew"], 2, weight.shape[1]).T,
    "BOFT": lambda p, weight: (
        torch.diag(p["scale"]) @ weight @ dense.butterfly(p["rotation.skew"], 2, weight.shape[1]).T
    ),
    "HRA": lambda p, weight: weight @ dense.householder(p["rotation.vectors"]),
    "GOFT": goft_weight,
    "PSOFT": psoft_weight,
    "SORSA": sorsa_weight,
}


def plain_output(name, parameters, layer, x):
    weight, bias = layer.base_layer.weight, layer.base_layer.bias
    if name == "CoLA":
        s = x @ parameters["down"].T
        return x @ weight.T + bias + (s * torch.sigmoid(s)) @ parameters["up"].T
    return x @ WEIGHTS[name](parameters, weight).T + bias


@pytest.mark.parametrize("shape", [(12, 10), (10, 12), (8, 8)])
@pytest.mark.parametrize("name", CASES)
def test_output_gradients_and_merged_weight(name, shape):
    layer = CASES[name].layer(*shape)
    x = torch.randn(7, shape[0], dtype=torch.float64, requires_grad=True)
    cotangent = torch.randn(7, shape[1], dtype=torch.float64)
    parameters = dict(layer.adapter.named_parameters())
    inputs = [x, *(p for p in parameters.values() if p.requires_grad)]
    y, expected = layer(x), plain_output(name, parameters, layer, x)
    torch.testing.assert_close(y, expected)
    gradients = torch.autograd.grad(y, inputs, cotangent)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, inputs, cotangent))
    if name in WEIGHTS:
        weight = WEIGHTS[name](parameters, layer.base_layer.weight)
        torch.testing.assert_close(layer.weight, weight)
        if name not in MULTIPLICATIVE:
            torch.testing.assert_close(layer.adapter.delta(), weight - layer.base_layer.weight)
        layer.merge()
        torch.testing.assert_close(layer.merged_weight, weight.detach())


def test_at_zero_the_gradient_lands_in_one_factor():
    layer = CASES["LoRA"].adapter_class.wrap(nn.Linear(12, 10), r=4)
    layer(torch.randn(5, 12)).square().sum().backward()
    assert not layer.adapter.down.grad.any() and layer.adapter.up.grad.any()


def test_lora_fa_keeps_the_projection_and_not_x():
    x = torch.randn(64, 12)
    saved = []
    layer = LoRAFA.wrap(nn.Linear(12, 10), r=4)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        y = layer(x)
    assert (64, 4) in [tuple(t.shape) for t in saved]
    assert not any(t.shape[0] == 64 and t.shape[-1] != 4 for t in saved)
    y.sum().backward()
    torch.testing.assert_close(layer.adapter.up.grad, torch.ones(10, 64) @ (x @ layer.adapter.down.T))


def test_dora_takes_the_norm_for_a_constant_unless_told_otherwise():
    x = torch.randn(7, 12, dtype=torch.float64)
    layer = CASES["DoRA"].layer(detach_norm=False)
    p, weight = layer.adapter, layer.base_layer.weight
    direction = weight + 1.5 * p.up @ p.down
    expected = x @ (p.magnitude[:, None] * F.normalize(direction, dim=1)).T + layer.bias
    inputs = (p.up, p.down, p.magnitude)
    whole = torch.autograd.grad(expected.square().sum(), inputs, retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(layer(x).square().sum(), inputs), whole)
    p.detach_norm = True
    assert not torch.allclose(torch.autograd.grad(layer(x).square().sum(), inputs)[0], whole[0])


def test_dora_starts_from_the_row_lengths_and_leaves_a_row_of_zeros_alone():
    linear = nn.Linear(12, 10)
    with torch.no_grad():
        linear.weight[3] = 0.0
    layer, x = DoRA.wrap(linear, r=4), torch.randn(5, 12)
    torch.testing.assert_close(layer.adapter.magnitude, linear.weight.norm(dim=1))
    torch.testing.assert_close(layer(x), F.linear(x, linear.weight, linear.bias))
    layer(x).square().sum().backward()
    assert all(p.grad.isfinite().all() for p in (layer.adapter.up, layer.adapter.magnitude))


def test_dora_rounds_its_merged_weight_once():
    layer = CASES["DoRA"].layer(dtype=torch.bfloat16)
    exact = dora_weight({n: p.double() for n, p in layer.adapter.named_parameters()}, layer.base_layer.weight.double())
    assert ((layer.weight.double() - exact).abs() <= torch.finfo(torch.bfloat16).eps * exact.abs()).all()


def test_pissa_starts_as_the_principal_part_over_the_residual():
    linear = nn.Linear(12, 10, dtype=torch.float64)
    layer = PiSSA.wrap(linear, r=4, alpha=6.0)
    u, s, vh = leading_triplets(linear.weight, 4)
    up, down = layer.adapter.up.detach(), layer.adapter.down.detach()
    torch.testing.assert_close(1.5 * up @ down, torch.from_numpy(u * s @ vh))
    torch.testing.assert_close(up.T @ up, down @ down.T)  # balanced
    torch.testing.assert_close(
        torch.linalg.svdvals(linear.weight - 1.5 * up @ down)[0], torch.linalg.svdvals(linear.weight)[4]
    )
    torch.testing.assert_close(layer.adapter.delta(), torch.zeros(10, 12, dtype=torch.float64))
    with pytest.raises(ValueError, match="PiSSA: alpha is -1, expected a positive number"):
        PiSSA.wrap(linear, r=4, alpha=-1.0)


def test_pissa_does_not_round_the_residual():
    linear = nn.Linear(64, 64).bfloat16()
    layer, x = PiSSA.wrap(linear, r=8), torch.randn(5, 64)
    exact = x @ linear.weight.float().T + linear.bias.float()
    error = (layer(x.bfloat16()).float() - exact).abs().max()
    assert error <= 2 * (linear(x.bfloat16()).float() - exact).abs().max()


def test_lora_xs_reaches_the_projection_of_any_update_between_the_leading_singular_spaces():
    layer = LoRAXS.wrap(nn.Linear(12, 10, dtype=torch.float64), r=4)
    adapter = layer.adapter
    u, s, vh = leading_triplets(layer.base_layer.weight, 4)
    torch.testing.assert_close(adapter.up @ adapter.down, torch.from_numpy(u * s @ vh), check_stride=False)
    assert [n for n, p in adapter.named_parameters() if p.requires_grad] == ["core"]
    update = torch.randn(10, 12, dtype=torch.float64)
    with torch.no_grad():
        adapter.core.copy_(torch.linalg.pinv(adapter.up) @ update @ torch.linalg.pinv(adapter.down))
    projected = torch.from_numpy(u @ u.T) @ update @ torch.from_numpy(vh.T @ vh)
    torch.testing.assert_close(adapter.delta(), projected)


def test_singlora_is_symmetric_and_positive_where_square():
    delta = CASES["SingLoRA"].layer(8, 8).adapter.delta()
    torch.testing.assert_close(delta, delta.T)
    eigenvalues = torch.linalg.eigvalsh(delta)
    assert eigenvalues.min() >= -1e-12 and (eigenvalues > 1e-9).sum() == 4
    assert sum(p.numel() for p in SingLoRA.wrap(nn.Linear(12, 10), r=4).adapter.parameters()) == 12 * 4


@pytest.mark.parametrize("rslora", [False, True])
def test_dylora_draws_a_rank_a_training_forward_and_serves_any(rslora):
    layer = CASES["DyLoRA"].layer(rslora=rslora)
    p, x = layer.adapter, torch.randn(5, 12, dtype=torch.float64)
    prefixes = [
        x @ (layer.base_layer.weight + 6.0 / b ** (0.5 if rslora else 1) * p.up[:, :b] @ p.down[:b]).T + layer.bias
        for b in range(1, 5)
    ]
    layer.train()
    drawn = []
    for _ in range(40):
        y = layer(x)
        drawn += [b for b, expected in enumerate(prefixes, 1) if torch.allclose(y, expected)]
    assert len(drawn) == 40 and set(drawn) == {1, 2, 3, 4}
    for b, expected in enumerate(prefixes, 1):
        layer.eval().adapter.rank = b
        torch.testing.assert_close(layer(x), expected)
    for rank, message in ((0, "rank is 0, expected at least 1"), (5, "rank is 5, expected at most r = 4")):
        with pytest.raises(ValueError, match=f"DyLoRA: {message}"):
            p.rank = rank


def test_vera_factors_serve_layers_of_any_smaller_size_and_repeat():
    shared = VeRAFactors(5, in_features=20, out_features=16, seed=3)
    wide, tall = (VeRA.wrap(nn.Linear(i, o), r=5, shared=shared) for i, o in ((20, 9), (7, 16)))
    for layer in (wide, tall):
        nn.init.normal_(layer.adapter.row_scale)
        o, i = layer.base_layer.weight.shape
        p = layer.adapter
        expected = p.row_scale[:, None] * shared.up[:o] @ torch.diag(p.gate) @ shared.down[:, :i]
        torch.testing.assert_close(p.delta(), expected)
    model = nn.ModuleList([wide, tall]).to(torch.float64)
    assert model[0].adapter.shared.down is model[1].adapter.shared.down, "one tensor for the whole model"
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 5 + 9 + 5 + 16
    again = VeRAFactors(5, 20, 16, seed=3)
    assert torch.equal(again.down.double(), shared.down) and not torch.equal(VeRAFactors(5, 20, 16, 4).up, again.up)
    assert shared.down.var() == pytest.approx(2 / 20, rel=0.3) and shared.up.var() == pytest.approx(2 / 5, rel=0.3)
    with pytest.raises(
        ValueError, match=r"VeRA: shared has factors \(5, 20\) and \(16, 5\), expected rank 5, at least 21"
    ):
        VeRA.wrap(nn.Linear(21, 9), r=5, shared=shared)


def test_the_sorsa_penalty_is_zero_at_the_start():
    adapter = SORSA.wrap(nn.Linear(12, 10, dtype=torch.float64), r=4).adapter
    assert adapter.penalty() < 1e-12
    with torch.no_grad():
        adapter.up.mul_(2.0)  # upᵀ·up = 4I: ‖3I‖ = 3·√4
        adapter.down[1].copy_(adapter.down[0])  # two entries of 1 off the diagonal
    torch.testing.assert_close(adapter.penalty(), torch.tensor(6.0 + 2.0**0.5, dtype=torch.float64))
    adapter.penalty().backward()
    assert adapter.up.grad.isfinite().all() and adapter.down.grad.any() and adapter.gate.grad is None
