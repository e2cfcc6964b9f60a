"""Adapters made of singular vectors, by what they span: PiSSA, SVFT, NoRA, LaMDA, T-LoRA, EigenLoRAx."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from test_equations import leading_triplets
from torch import nn

from lrkernels.adapters import SVFT, LaMDA, LoRAXS, NoRA, PiSSA, TLoRA, eigenlorax_

IN, OUT = 12, 10


@pytest.mark.parametrize("shape", [(300, 200), (200, 300)])
def test_a_large_pissa_is_the_weight_to_rounding_and_nearly_its_principal_part(shape):
    """rsvd decomposes it; its error is in the residual, not in the layer."""
    linear = nn.Linear(*shape)
    layer, x = PiSSA.wrap(linear, r=8), torch.randn(5, shape[0])
    torch.testing.assert_close(layer(x), linear(x), rtol=1e-5, atol=1e-5)
    product = (layer.adapter.up @ layer.adapter.down).detach().double()
    singular_values = torch.linalg.svdvals(linear.weight.detach().double())
    error = torch.linalg.matrix_norm(linear.weight.detach().double() - product)
    assert error <= 1.03 * singular_values[8:].norm()
    again = PiSSA.wrap(linear, r=8)
    assert torch.equal(again.adapter.up, layer.adapter.up), "the same weight, the same start"


def test_a_whole_band_of_svft_reaches_any_update_and_keeps_its_length():
    layer = SVFT.wrap(nn.Linear(8, 8, dtype=torch.float64), r=8, band=7)
    adapter = layer.adapter
    with torch.no_grad():
        adapter.bands.normal_()
    torch.testing.assert_close(adapter.delta().norm(), adapter.matrix().norm())
    assert adapter.matrix().count_nonzero() == 64
    narrow = SVFT.wrap(nn.Linear(8, 8, dtype=torch.float64), r=8, band=1).adapter
    with torch.no_grad():
        narrow.bands.fill_(1.0)
    assert narrow.matrix().count_nonzero() == 8 + 2 * 7 and repr(narrow).endswith("band=1)")


def test_svft_with_no_band_trains_singular_values():
    linear = nn.Linear(IN, OUT, dtype=torch.float64)
    layer = SVFT.wrap(linear, r=3)
    assert sum(p.numel() for p in layer.parameters() if p.requires_grad) == 3
    change = torch.tensor([0.5, -0.25, 1.0]).double()
    with torch.no_grad():
        layer.adapter.bands[0].copy_(change)
    u, s, vh = np.linalg.svd(linear.weight.detach().numpy(), full_matrices=False)
    s[:3] += change.numpy()
    torch.testing.assert_close(layer.weight, torch.from_numpy(u * s @ vh), check_stride=False)


def test_lamda_freezes_its_rows_whatever_the_optimizer_does():
    layer, x = LaMDA.wrap(nn.Linear(IN, OUT, dtype=torch.float64), r=4), torch.randn(30, IN).double()
    adapter, base = layer.adapter, layer.base_layer
    torch.testing.assert_close(layer(x), base(x))
    u, _, vh = leading_triplets(base.weight, 4)
    torch.testing.assert_close(adapter.down, torch.from_numpy(vh.copy()), check_stride=False)
    torch.testing.assert_close(adapter.factors().up, torch.from_numpy(u.copy()), check_stride=False)
    target = torch.randn(30, OUT).double()
    optimizer = torch.optim.AdamW([p for p in layer.parameters() if p.requires_grad], lr=0.05, weight_decay=0.1)

    def train(share, steps=6):
        adapter.freeze_rows(share)
        before = adapter.factors().up.detach().clone()
        for _ in range(steps):
            optimizer.zero_grad()
            (layer(x) - target).square().mean().backward()
            optimizer.step()
        return (adapter.factors().up.detach() - before).norm(dim=1)

    assert (train(0.0) > 0).all()
    moved = train(0.3)
    assert (moved[:3] == 0).all() and (moved[3:] > 0).all()
    assert not adapter.up.grad[:3].any() and adapter.core.grad.any()
    assert (train(0.1) == 0).tolist() == [True] * 3 + [False] * 7, "what is fixed stays so"
    core = adapter.core.detach().clone()
    assert not train(1.0).any() and not adapter.up.grad.any() and (adapter.core != core).all()
    restored = LaMDA.wrap(copy.deepcopy(base), r=4)
    restored.load_state_dict(layer.state_dict())
    torch.testing.assert_close(restored(x), layer(x))
    layer.merge(keep=False)
    assert not adapter.frozen.any()
    with pytest.raises(ValueError, match="share is -1"):
        adapter.freeze_rows(-1)


def test_t_lora_masks_a_prefix_of_orthogonal_components():
    layer, x = TLoRA.wrap(nn.Linear(IN, OUT, dtype=torch.float64), r=5), torch.randn(30, IN).double()
    adapter, base = layer.adapter, layer.base_layer
    up, down = adapter.up.detach().clone(), adapter.down.detach().clone()
    torch.testing.assert_close(up.T @ up, torch.eye(5).double())
    torch.testing.assert_close(down @ down.T, torch.eye(5).double())
    assert (adapter.gate > 0).all() and adapter.gate.max() < 1.0, "the last triplets, of a spectrum that reaches 2"
    for rank in range(6):
        adapter.rank = rank
        torch.testing.assert_close(layer(x), base(x))
    with torch.no_grad():
        adapter.gate.normal_()
    change = torch.diag(adapter.gate - adapter.gate_start).detach()
    for rank in range(6):
        adapter.rank = rank
        expected = up[:, :rank] @ change[:rank, :rank] @ down[:rank]
        torch.testing.assert_close(adapter.delta().detach(), expected)
        assert adapter.rank == rank
    layer(x).square().sum().backward()
    adapter.rank = 2
    adapter.zero_grad()
    layer(x).square().sum().backward()
    assert adapter.up.grad[:, :2].any() and not adapter.up.grad[:, 2:].any() and not adapter.gate.grad[2:].any()
    ranks = []
    for t in (0, 250, 500, 750, 1000):
        adapter.set_timestep(t, 1000, least=1)
        ranks.append(adapter.rank)
    assert ranks == [5, 4, 3, 2, 1]
    for call, message in (
        (lambda: setattr(adapter, "rank", 6), "rank is 6, expected at most r = 5"),
        (lambda: setattr(adapter, "rank", -1), "rank is -1"),
        (lambda: adapter.set_timestep(7, 5), "t is 7 of 5 steps"),
    ):
        with pytest.raises(ValueError, match=f"TLoRA: {message}"):
            call()


# --- EigenLoRAx ---


def test_adapters_in_the_span_are_reproduced_and_the_basis_is_the_best():
    linear = nn.Linear(IN, OUT, dtype=torch.float64)
    shared_up, shared_down = torch.randn(OUT, 4).double(), torch.randn(4, IN).double()
    known = []
    for _ in range(5):  # of rank 2 within 4 dimensions, and sizes that its factors share unevenly
        size = torch.randn(2, 4).double()
        known.append((1e3 * size @ shared_down, 1e-3 * shared_up @ torch.randn(4, 2).double()))
    updates = [up @ down for down, up in known]
    layer, x = LoRAXS.wrap(linear, r=4, alpha=6.0), torch.randn(9, IN).double()
    coefficients = eigenlorax_(layer.adapter, known)
    assert coefficients.shape == (5, 4, 4) and not layer.adapter.core.any()
    torch.testing.assert_close(layer(x), linear(x))
    for core, update in zip(coefficients, updates, strict=True):
        with torch.no_grad():
            layer.adapter.core.copy_(core)
        torch.testing.assert_close(layer.adapter.delta(), update)
    assert sum(p.numel() for p in layer.parameters() if p.requires_grad) == 16
    # At a smaller rank: the principal components of all columns, and of all rows.
    small = LoRAXS.wrap(linear, r=2).adapter
    eigenlorax_(small, known)
    u = np.linalg.svd(np.concatenate(updates, 1))[0][:, :2]
    vh = np.linalg.svd(np.concatenate(updates, 0))[2][:2]
    torch.testing.assert_close(small.up @ small.up.T, torch.from_numpy(u @ u.T))
    torch.testing.assert_close(small.down.T @ small.down, torch.from_numpy(vh.T @ vh))
    # At a larger one: completed, and the known ones still there.
    large = LoRAXS.wrap(linear, r=7).adapter
    coefficients = eigenlorax_(large, known)
    torch.testing.assert_close(large.up.T @ large.up, torch.eye(7).double())
    torch.testing.assert_close(large.up @ coefficients[0] @ large.down, updates[0])
    for adapter, pairs, message in (
        (large, [], "there are no known updates"),
        (large, [known[0], known[0][::-1]], r"factors of shapes \(10, 2\) and \(2, 12\)"),
        (LoRAXS.wrap(linear, r=2, alpha=0.0).adapter, known, "alpha 0"),
    ):
        with pytest.raises(ValueError, match=f"eigenlorax_: .*{message}"):
            eigenlorax_(adapter, pairs)


def test_nora_moves_within_the_inner_rank():
    layer = NoRA.wrap(nn.Linear(IN, OUT, dtype=torch.float64), r=6, inner=2)
    with torch.no_grad():
        layer.adapter.inner_up.normal_()
    assert torch.linalg.matrix_rank(layer.adapter.delta()) == 2
    u, _, vh = leading_triplets(layer.base_layer.weight, 6)
    projected = torch.from_numpy(u @ u.T) @ layer.adapter.delta() @ torch.from_numpy(vh.T @ vh)
    torch.testing.assert_close(projected, layer.adapter.delta())
    assert sum(p.numel() for p in layer.parameters() if p.requires_grad) == 2 * 6 * 2
    assert repr(layer.adapter).endswith("r=6, alpha=6, rslora=False, inner=2)")


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (partial(NoRA.wrap, r=4, inner=5), ValueError, "NoRA: inner is 5, expected at most 4"),
        (partial(SVFT.wrap, r=4, band=4), ValueError, "SVFT: band is 4, expected 0 to 3 because r is 4"),
        (partial(SVFT.wrap, r=4, band=1.0), TypeError, "SVFT: band is 1.0, expected an int"),
    ],
)
def test_adapters_refuse(make, error, message):
    with pytest.raises(error, match=message):
        make(nn.Linear(IN, OUT))
