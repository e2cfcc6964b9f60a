"""Every wrong argument of lowrank_linear_indexed raises before any work, in the same words from op and twin."""

import pytest
import torch

import lrkernels

x, downs, ups, index = torch.ones(3, 8), torch.ones(2, 4, 8), torch.ones(2, 6, 4), torch.tensor([0, -1, 1])
weight, bias, base = torch.ones(6, 8), torch.ones(6), torch.ones(3, 6)
ranks, scales = torch.tensor([4, 2]), torch.ones(2)

BAD = [
    ((None, downs, ups, index), {}, TypeError, "x is a NoneType, expected a torch.Tensor"),
    ((x, None, ups, index), {}, TypeError, "downs is a NoneType, expected a torch.Tensor"),
    ((x, downs, None, index), {}, TypeError, "ups is a NoneType, expected a torch.Tensor"),
    ((x, downs, ups, None), {}, TypeError, "index is a NoneType, expected a torch.Tensor"),
    ((x.to_sparse(), downs, ups, index), {}, TypeError, "x has torch.sparse_coo layout, expected torch.strided"),
    ((x, downs, ups, index.to_sparse()), {}, TypeError, "index has torch.sparse_coo layout, expected torch.strided"),
    ((x.int(), downs, ups, index), {}, TypeError, "x has dtype torch.int32, expected torch.float32"),
    ((torch.tensor(1.0), downs, ups, index), {}, ValueError, "x has no dimensions, expected (..., features)"),
    ((x, downs[0], ups, index), {}, ValueError, "downs has shape (4, 8), expected (adapters, rank, in)"),
    ((x, downs, ups[0], index), {}, ValueError, "ups has shape (6, 4), expected (adapters, out, rank)"),
    (
        (x, downs.mT, ups, index),
        {},
        ValueError,
        "downs has shape (2, 8, 4), expected (adapters, rank, 8) because x is (3, 8)",
    ),
    (
        (x, downs, ups.mT, index),
        {},
        ValueError,
        "ups has shape (2, 4, 6), expected (2, out, 4) because downs is (2, 4, 8)",
    ),
    ((x, downs, ups[:1], index), {}, ValueError, "ups has shape (1, 6, 4), expected (2, out, 4) because downs is"),
    ((x, downs.double(), ups, index), {}, TypeError, "downs has dtype torch.float64, expected torch.float32"),
    (
        (x.half(), downs, ups.bfloat16(), index),
        {},
        TypeError,
        "ups has dtype torch.bfloat16, expected torch.float16 or",
    ),
    (
        (x, downs, ups, index.float()),
        {},
        TypeError,
        "index has dtype torch.float32, expected torch.int32 or torch.int6",
    ),
    ((x, downs, ups, index.bool()), {}, TypeError, "index has dtype torch.bool"),
    (
        (x, downs, ups, index[:2]),
        {},
        ValueError,
        "index has shape (2,), expected x's leading dimensions or (3,) because x is (3, 8)",
    ),
    ((x[None], downs, ups, index[:, None]), {}, ValueError, "index has shape (3, 1), expected x's leading dimensions"),
    ((x, downs, ups, torch.tensor(0)), {}, ValueError, "index has shape (), expected x's leading dimensions or (3,)"),
    (
        (x, downs, ups, torch.tensor([0, 2, 0])),
        {},
        ValueError,
        "index holds 2 for row 1, expected -1 (no adapter) or one of the 2 adapters of downs",
    ),
    ((x, downs, ups, torch.tensor([0, 1, -2])), {}, ValueError, "index holds -2 for row 2, expected -1 (no adapter)"),
    ((x, downs, ups, torch.tensor([9, 1, 0]).int()), {}, ValueError, "index holds 9 for row 0, expected -1"),
    (
        (x, downs[:0], ups[:0], index),
        {},
        ValueError,
        "index holds 0 for row 0, expected -1 (no adapter) or one of the 0",
    ),
    ((x, downs, ups, index, ranks.int()), {}, TypeError, "ranks has dtype torch.int32, expected torch.int64"),
    (
        (x, downs, ups, index, ranks[:1]),
        {},
        ValueError,
        "ranks has shape (1,), expected (2,) because downs is (2, 4, 8)",
    ),
    (
        (x, downs, ups, index, ranks + 1),
        {},
        ValueError,
        "ranks holds 5 for adapter 0, expected 0 to 4, the rank of dow",
    ),
    ((x, downs, ups, index, ranks - 3), {}, ValueError, "ranks holds -1 for adapter 1, expected 0 to 4"),
    ((x, downs, ups, index), {"scales": scales[:1]}, ValueError, "scales has shape (1,), expected (2,) because downs"),
    ((x, downs, ups, index), {"scales": torch.tensor(1.0)}, ValueError, "scales has shape (), expected (2,)"),
    ((x, downs, ups, index), {"scales": scales.double()}, TypeError, "scales has dtype torch.float64, expected torch."),
    (
        (x, downs, ups, index),
        {"weight": weight.T},
        ValueError,
        "weight has shape (8, 6), expected (6, 8) because ups is",
    ),
    ((x, downs, ups, index), {"weight": weight.half()}, TypeError, "weight has dtype torch.float16"),
    ((x, downs, ups, index), {"bias": bias[:2]}, ValueError, "bias has shape (2,), expected (6,)"),
    ((x, downs, ups, index), {"base": base[:2]}, ValueError, "base has shape (2, 6), expected x's leading dimensions"),
    ((x, downs, ups, index), {"base": base.double()}, TypeError, "base has dtype torch.float64"),
    (
        (x, downs, ups, index),
        {"weight": weight, "base": base},
        ValueError,
        "base and weight were both given, expected at",
    ),
    ((x, downs.to("meta"), ups, index), {}, ValueError, "downs is on meta, but x is on cpu"),
    ((x, downs, ups, index.to("meta")), {}, ValueError, "index is on meta, but x is on cpu"),
    ((x, downs, ups, index, ranks.to("meta")), {}, ValueError, "ranks is on meta, but x is on cpu"),
]


@pytest.mark.parametrize("args, kwargs, exception, message", BAD, ids=lambda value: value if type(value) is str else "")
def test_bad_argument(args, kwargs, exception, message):
    with pytest.raises(exception) as twin:
        lrkernels.lowrank_linear_indexed(*args, **kwargs)
    meta = "meta" in message  # a meta tensor takes the raw op to its fake, which makes the twin's own check
    with pytest.raises(exception if meta else RuntimeError) as raw:
        torch.ops.lrk.lowrank_linear_indexed(*args, **kwargs)
    assert message in str(twin.value) and str(twin.value).startswith("lowrank_linear_indexed: ")
    assert str(raw.value).splitlines()[0] == str(twin.value)


def test_a_refusal_under_autograd_names_the_op_that_was_called():
    factor = ups.clone().requires_grad_()
    for function, exception in (
        (lrkernels.lowrank_linear_indexed, ValueError),
        (torch.ops.lrk.lowrank_linear_indexed, RuntimeError),
    ):
        with pytest.raises(exception, match="^lowrank_linear_indexed: index holds 5 for row 0"):
            function(x, downs, factor, torch.tensor([5, 0, 0]))
