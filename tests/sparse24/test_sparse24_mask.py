"""sparse24_mask on every backend: the reference's masks bit for bit, and brute force."""

from itertools import combinations, product

import numpy as np
import pytest
import torch
from sparse24_cases import DTYPES
from torch.library import opcheck

import lrkernels
from lrkernels import reference

PATTERNS = [
    np.array([[column in pair for column in range(4)] for pair in rows])
    for rows in product(combinations(range(4), 2), repeat=4)
    if all(sum(column in pair for pair in rows) == 2 for column in range(4))
]
KINDS = ((False, "exact"), (True, "exact"), (True, "greedy"), (True, "double_pruned"))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("shape", ((4, 4), (8, 20), (12, 132), (4, 1000), (64, 64), (68, 516), (0, 8), (8, 0)))
def test_same_as_the_reference(device, shape, kind, dtype):
    weight = torch.randn(shape, dtype=torch.float64).to(dtype)
    transposable, method = kind
    ours = lrkernels.sparse24_mask(weight.to(device.device), transposable=transposable, method=method)
    assert ours.dtype == torch.bool and ours.is_contiguous()
    assert torch.equal(ours.cpu(), reference.sparse24_mask(weight, transposable=transposable, method=method))


@pytest.mark.parametrize("rows", (1, 2, 3, 5, 67))
def test_rows_need_not_be_a_multiple_of_four(device, rows):
    weight = torch.randn(rows, 24)
    assert torch.equal(lrkernels.sparse24_mask(weight.to(device.device)).cpu(), reference.sparse24_mask(weight))


def test_the_best_of_ninety(device):
    weight = torch.randn(64, 96)
    mask = lrkernels.sparse24_mask(weight.to(device.device), transposable=True).cpu()

    def tiles(matrix):
        return matrix.reshape(16, 4, 24, 4).swapaxes(1, 2).reshape(-1, 4, 4)

    magnitudes = tiles(weight.abs().double().numpy())
    kept = (magnitudes * tiles(mask.numpy())).sum((1, 2))
    best = np.max([(magnitudes * pattern).sum((1, 2)) for pattern in PATTERNS], axis=0)
    np.testing.assert_allclose(kept, best, rtol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_ties_and_values_that_are_not_finite(device, kind, dtype):
    """Few different magnitudes, zeros of both signs, NaN, Inf, the largest number: the same choice everywhere."""
    largest = torch.finfo(dtype).max
    choices = torch.tensor([0.0, -0.0, 1.0, -1.0, 2.0, float("nan"), float("inf"), -float("inf"), largest, -largest])
    weight = choices.to(dtype)[torch.randint(10, (32, 64))]
    transposable, method = kind
    ours = lrkernels.sparse24_mask(weight.to(device.device), transposable=transposable, method=method).cpu()
    assert torch.equal(ours, reference.sparse24_mask(weight, transposable=transposable, method=method))


def test_the_smallest_numbers_are_compared_as_they_are(device):
    weight = torch.tensor([[1.0, 2.0, 3.0, 4.0]]) * 2.0**-149
    assert lrkernels.sparse24_mask(weight.to(device.device)).tolist() == [[False, False, True, True]]


def test_the_same_mask_with_any_number_of_threads(device):
    weight = torch.randn(1024, 1024, device=device.device)
    for transposable in (False, True):
        masks = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            masks.append(lrkernels.sparse24_mask(weight, transposable=transposable))
        assert torch.equal(*masks)


def test_strides_do_not_matter(device):
    weight = torch.randn(32, 48, device=device.device)
    for transposable in (False, True):
        expected = lrkernels.sparse24_mask(weight, transposable=transposable)
        for view in (
            weight.T.contiguous().T,
            torch.stack([weight, weight], -1)[..., 0],
            torch.cat([weight] * 2, 1)[:, :48],
        ):
            assert torch.equal(lrkernels.sparse24_mask(view, transposable=transposable), expected)


def test_torchs_machinery(device):
    weight = torch.randn(8, 16, device=device.device, requires_grad=True)
    for transposable in (False, True):
        opcheck(torch.ops.lrk.sparse24_mask, (weight,), {"transposable": transposable})
    mask = lrkernels.sparse24_mask(weight)
    assert not mask.requires_grad
    batch = torch.randn(3, 8, 16, device=device.device)
    batched = torch.func.vmap(lambda w: lrkernels.sparse24_mask(w, transposable=True))(batch)
    assert torch.equal(batched, torch.stack([lrkernels.sparse24_mask(w, transposable=True) for w in batch]))
    with torch.autocast(device.device.type, dtype=torch.bfloat16):
        assert torch.equal(lrkernels.sparse24_mask(weight), mask)
