"""The plain-torch twins of the 2:4 family against brute force and NumPy."""

from itertools import combinations, product

import numpy as np
import pytest
import torch

from lrkernels import reference

PATTERNS = [
    np.array([[column in pair for column in range(4)] for pair in rows])
    for rows in product(combinations(range(4), 2), repeat=4)
    if all(sum(column in pair for pair in rows) == 2 for column in range(4))
]


def tiles_of(matrix):
    matrix = np.asarray(matrix)
    return matrix.reshape(matrix.shape[0] // 4, 4, matrix.shape[1] // 4, 4).swapaxes(1, 2).reshape(-1, 4, 4)


def test_ninety_patterns():
    assert len(PATTERNS) == 90


def test_rows_keep_the_two_largest():
    weight = torch.randn(7, 44, dtype=torch.float64)
    mask = reference.sparse24_mask(weight)
    assert (mask.unflatten(1, (-1, 4)).sum(-1) == 2).all()
    fours, kept = weight.abs().unflatten(1, (-1, 4)), mask.unflatten(1, (-1, 4))
    assert (torch.where(kept, fours, np.inf).amin(-1) >= torch.where(kept, 0, fours).amax(-1)).all()


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.bfloat16, torch.float16))
def test_transposable_masks_are_the_best_of_all(dtype):
    weight = torch.randn(36, 48, dtype=torch.float64).to(dtype)
    mask = reference.sparse24_mask(weight, transposable=True)
    magnitudes = tiles_of(weight.abs().double().numpy())
    kept = (magnitudes * tiles_of(mask.numpy())).sum((1, 2))
    best = np.max([(magnitudes * pattern).sum((1, 2)) for pattern in PATTERNS], axis=0)
    np.testing.assert_allclose(kept, best, rtol=1e-6 if dtype == torch.float32 else 1e-12)
    for both in (mask, mask.mT):
        assert (both.unflatten(1, (-1, 4)).sum(-1) == 2).all()


def test_kept_share_of_gaussian_weights():
    """The shares of the research note: 0.745 by rows, 0.7025 exact, 0.692 greedy, 0.655 double-pruned."""
    weight = torch.randn(1024, 1024)
    shares = {
        (False, "exact"): (0.745, 0.5),
        (True, "exact"): (0.7025, 0.5),
        (True, "greedy"): (0.692, 0.490),
        (True, "double_pruned"): (0.655, 0.406),
    }
    for (transposable, method), (share, density) in shares.items():
        mask = reference.sparse24_mask(weight, transposable=transposable, method=method)
        assert abs((weight.abs() * mask).sum() / weight.abs().sum() - share) < 0.003, method
        assert abs(mask.float().mean() - density) < 0.003, method


@pytest.mark.parametrize("method", ("greedy", "double_pruned"))
def test_other_masks_keep_at_most_two(method):
    weight = torch.randn(64, 96)
    mask = reference.sparse24_mask(weight, transposable=True, method=method)
    for both in (mask, mask.mT):
        assert (both.unflatten(1, (-1, 4)).sum(-1) <= 2).all()


def test_greedy_by_hand():
    for seed in range(20):
        tile = torch.randn(4, 4, generator=torch.Generator().manual_seed(seed))
        kept = np.zeros((4, 4), bool)
        for place in np.argsort(-tile.abs().numpy().ravel(), kind="stable"):
            row, column = divmod(int(place), 4)
            if kept[row].sum() < 2 and kept[:, column].sum() < 2:
                kept[row, column] = True
        assert (reference.sparse24_mask(tile, transposable=True, method="greedy").numpy() == kept).all()


