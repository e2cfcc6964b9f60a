"""Dropout masks: Philox over the logical element index, nothing else."""

import numpy as np
import pytest
import torch
from lowrank_cases import make_case
from philox import philox_bits, philox_mask

import lrkernels
from lrkernels import _kernels, reference

# Counter 0, key 0 of philox4x32-10, from the known-answer file of the paper's authors.
KNOWN_ANSWER = [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]


def test_known_answer():
    assert philox_bits(0, 4).tolist() == KNOWN_ANSWER
    assert _kernels.philox(0, 4).tolist() == KNOWN_ANSWER
    assert reference.philox_bits(torch.tensor(0), 4).tolist() == KNOWN_ANSWER


@pytest.mark.parametrize("seed", (0, 1, -1, 2**62 - 1, -(2**63)))
def test_bits_agree_with_the_paper(seed):
    expected = philox_bits(seed, 1001)
    assert np.array_equal(_kernels.philox(seed, 1001), expected)
    assert np.array_equal(reference.philox_bits(torch.tensor(seed), 1001).numpy(), expected)


def op_mask(x, seed, dropout):
    """Reads the mask off the op: ones times the identity."""
    eye = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    return lrkernels.lowrank_project(torch.ones_like(x), eye, None, seed, dropout=dropout)


@pytest.mark.parametrize("dropout", (0.1, 0.5, 0.999, 1.0))
def test_the_op_drops_what_philox_says(device, dropout):
    x = torch.zeros(5, 7, 19, device=device.device)
    seed = torch.tensor(-42, device=device.device)
    expected = philox_mask(-42, x.numel(), dropout).reshape(x.shape)
    np.testing.assert_allclose(op_mask(x, seed, dropout).cpu().numpy(), expected, rtol=1e-6)


def test_the_mask_ignores_strides(device):
    case = make_case(device.device, torch.float32, dropout=0.5)
    y = case.call(torch.ops.lrk.lowrank_linear)
    case.x = case.x.T.contiguous().T
    torch.testing.assert_close(case.call(torch.ops.lrk.lowrank_linear), y)


def test_the_rate_and_the_mean():
    x = torch.zeros(256, 256)
    mask = op_mask(x, torch.tensor(9), 0.2)
    assert abs((mask == 0).float().mean() - 0.2) < 0.01
    assert abs(mask.mean() - 1.0) < 0.01


def test_no_global_generator_is_touched(device):
    case = make_case(device.device, torch.float32, dropout=0.5)
    before = torch.get_rng_state()
    first, second = case.call(torch.ops.lrk.lowrank_linear), case.call(torch.ops.lrk.lowrank_linear)
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)
