"""Every wrong argument raises before any work, names op and argument, and raw op and Python twin say the same."""

import pytest
import torch
from sparse24_cases import packbits, random_mask

import lrkernels

x, weight, mask = torch.ones(3, 8), torch.ones(6, 8), random_mask(6, 8)
values, bitmask = torch.ones(6, 4), packbits(mask)
down, up, bias = torch.ones(2, 8), torch.ones(6, 2), torch.ones(6)
half = values.bfloat16()

# (op, positional arguments, keywords, exception of the twin, what the message must contain)
BAD = [
    ("sparse24_mask", (None,), {}, TypeError, "weight is a NoneType, expected a torch.Tensor"),
    ("sparse24_mask", (weight.int(),), {}, TypeError, "weight has dtype torch.int32"),
    ("sparse24_mask", (weight[0],), {}, ValueError, "weight has shape (8,), expected (out, in)"),
    ("sparse24_mask", (weight[:, :6],), {}, ValueError, "weight has shape (6, 6), expected in to be a multiple of 4"),
    (
        "sparse24_mask",
        (weight,),
        {"transposable": True},
        ValueError,
        "weight has shape (6, 8), expected out to be a multiple of 4 because the mask is transposable",
    ),
    ("sparse24_mask", (weight,), {"method": "best"}, ValueError, "method is 'best', expected 'exact', 'greedy' or"),
    ("sparse24_mask", (weight,), {"method": "greedy"}, ValueError, "method is 'greedy', expected 'exact' unless trans"),
    ("sparse24_compress", (weight, mask.int()), {}, TypeError, "mask has dtype torch.int32, expected torch.bool"),
    ("sparse24_compress", (weight, mask[:5]), {}, ValueError, "mask has shape (5, 8), expected (6, 8), the shape of"),
    ("sparse24_compress", (weight, None), {}, TypeError, "mask is a NoneType"),
    ("sparse24_compress", (weight, ~mask | mask), {}, ValueError, "mask is malformed: of columns 0 to 3 of row 0 not"),
    ("sparse24_decompress", (values.int(), bitmask), {}, TypeError, "values has dtype torch.int32"),
    ("sparse24_decompress", (values[:, :3], bitmask), {}, ValueError, "values has shape (6, 3), expected in / 2 colum"),
    ("sparse24_decompress", (values, bitmask.int()), {}, TypeError, "bitmask has dtype torch.int32, expected torch.u"),
    (
        "sparse24_decompress",
        (values, bitmask[:5]),
        {},
        ValueError,
        "bitmask has shape (5, 1), expected (6, 1) because values is (6, 4)",
    ),
    ("sparse24_decompress", (values, bitmask | 7), {}, ValueError, "bitmask is malformed: of columns 0 to 3 of row 0"),
    ("sparse24_pack", (values, bitmask & 240), {}, ValueError, "bitmask is malformed: of columns 0 to 3 of row 0 not"),
    (
        "sparse24_pack",
        (values, bitmask),
        {"transposable": True},
        ValueError,
        "values has shape (6, 4), expected out to",
    ),
    ("sparse24_linear", (None, values, bitmask), {}, TypeError, "x is a NoneType"),
    ("sparse24_linear", (torch.tensor(1.0), values, bitmask), {}, ValueError, "x has no dimensions"),
    (
        "sparse24_linear",
        (x[:, :6], values, bitmask),
        {},
        ValueError,
        "values has shape (6, 4), expected (out, 3) because x is (3, 6)",
    ),
    ("sparse24_linear", (x, half, bitmask), {}, TypeError, "values has dtype torch.bfloat16, expected torch.float32 b"),
    ("sparse24_linear", (x, values, bitmask[:, :0]), {}, ValueError, "bitmask has shape (6, 0), expected (6, 1)"),
    ("sparse24_linear", (x, values, bitmask, values), {}, TypeError, "packed has dtype torch.float32 and shape (6, 4)"),
    ("sparse24_linear", (x, values, bitmask, bitmask[0]), {}, ValueError, "packed has 1 bytes, expected 1152: pack th"),
    ("sparse24_linear", (x, values, bitmask, None, down), {}, ValueError, "up is missing, expected both of down and u"),
    ("sparse24_linear", (x, values, bitmask, None, None, up), {}, ValueError, "down is missing, expected both of down"),
    ("sparse24_linear", (x, values, bitmask, None, down[:, :4], up), {}, ValueError, "down has shape (2, 4), expected"),
    ("sparse24_linear", (x, values, bitmask, None, down, up.T), {}, ValueError, "up has shape (2, 6), expected (6, 2)"),
    ("sparse24_linear", (x, values, bitmask, None, down.half(), up), {}, TypeError, "down has dtype torch.float16"),
    ("sparse24_linear", (x, values, bitmask), {"bias": bias[:5]}, ValueError, "bias has shape (5,), expected (6,)"),
    ("sparse24_linear", (x, values, bitmask), {"scale": float("nan")}, ValueError, "scale is nan, expected a finite"),
    ("sparse24_linear", (x, values.to("meta"), bitmask), {}, ValueError, "bitmask is on cpu, but values is on meta"),
    ("sparse24_linear_ste", (x, weight[:, :4], mask), {}, ValueError, "weight has shape (6, 4), expected (out, 8) bec"),
    ("sparse24_linear_ste", (x, weight.half(), mask), {}, TypeError, "weight has dtype torch.float16, expected torch."),
    ("sparse24_linear_ste", (x, weight, mask[:, :4]), {}, ValueError, "mask has shape (6, 4), expected (6, 8)"),
    ("sparse24_linear_ste", (x, weight, ~mask & mask), {}, ValueError, "mask is malformed: of columns 0 to 3 of row 0"),
    ("sparse24_linear_ste", (x, weight, mask), {"bias": bias.double()}, TypeError, "bias has dtype torch.float64"),
]


@pytest.mark.parametrize("name, args, kwargs, exception, message", BAD)
def test_bad_argument(name, args, kwargs, exception, message):
    with pytest.raises(exception) as twin:
        getattr(lrkernels, name)(*args, **kwargs)
    meta = "meta" in message  # a meta tensor takes the raw op to its fake, which makes the twin's own check
    with pytest.raises(exception if meta else RuntimeError) as raw:
        getattr(torch.ops.lrk, name)(*args, **kwargs)
    assert message in str(twin.value) and str(twin.value).startswith(f"{name}: ")
    assert str(raw.value).splitlines()[0] == str(twin.value)


@pytest.mark.parametrize("name", ("transposable", "method"))
def test_scalars_of_the_wrong_type(name):
    with pytest.raises(TypeError, match=f"sparse24_mask: {name} is a "):
        lrkernels.sparse24_mask(weight, **{name: 3})
