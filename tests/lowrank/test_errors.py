"""Every wrong argument raises before any work, names op and argument, and raw op and Python twin say the same."""

import inspect

import numpy as np
import pytest
import torch

import lrkernels
from lrkernels import ops
from lrkernels.ops._registration import raise_out_of_memory

x, down, up = torch.ones(3, 8), torch.ones(4, 8), torch.ones(6, 4)
weight, bias, core, base, s = torch.ones(6, 8), torch.ones(6), torch.ones(4, 4), torch.ones(3, 6), torch.ones(3, 4)
seed = torch.tensor(1)

# (op, positional arguments, keywords, exception of the twin, what the message must contain)
BAD = [
    ("lowrank_linear", (None, down, up), {}, TypeError, "x is a NoneType, expected a torch.Tensor"),
    ("lowrank_linear", (x, None, up), {}, TypeError, "down is a NoneType, expected a torch.Tensor"),
    ("lowrank_linear", (x, down, None), {}, TypeError, "up is a NoneType, expected a torch.Tensor"),
    ("lowrank_linear", (x.to_sparse(), down, up), {}, TypeError, "x has torch.sparse_coo layout, expected torch.strid"),
    ("lowrank_linear", (x, down, up, weight.to_sparse()), {}, TypeError, "weight has torch.sparse_coo layout"),
    ("lowrank_linear", (x, down, up), {"gate": torch.ones(4).to_sparse()}, TypeError, "gate has torch.sparse_coo lay"),
    ("lowrank_linear", (x.int(), down, up), {}, TypeError, "x has dtype torch.int32"),
    ("lowrank_linear", (x.to(torch.uint16), down, up), {}, TypeError, "x has dtype torch.uint16"),
    ("lowrank_linear", (x.to(torch.float8_e4m3fn), down, up), {}, TypeError, "x has dtype torch.float8_e4m3fn"),
    (
        "lowrank_linear",
        (x, down, up, weight.to(torch.float8_e5m2)),
        {},
        TypeError,
        "weight has dtype torch.float8_e5m2, expected torch.float32 because x is torch.float32",
    ),
    ("lowrank_linear", (x.to(torch.complex64), down, up), {}, TypeError, "x has dtype torch.complex64"),
    ("lowrank_linear", (torch.tensor(1.0), down, up), {}, ValueError, "x has no dimensions"),
    ("lowrank_linear", (x, down[0], up), {}, ValueError, "down has shape (8,), expected (rank, in)"),
    ("lowrank_linear", (x, down.T, up), {}, ValueError, "down has shape (8, 4), expected (rank, 8)"),
    (
        "lowrank_linear",
        (x, down, up.T),
        {},
        ValueError,
        "up has shape (4, 6), expected (out, 4) because down is (4, 8)",
    ),
    ("lowrank_linear", (x, down, up[None]), {}, ValueError, "up has shape (1, 6, 4)"),
    ("lowrank_linear", (x, down.double(), up), {}, TypeError, "down has dtype torch.float64, expected torch.float32"),
    ("lowrank_linear", (x, down, up.half()), {}, TypeError, "up has dtype torch.float16"),
    ("lowrank_linear", (x.bfloat16(), down.half(), up), {}, TypeError, "torch.bfloat16 or torch.float32 because x is"),
    ("lowrank_linear", (x, down, up, weight.T), {}, ValueError, "weight has shape (8, 6), expected (6, 8)"),
    ("lowrank_linear", (x, down, up, weight[0]), {}, ValueError, "weight has shape (8,), expected (out, in)"),
    ("lowrank_linear", (x, down, up, weight.bfloat16()), {}, TypeError, "weight has dtype torch.bfloat16"),
    ("lowrank_linear", (x.half(), down, up, weight), {}, TypeError, "weight has dtype torch.float32"),
    ("lowrank_linear", (x, down, up, weight, bias[:5]), {}, ValueError, "bias has shape (5,), expected (6,)"),
    ("lowrank_linear", (x, down, up, weight, bias[None]), {}, ValueError, "bias has shape (1, 6)"),
    ("lowrank_linear", (x, down, up, weight, bias.double()), {}, TypeError, "bias has dtype torch.float64"),
    ("lowrank_linear", (x, down, up), {"core": core[:3]}, ValueError, "core has shape (3, 4), expected (4, 4)"),
    ("lowrank_linear", (x, down, up), {"core": core.double()}, TypeError, "core has dtype torch.float64"),
    ("lowrank_linear", (x, down, up), {"gate": torch.ones(3)}, ValueError, "gate has shape (3,), expected (1,), (4,)"),
    ("lowrank_linear", (x, down, up), {"gate": torch.ones(2, 4)}, ValueError, "gate has shape (2, 4)"),
    ("lowrank_linear", (x, down, up), {"gate": torch.ones(4).double()}, TypeError, "gate has dtype torch.float64"),
    ("lowrank_linear", (x, down, up, weight), {"base": base}, ValueError, "base and weight were both given"),
    ("lowrank_linear", (x, down, up), {"base": base[:2]}, ValueError, "base has shape (2, 6), expected x's leading"),
    ("lowrank_linear", (x, down, up), {"base": base[0]}, ValueError, "base has shape (6,)"),
    ("lowrank_linear", (x, down, up), {"base": base.double()}, TypeError, "base has dtype torch.float64"),
    ("lowrank_linear", (x, down, up), {"scale": float("nan")}, ValueError, "scale is nan, expected a finite number"),
    ("lowrank_linear", (x, down, up), {"scale": float("-inf")}, ValueError, "scale is -inf, expected a finite number"),
    ("lowrank_linear", (x, down, up), {"scale": 1e300}, ValueError, "scale is 1e+300, expected a float32 number bec"),
    (
        "lowrank_linear",
        (x.half(), down, up),
        {"scale": -3.5e38},
        ValueError,
        "scale is -3.5e+38, expected a float32 number because x is torch.float16",
    ),
    ("lowrank_linear", (x, down, up), {"dropout": 0.5}, ValueError, "seed is missing"),
    (
        "lowrank_linear",
        (x, down, up),
        {"dropout": 1.5, "seed": seed},
        ValueError,
        "dropout is 1.500000, expected a prob",
    ),
    ("lowrank_linear", (x, down, up), {"dropout": -0.1, "seed": seed}, ValueError, "dropout is -0.100000"),
    ("lowrank_linear", (x, down, up), {"dropout": 0.5, "seed": seed.int()}, TypeError, "seed has dtype torch.int32"),
    (
        "lowrank_linear",
        (x, down, up),
        {"dropout": 0.5, "seed": seed[None]},
        TypeError,
        "seed has dtype torch.int64 and",
    ),
    ("lowrank_linear", (x, down.to("meta"), up), {}, ValueError, "down is on meta, but x is on cpu"),
    ("lowrank_linear", (x, down, up, weight.to("meta")), {}, ValueError, "weight is on meta"),
    ("lowrank_project", (x, down.T), {}, ValueError, "down has shape (8, 4), expected (rank, 8)"),
    ("lowrank_project", (x.bool(), down), {}, TypeError, "x has dtype torch.bool"),
    ("lowrank_project", (x, None), {}, TypeError, "down is a NoneType"),
    ("lowrank_project", (x.to_mkldnn(), down), {}, TypeError, "x has torch._mkldnn layout"),
    ("lowrank_project", (x, down), {"gate": torch.ones(5)}, ValueError, "gate has shape (5,)"),
    ("lowrank_project", (x, down), {"dropout": 0.5}, ValueError, "seed is missing"),
    ("lowrank_expand", (s, up.T), {}, ValueError, "up has shape (4, 6), expected (out, 4) because s is (3, 4)"),
    ("lowrank_expand", (s, up), {"base": base[:2]}, ValueError, "base has shape (2, 6), expected s's leading"),
    ("lowrank_expand", (s, up), {"bias": bias[:2]}, ValueError, "bias has shape (2,), expected (6,)"),
    ("lowrank_expand", (s, up), {"scale": float("inf")}, ValueError, "scale is inf"),
    ("lowrank_expand", (s, up), {"scale": 1e39}, ValueError, "scale is 1e+39, expected a float32 number because s is"),
    ("lowrank_expand", (s.long(), up), {}, TypeError, "s has dtype torch.int64"),
    ("lowrank_expand", (None, up), {}, TypeError, "s is a NoneType"),
    ("lowrank_expand", (s, up), {"base": base.to_sparse()}, TypeError, "base has torch.sparse_coo layout"),
    ("lowrank_merge", (weight, down, up.T), {}, ValueError, "up has shape (4, 6)"),
    ("lowrank_merge", (weight, None, up), {}, TypeError, "down is a NoneType"),
    ("lowrank_merge", (weight.to_sparse(), down, up), {}, TypeError, "weight has torch.sparse_coo layout"),
    ("lowrank_merge", (weight, down, up), {"scale": 1e39}, ValueError, "scale is 1e+39, expected a float32 number"),
    ("lowrank_merge", (weight[:5], down, up), {}, ValueError, "up has shape (6, 4), expected (5, rank) because weight"),
    ("lowrank_merge", (weight, down, up), {"gate": torch.ones(6, 4)}, ValueError, "gate has shape (6, 4)"),
    ("lowrank_merge", (weight, down[:, :5], up), {}, ValueError, "down has shape (4, 5), expected (rank, 8)"),
    ("lowrank_merge", (weight[0], down, up), {}, ValueError, "weight has shape (8,), expected (out, in)"),
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


@pytest.mark.parametrize("name", ops.__all__)
def test_not_a_tensor(name):
    function = getattr(lrkernels, name)
    parameters = inspect.signature(function).parameters.values()
    required = [p for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    with pytest.raises(TypeError, match=f"{name}: .* is a list, expected a torch.Tensor"):
        function(*[[1.0]] * len(required))


def test_scalars_of_the_wrong_type():
    with pytest.raises(TypeError, match="lowrank_linear: scale is a str"):
        lrkernels.lowrank_linear(x, down, up, scale="2")
    with pytest.raises(TypeError, match="lowrank_linear: dropout is a NoneType"):
        lrkernels.lowrank_linear(x, down, up, dropout=None)
    with pytest.raises(TypeError, match="lowrank_linear: scale is a Tensor, expected a float .* goes in gate"):
        lrkernels.lowrank_linear(x, down, up, scale=torch.tensor(2.0, requires_grad=True))
    with pytest.raises(ValueError, match="lowrank_linear: scale is too large an int, expected a finite number"):
        lrkernels.lowrank_linear(x, down, up, scale=10**400)


def test_a_scale_that_float32_holds_is_taken():
    largest = torch.finfo(torch.float32).max
    for dtype, scale in ((torch.float32, largest), (torch.bfloat16, -largest), (torch.float64, 1e300)):
        tensors = [t.to(dtype) for t in (x, down / 8, torch.zeros_like(up))]
        assert torch.equal(lrkernels.lowrank_linear(*tensors, scale=scale), torch.zeros(3, 6, dtype=dtype))
    y = lrkernels.lowrank_linear(x.double(), down.double(), up.double(), scale=1e300)
    torch.testing.assert_close(y, torch.full((3, 6), 32e300, dtype=torch.float64))
    assert torch.equal(lrkernels.lowrank_linear(x, down, up, scale=np.float32(2)), torch.full((3, 6), 64.0))


@pytest.mark.filterwarnings("ignore:.*quantize_per_tensor")
def test_quantised_tensors():
    x8, weight8 = (torch.quantize_per_tensor(t, 0.1, 0, torch.qint8) for t in (x, weight))
    for args, message in (
        ((x8, down, up), "lowrank_linear: x has dtype torch.qint8, expected torch.float32"),
        ((x, down, up, weight8), "lowrank_linear: weight has dtype torch.qint8, expected torch.float32"),
    ):
        with pytest.raises(TypeError, match=message):
            lrkernels.lowrank_linear(*args)
        with pytest.raises(RuntimeError, match=message):
            torch.ops.lrk.lowrank_linear(*args)


@pytest.mark.filterwarnings("ignore:.*nested tensors")
@pytest.mark.parametrize("layout", (torch.jagged, torch.strided), ids=str)
def test_nested_tensors(layout):
    nested = torch.nested.nested_tensor([x, x[:1]], layout=layout)
    with pytest.raises(TypeError, match="lowrank_linear: x has (torch.jagged|a nested) layout, expected torch.strided"):
        lrkernels.lowrank_linear(nested, down, up)


def test_a_refusal_under_autograd_names_the_op_that_was_called():
    factor = up.clone().requires_grad_()
    for args in ((x.to_sparse(), down, factor), (x, down.T, factor), (None, down, factor)):
        with pytest.raises((TypeError, ValueError), match="^lowrank_linear: "):
            lrkernels.lowrank_linear(*args)
        with pytest.raises(RuntimeError, match="^lowrank_linear: "):
            torch.ops.lrk.lowrank_linear(*args)


def test_no_memory_names_the_op_and_the_bytes():
    many = x[:1].expand(2**45, 8)  # s is asked for first: 2^45 rows of 4 floats
    for call in (lrkernels.lowrank_linear, torch.ops.lrk.lowrank_linear):
        with pytest.raises(RuntimeError, match=f"^lowrank_linear: torch could not allocate {2**49} bytes on cpu: "):
            call(many, down, up)
    with pytest.raises(RuntimeError, match="^lowrank_expand: torch could not allocate"):
        lrkernels.lowrank_expand(many[:, :4], up)


def test_no_memory_on_cuda_is_torchs_own_exception():
    for message in (
        "torch could not allocate 8 bytes on cuda:0: out of memory",
        "aten::linear failed: CUDA out of memory",
    ):
        with pytest.raises(torch.OutOfMemoryError, match=f"^lowrank_linear: {message}$"):
            raise_out_of_memory(RuntimeError(f"lowrank_linear: {message}"))
    raise_out_of_memory(RuntimeError("lowrank_linear: torch could not allocate 8 bytes on cpu: out of memory"))
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    with pytest.raises(torch.OutOfMemoryError, match="^lowrank_linear: "):
        lrkernels.lowrank_linear(x[:1].cuda().expand(2**40, 8), down.cuda(), up.cuda())


def test_wrong_device_on_cuda():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    with pytest.raises(ValueError, match="up is on cpu, but x is on cuda:0"):
        lrkernels.lowrank_linear(x.cuda(), down.cuda(), up)


def backward_arguments():
    grad, down, up = torch.randn(4, 6), torch.randn(2, 5), torch.randn(6, 2)
    x, projected, weight = torch.randn(4, 5), torch.randn(4, 2), torch.randn(6, 5)
    linear = (grad, down, up, x, projected, weight, torch.randn(2, 2), torch.randn(4, 2), torch.tensor(3))
    project = (projected, down, x, torch.randn(2), torch.tensor(3))
    return {
        "_lowrank_linear_backward": (linear, dict(scale=1.0, dropout=0.5, needs=31)),
        "_lowrank_project_backward": (project, dict(dropout=0.5, needs=19)),
        "_lowrank_expand_backward": ((grad, up, projected), dict(scale=1.0, needs=3)),
    }


@pytest.mark.parametrize("name", backward_arguments())
def test_backward_ops_check_what_was_saved(name):
    """Saved tensors come back through hooks that people write; a kernel would read past their end."""
    arguments, scalars = backward_arguments()[name]
    op = getattr(torch.ops.lrk, name)
    op(*arguments, **scalars)
    for position, tensor in enumerate(arguments):
        wrong = [tensor.to(torch.int8)]
        if tensor.dim():
            wrong += [tensor[:0], torch.cat([tensor, tensor], -1), tensor[None], tensor.double()]
        for value in wrong:
            changed = list(arguments)
            changed[position] = value
            with pytest.raises(RuntimeError, match="_backward: "):
                op(*changed, **scalars)


def test_a_hook_that_returns_another_shape_raises():
    x, down, up = torch.randn(7, 5), torch.randn(2, 5, requires_grad=True), torch.randn(6, 2, requires_grad=True)
    for changed in (x.shape, (7, 2)):
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: t, lambda t, changed=changed: t[:1] if t.shape == changed else t
        ):
            y = lrkernels.lowrank_linear(x, down, up)
        with pytest.raises(RuntimeError, match="lowrank_linear_backward: (x|projected) has shape"):
            y.sum().backward()
