"""What the methods do around the layer: parameter groups, restarts, orthogonality, budgets, ramps."""

from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import nn

from lrkernels import optim
from lrkernels.adapters import (
    AdaLoRA,
    LoRA,
    LoRAFA,
    RankAllocator,
    SingLoRA,
    adapted_layers,
    count_steps,
    lora_plus_groups,
    orthogonality_penalty,
    restart,
)
from lrkernels.nn import LoRALinear, replace_linear


def adapted(adapter_class, *sizes, dtype=torch.float64, **options) -> nn.Sequential:
    """A chain of linear layers under adapters."""
    layers = [nn.Linear(a, b, dtype=dtype) for a, b in pairwise(sizes)]
    model = nn.Sequential(*layers)
    replace_linear(model, partial(adapter_class.wrap, **options), target_modules="all-linear")
    return model


def train(model, optimizer, x, target, steps, after_step=lambda: None):
    losses = []
    for _ in range(steps):
        loss = (model(x) - target).square().mean()
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        after_step()
        optimizer.zero_grad()
    return losses


# --- LoRA+ ---


def stepped(ratio: float | None) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    model, x = adapted(LoRA, 12, 10, 12, r=4), torch.randn(16, 12, dtype=torch.float64)
    groups = model.parameters() if ratio is None else lora_plus_groups(model, lr=0.1, ratio=ratio)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    train(model, torch.optim.SGD(groups, lr=0.1), x, torch.zeros_like(x), 1)
    return {name: p.detach() - before[name] for name, p in model.named_parameters()}


def test_lora_plus_with_ratio_one_is_lora_and_the_ratio_scales_the_step_of_up_alone():
    plain, one, sixteen = stepped(None), stepped(1.0), stepped(16.0)
    for name, step in plain.items():
        assert torch.equal(one[name], step)
        torch.testing.assert_close(sixteen[name], 16.0 * step if name.endswith(".up") else step)
    assert plain["1.adapters.default.up"].any()


def test_lora_plus_groups_cover_what_trains_once():
    model = nn.ModuleDict(
        {"a": LoRA.wrap(nn.Linear(8, 8), r=2), "b": LoRALinear(nn.Linear(8, 8), 2), "c": nn.Linear(8, 3)}
    )
    model["d"] = LoRAFA.wrap(nn.Linear(8, 8), r=2)
    rest, ups = lora_plus_groups(model, lr=1e-3, ratio=4.0)
    assert (rest["lr"], ups["lr"]) == (1e-3, 4e-3)
    assert [id(p) for p in ups["params"]] == [
        id(model["a"].adapter.up),
        id(model["b"].lora_B),
        id(model["d"].adapter.up),
    ]
    assert {id(p) for p in rest["params"]} == {
        id(p) for p in (model["a"].adapter.down, model["b"].lora_A, model["c"].weight, model["c"].bias)
    }
    with pytest.raises(ValueError, match="lora_plus_groups: the model has no adapter with a trained factor named up"):
        lora_plus_groups(nn.Linear(4, 4), lr=1e-3)


# --- ReLoRA ---


def test_restarts_add_rank_to_rank_and_change_no_output():
    model, x = adapted(LoRA, 16, 16, r=2), torch.randn(64, 16, dtype=torch.float64)
    target = torch.randn(64, 16, dtype=torch.float64)
    original = model[0].base_layer.weight.clone()
    for cycle in range(1, 4):
        train(model, torch.optim.SGD(lora_plus_groups(model, lr=1.0, ratio=1.0)), x, target, 5)
        before = model(x)
        restart(model)
        torch.testing.assert_close(model(x), before)
        assert not model[0].adapter.up.any()
        singular = torch.linalg.svdvals(model[0].base_layer.weight - original)
        assert (singular > 1e-9).sum() == 2 * cycle
    assert not model[0].merged