def test_ties_and_values_that_are_not_finite():
    equal = torch.ones(4, 8)
    assert reference.sparse24_mask(equal).tolist() == [[True, True, False, False] * 2] * 4
    exact = reference.sparse24_mask(equal, transposable=True)
    assert (exact.unflatten(1, (-1, 4)).sum(-1) == 2).all() and (exact.mT.sum(-1) == 4 / 2 * 1).all()
    weight = torch.zeros(4, 4)
    weight[1, 2], weight[1, 3], weight[3, 0] = float("nan"), float("inf"), -float("inf")
    for transposable in (False, True):
        mask = reference.sparse24_mask(weight, transposable=transposable)
        assert mask[1, 2] and mask[1, 3] and mask[3, 0]
    largest = torch.full((4, 4), torch.finfo(torch.float32).max)
    largest[:2, :2], largest[2:, 2:] = 3e38, 3e38
    kept = reference.sparse24_mask(largest, transposable=True)
    assert kept[:2, 2:].all() and kept[2:, :2].all()


@pytest.mark.parametrize("shape", ((1, 4), (3, 8), (5, 12), (8, 20), (0, 8), (3, 0)))
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.bfloat16, torch.float16))
def test_format_by_numpy(shape, dtype):
    weight = torch.randn(shape, dtype=torch.float64).to(dtype)
    mask = reference.sparse24_mask(weight)
    values, bitmask = reference.sparse24_compress(weight, mask)
    assert values.shape == (shape[0], shape[1] // 2) and bitmask.shape == (shape[0], (shape[1] + 7) // 8)
    bits = np.packbits(mask.numpy(), axis=1, bitorder="little")
    np.testing.assert_array_equal(bitmask.numpy(), bits.reshape(bitmask.shape))
    for row in range(shape[0]):
        assert torch.equal(values[row], weight[row][mask[row]])
    assert torch.equal(reference.sparse24_decompress(values, bitmask), torch.where(mask, weight, 0))


def test_bits_of_kept_values_survive():
    weight = torch.tensor([[-0.0, float("nan"), 1.0, 2.0, float("inf"), -0.0, 0.0, -float("inf")]])
    mask = torch.tensor([[True, True, False, False, True, True, False, False]])
    values, bitmask = reference.sparse24_compress(weight, mask)
    dense = reference.sparse24_decompress(values, bitmask)
    kept = torch.where(mask, weight.view(torch.int32), 0)
    assert torch.equal(dense.view(torch.int32), kept)


def operands(dtype=torch.float64):
    weight = torch.randn(12, 20, dtype=dtype)
    mask = reference.sparse24_mask(weight, transposable=True)
    values, bitmask = reference.sparse24_compress(weight, mask)
    x, down, up = torch.randn(3, 5, 20, dtype=dtype), torch.randn(4, 20, dtype=dtype), torch.randn(12, 4, dtype=dtype)
    return x, weight, mask, values, bitmask, down, up, torch.randn(12, dtype=dtype)


def test_linear_and_its_gradients():
    x, weight, mask, values, bitmask, down, up, bias = operands()
    y = reference.sparse24_linear(x, values, bitmask, None, down, up, bias, scale=0.5)
    dense = np.where(mask, weight, 0) + 0.5 * up.numpy() @ down.numpy()
    np.testing.assert_allclose(y.numpy(), x.numpy() @ dense.T + bias.numpy(), atol=1e-12)
    leaves = [t.clone().requires_grad_() for t in (x, values, down, up)]
    y = reference.sparse24_linear(leaves[0], leaves[1], bitmask, None, leaves[2], leaves[3], bias, scale=0.5)
    grad = torch.randn_like(y)
    expected = torch.autograd.grad(y, leaves, grad)
    ours = reference.sparse24_linear_backward(
        grad, values, bitmask, None, down, up, x, scale=0.5, transposable=True, needs=15
    )
    for got, wanted in zip(ours, expected, strict=True):
        torch.testing.assert_close(got, wanted)


def test_straight_through():
    x, weight, mask, values, bitmask, down, up, bias = operands()
    weight.requires_grad_()
    y = reference.sparse24_linear_ste(x, weight, mask, down, up, bias)
    torch.testing.assert_close(y, reference.sparse24_linear(x, values, bitmask, None, down, up, bias))
    grad = torch.randn_like(y)
    (dweight,) = torch.autograd.grad(y, weight, grad)
    torch.testing.assert_close(dweight, grad.flatten(0, 1).mT @ x.flatten(0, 1))
