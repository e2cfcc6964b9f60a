"""The portable format on every backend, against NumPy, bit for bit."""

import pytest
import torch
from sparse24_cases import DTYPES, packbits, random_mask
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck

import lrkernels

SHAPES = ((1, 4), (3, 8), (5, 12), (17, 60), (33, 132), (64, 256), (0, 8), (3, 0))
BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_there_and_back(device, shape, dtype):
    weight, mask = torch.randn(shape, dtype=torch.float64).to(dtype), random_mask(*shape)
    values, bitmask = lrkernels.sparse24_compress(weight.to(device.device), mask.to(device.device))
    assert torch.equal(bitmask.cpu(), packbits(mask))
    assert torch.equal(values.cpu(), weight[mask].reshape(shape[0], shape[1] // 2))
    assert torch.equal(lrkernels.sparse24_decompress(values, bitmask).cpu(), torch.where(mask, weight, 0))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_bit_of_a_kept_value_survives(device, dtype):
    bits = BITS[dtype.itemsize]
    info = torch.iinfo(bits)
    weight = torch.randint(info.min, info.max, (16, 64), dtype=bits).view(dtype)  # NaN of every kind among them
    weight[0, :8] = torch.tensor([-0.0, float("nan"), float("inf"), -float("inf")] * 2, dtype=dtype)
    mask = random_mask(16, 64)
    values, bitmask = lrkernels.sparse24_compress(weight.to(device.device), mask.to(device.device))
    dense = lrkernels.sparse24_decompress(values, bitmask).cpu()
    assert torch.equal(dense.view(bits), torch.where(mask, weight.view(bits), 0))


def test_values_that_are_zero_are_kept(device):
    """The mask says what is kept, never the value."""
    weight, mask = torch.zeros(4, 8, device=device.device), random_mask(4, 8)
    values, bitmask = lrkernels.sparse24_compress(weight, mask.to(device.device))
    assert torch.equal(bitmask.cpu(), packbits(mask)) and values.shape == (4, 4)


def test_nine_sixteenths_of_the_bytes(device):
    weight = torch.randn(256, 512, dtype=torch.bfloat16, device=device.device)
    values, bitmask = lrkernels.sparse24_compress(weight, lrkernels.sparse24_mask(weight))
    assert values.nbytes + bitmask.nbytes == weight.nbytes * 9 // 16


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
def test_strides_do_not_matter(device, dtype):
    weight, mask = torch.randn(12, 24).to(dtype).to(device.device), random_mask(12, 24).to(device.device)
    values, bitmask = lrkernels.sparse24_compress(weight, mask)
    for w, m in (
        (weight.T.contiguous().T, mask),
        (weight, mask.T.contiguous().T),
        (torch.cat([weight] * 2, 1)[:, :24], mask),
    ):
        again, bits = lrkernels.sparse24_compress(w, m)
        assert torch.equal(again, values) and torch.equal(bits, bitmask)
    spread = torch.stack([values, values], -1)[..., 0]
    assert torch.equal(lrkernels.sparse24_decompress(spread, bitmask), lrkernels.sparse24_decompress(values, bitmask))


def test_malformed_masks(device):
    weight = torch.randn(5, 12, device=device.device)
    for row, column, name in ((0, 0, "columns 0 to 3 of row 0"), (4, 9, "columns 8 to 11 of row 4")):
        mask = random_mask(5, 12)
        mask[row, column] ^= True
        with pytest.raises(ValueError, match=f"sparse24_compress: mask is malformed: of {name}"):
            lrkernels.sparse24_compress(weight, mask.to(device.device))


@pytest.mark.parametrize("op", ("sparse24_decompress", "sparse24_pack"))
def test_malformed_bitmasks(device, op):
    values, bitmask = torch.randn(5, 6, device=device.device), packbits(random_mask(5, 12))
    wrong = bitmask.clone()
    wrong[3, 1] = 0b0111
    for bad in (0b0000, 0b0111, 0b1111, 0b0001, 0b1000):
        wrong[3, 1] = bad
        with pytest.raises(ValueError, match=f"{op}: bitmask is malformed: of columns 8 to 11 of row 3"):
            getattr(lrkernels, op)(values, wrong.to(device.device))
    wrong = bitmask.clone()
    wrong[4, 1] |= 0b00010000  # past the last column
    with pytest.raises(ValueError, match=f"{op}: bitmask is malformed: of columns 8 to 11 of row 4"):
        getattr(lrkernels, op)(values, wrong.to(device.device))
    getattr(lrkernels, op)(values, bitmask.to(device.device))


def test_gradients(device):
    weight = torch.randn(3, 12, dtype=torch.float64, device=device.device, requires_grad=True)
    mask = random_mask(3, 12).to(device.device)
    compress = lambda w: lrkernels.sparse24_compress(w, mask)[0]  # noqa: E731
    assert gradcheck(compress, (weight,)) and gradgradcheck(compress, (weight,))
    values, bitmask = lrkernels.sparse24_compress(weight.detach(), mask)
    values.requires_grad_()
    decompress = lambda v: lrkernels.sparse24_decompress(v, bitmask)  # noqa: E731
    assert gradcheck(decompress, (values,)) and gradgradcheck(decompress, (values,))


def test_torchs_machinery(device):
    weight = torch.randn(6, 16, device=device.device, requires_grad=True)
    mask = random_mask(6, 16).to(device.device)
    opcheck(torch.ops.lrk.sparse24_compress, (weight, mask))
    values, bitmask = lrkernels.sparse24_compress(weight.detach(), mask)
    opcheck(torch.ops.lrk.sparse24_decompress, (values.requires_grad_(), bitmask))
    opcheck(torch.ops.lrk.sparse24_pack, (values.detach(), bitmask))
    weights = torch.randn(3, 6, 16, device=device.device)
    batched, bits = torch.func.vmap(lambda w: lrkernels.sparse24_compress(w, mask))(weights)
    assert torch.equal(batched, torch.stack([w[mask].reshape(6, 8) for w in weights]))
    assert torch.equal(bits, bitmask.expand(3, 6, 2))