@pytest.mark.parametrize("prune", [0.0, 0.75, 1.0])
def test_restart_prunes_the_smallest_optimizer_state_of_the_adapters(prune):
    model, x = adapted(LoRA, 16, 16, r=2), torch.randn(64, 16, dtype=torch.float64)
    other = nn.Linear(16, 16, dtype=torch.float64)
    optimizer = torch.optim.AdamW([*model.parameters(), *other.parameters()], lr=1e-2)
    train(nn.Sequential(model, other), optimizer, x, x, 3)
    parameters = [p for p in optimizer.state]
    before = {id(p): optimizer.state[p]["exp_avg"].clone() for p in parameters}
    restart(model, optimizer, prune=prune)
    own = {id(p) for p in model[0].adapter.parameters()}
    assert len(own) == 2 and len(parameters) == 4
    for p in parameters:
        moment, original = optimizer.state[p]["exp_avg"], before[id(p)]
        if id(p) in own:
            kept = moment != 0
            assert kept.sum() == round((1.0 - prune) * p.numel())
            assert torch.equal(moment[kept], original[kept])
            if 0.0 < prune < 1.0:
                assert original[kept].abs().min() >= original[~kept].abs().max()
            assert (optimizer.state[p]["exp_avg_sq"] != 0).sum() == kept.sum()
        else:
            assert torch.equal(moment, original)
        assert optimizer.state[p]["step"] == 3
    train(model, optimizer, x, x, 1)


@pytest.mark.parametrize("inner", ["adamw", "sgd"])
@pytest.mark.parametrize("rank", [2, 8])
def test_restart_prunes_moments_of_projected_gradients_and_keeps_their_basis(inner, rank):
    """A tall factor's moments are those of its transpose, and a basis may have a moment's shape."""
    model, x = adapted(LoRA, 8, 16, r=8), torch.randn(64, 8, dtype=torch.float64)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = optim.ProjectedOptimizer(trained, inner, optim.GaLore(rank), lr=1e-2)
    train(model, optimizer, x, torch.randn(64, 16, dtype=torch.float64), 3)
    bases = [optimizer.state[p]["basis_projection"].clone() for p in trained]
    restart(model, optimizer, prune=0.75)
    for p, basis in zip(trained, bases, strict=True):
        state = optimizer.state[p]
        for name in ("exp_avg", "exp_avg_sq") if inner == "adamw" else ("momentum_buffer",):
            assert (state[name] != 0).sum() == state[name].numel() // 4 > 0
        assert torch.equal(state["basis_projection"], basis)
    train(model, optimizer, x, torch.randn(64, 16, dtype=torch.float64), 1)


def test_restart_refuses():
    with pytest.raises(ValueError, match="restart: the model has no adapted layer"):
        restart(nn.Linear(4, 4))
    with pytest.raises(ValueError, match="restart: prune is 1.5"):
        restart(adapted(LoRA, 4, 4, r=1), prune=1.5)


# --- AdaLoRA ---


def test_the_orthogonality_penalty_is_zero_for_orthonormal_factors_alone():
    model = adapted(AdaLoRA, 12, 10, 8, r=4)
    for layer in adapted_layers(model):
        nn.init.orthogonal_(layer.adapter.up), nn.init.orthogonal_(layer.adapter.down)
    torch.testing.assert_close(orthogonality_penalty(model), torch.zeros((), dtype=torch.float64))
    with torch.no_grad():
        model[0].adapter.up.mul_(2.0)  # PᵀP = 4I: ‖3I‖² = 9·4
        model[1].adapter.down[1].copy_(model[1].adapter.down[0])  # two equal rows: two entries of 1
    torch.testing.assert_close(orthogonality_penalty(model), torch.tensor(36.0 + 2.0, dtype=torch.float64))
    orthogonality_penalty(model).backward()
    assert model[0].adapter.up.grad.any() and model[0].adapter.gate.grad is None
    with pytest.raises(ValueError, match="orthogonality_penalty: the model has no AdaLoRA adapter"):
        orthogonality_penalty(nn.Linear(4, 4))


def test_a_pruned_triplet_is_gone_exactly():
    layer = AdaLoRA.wrap(nn.Linear(12, 10, dtype=torch.float64), r=4)
    adapter, x = layer.adapter, torch.randn(5, 12, dtype=torch.float64)
    nn.init.normal_(adapter.gate)
    with torch.no_grad():
        adapter.gate[2] = 0.0
    kept = [0, 1, 3]
    without = adapter.up[:, kept] @ torch.diag(adapter.gate[kept]) @ adapter.down[kept]
    torch.testing.assert_close(layer(x), layer.base_layer(x) + x @ without.T)


def test_the_allocator_follows_its_budget_and_finds_the_rank_of_the_target():
    torch.manual_seed(0)
    model, x = adapted(AdaLoRA, 12, 12, r=6), torch.randn(256, 12, dtype=torch.float64)
    update = torch.randn(12, 2, dtype=torch.float64) @ torch.randn(2, 12, dtype=torch.float64)
    target = model(x).detach() + x @ update.T
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05, weight_decay=0.0)
    allocator, kept = RankAllocator(model, target=2, steps=120, warmup=20, final=60), []
    losses = train(
        model, optimizer, x, target, 150,
        lambda: (allocator.step(), kept.append(int((model[0].adapter.gate != 0).sum()))),
    )  # fmt: skip
    assert kept[:20] == [6] * 20 and kept[60:] == [2] * 90
    assert kept == [min(6, allocator.budget(step)) for step in range(1, 151)] and sorted(kept, reverse=True) == kept
    assert losses[-1] < 0.02 * losses[0], "two triplets suffice for an update of rank two"
    chosen = model[0].adapter.gate != 0
    assert torch.equal(allocator.scores()[0].topk(2).indices.sort().values, chosen.nonzero().flatten())


def test_the_allocator_resumes():
    torch.manual_seed(0)
    model, x = adapted(AdaLoRA, 12, 10, 12, r=4), torch.randn(32, 12, dtype=torch.float64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    first = RankAllocator(model, target=3, steps=10, final=2)
    train(model, optimizer, x, -x, 4, first.step)
    second = RankAllocator(model, target=3, steps=10, final=2)
    second.load_state_dict(first.state_dict())
    assert second.taken == 4
    for mine, theirs in zip(first.scores(), second.scores(), strict=True):
        assert torch.equal(mine, theirs) and mine.any()


def test_the_allocator_refuses():
    model = adapted(AdaLoRA, 12, 10, 12, r=4)
    for arguments, message in (
        ({"target": 9, "steps": 10}, "target is 9, expected 1 to 8"),
        ({"target": 0, "steps": 10}, "target is 0, expected 1 to 8"),
        ({"target": 4, "steps": 10, "warmup": 5, "final": 5}, r"steps is 10, expected more than warmup 5 \+ final 5"),
        ({"target": 4, "steps": 10, "interval": 0}, "interval is 0"),
    ):
        with pytest.raises(ValueError, match=f"RankAllocator: {message}"):
            RankAllocator(model, **arguments)
    with pytest.raises(ValueError, match="expected 1 to 0"):
        RankAllocator(nn.Linear(4, 4), target=1, steps=10)


# --- SingLoRA ---


def test_the_ramp_counts_optimizer_steps_and_survives_a_checkpoint():
    model, x = adapted(SingLoRA, 12, 10, r=4, ramp_steps=4), torch.randn(5, 12, dtype=torch.float64)
    adapter = model[0].adapter
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    handle = count_steps(optimizer, model)
    for ramp in (0.25, 0.5, 0.75, 1.0, 1.0):
        optimizer.step()
        product = adapter.factor[:10] @ adapter.factor[:12].T
        torch.testing.assert_close(model(x), model[0].base_layer(x) + ramp * x @ product.T)
    resumed = adapted(SingLoRA, 12, 10, r=4, ramp_steps=4)
    resumed.load_state_dict(model.state_dict())
    assert torch.equal(resumed(x), model(x))
    handle.remove()
    optimizer.step()
    assert adapter.step == 5 and model.half()[0].adapter.step.dtype == torch.int64
    with pytest.raises(ValueError, match="count_steps: the model has no SingLoRA adapter"):
        count_steps(optimizer, nn.Linear(4, 4))
