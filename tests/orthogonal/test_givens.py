"""givens_apply on every backend: values and gradients against plane rotations in float64, and torch's machinery."""

import math

import numpy as np
import pytest
import torch
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.library import opcheck

import lrkernels
from lrkernels import reference, testing

op = torch.ops.lrk.givens_apply
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
BUTTERFLY = {n: tuple(2**k for k in range(n)) for n in range(14)}
SCHEDULES = {
    "one round": (8, (1,)),
    "butterfly": (64, BUTTERFLY[6]),
    "descending": (128, BUTTERFLY[7][::-1]),
    "odd width": (77, BUTTERFLY[7]),
    "no power of two": (53, (3, 6, 12, 24, 5, 7)),
    "one stride again and again": (20, (2,) * 9),
    "in any order": (40, (16, 1, 4, 2, 32, 8, 1)),
    "without pairs": (6, (6, 7, 100, 2**40)),
    "one feature": (1, (1, 2)),
    "two features": (2, (1, 1)),
    "no rounds": (9, ()),
    "more rounds than a launch takes": (12, (1, 3) * 90),
    "wider than a vector": (300, (1, 128, 2, 64, 256)),
}


def exact_givens(x, angles, strides, inverse=False):
    """One plane rotation after the other on NumPy columns."""
    y = x.astype(np.float64).copy()
    rounds = list(zip(angles.astype(np.float64), strides, strict=True))
    for angle, stride in reversed(rounds) if inverse else rounds:
        pair = 0
        for i in range(y.shape[-1]):
            j = i + stride
            if (i // stride) % 2 or j >= y.shape[-1]:
                continue
            c, s = math.cos(angle[pair]), math.sin(angle[pair]) * (-1 if inverse else 1)
            y[..., i], y[..., j] = c * y[..., i] - s * y[..., j], s * y[..., i] + c * y[..., j]
            pair += 1
    return y


def make(device, dtype, features, strides, leading=(5,), angle_dtype=None):
    x = torch.randn(*leading, features, dtype=torch.float64).to(dtype).to(device)
    angles = (3 * torch.randn(len(strides), features // 2, dtype=torch.float64)).to(angle_dtype or dtype)
    return x, angles.to(device)


def tolerance(dtype, size=1.0):
    """Half inputs are rotated in float32, so what is left is the result's own rounding."""
    return {torch.float32: 3e-6, torch.float64: 1e-13, torch.bfloat16: 2**-8, torch.float16: 2**-10}[dtype] * size


def assert_near(ours, exact, dtype, what):
    assert ours.dtype == dtype and ours.is_contiguous(), what
    exact = torch.as_tensor(exact)
    largest = exact.abs().amax().item() if exact.numel() else 0.0
    np.testing.assert_allclose(
        ours.detach().cpu().double().numpy(),
        exact.numpy(),
        rtol=0,
        atol=tolerance(dtype, max(largest, 1.0)),
        err_msg=what,
    )


@pytest.mark.parametrize("inverse", (False, True))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_values_and_gradients(device, schedule, dtype, inverse):
    features, strides = SCHEDULES[schedule]
    x, angles = make(device.device, dtype, features, strides, leading=(3, 4))
    x.requires_grad_(), angles.requires_grad_()
    y = op(x, angles, strides, inverse=inverse)
    wide_x, wide_angles = (t.detach().cpu().double().requires_grad_() for t in (x, angles))
    exact = exact_givens(wide_x.detach().numpy(), wide_angles.detach().numpy(), strides, inverse)
    assert_near(y, exact, dtype, "y")

    grad = torch.randn(y.shape, dtype=torch.float64).to(dtype)
    dx, dangles = torch.autograd.grad(y, (x, angles), grad.to(device.device))
    assert_near(
        dx, exact_givens(grad.double().numpy(), wide_angles.detach().numpy(), strides, not inverse), dtype, "dx"
    )
    plain = reference.givens_apply(wide_x, wide_angles, strides, inverse=inverse)
    (expected,) = torch.autograd.grad(plain, wide_angles, grad.double(), materialize_grads=True)
    # A half y was rounded once more than x, and the sum is over 12 rows.
    np.testing.assert_allclose(
        dangles.cpu().double(), expected, rtol=0, atol=30 * tolerance(dtype), err_msg="dangles"
    )  # fmt: skip


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16))
def test_half_with_float32_angles(device, dtype):
    x, angles = make(device.device, dtype, 96, BUTTERFLY[6], angle_dtype=torch.float32)
    angles.requires_grad_()
    y = lrkernels.givens_apply(x, angles, BUTTERFLY[6])
    assert_near(y, exact_givens(x.cpu().double().numpy(), angles.detach().cpu().numpy(), BUTTERFLY[6]), dtype, "y")
    (dangles,) = torch.autograd.grad(y.float().square().sum(), angles)
    assert dangles.dtype == torch.float32
    # A rotation keeps every row's norm.
    assert dangles.abs().max() < 96 * tolerance(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_inverse_undoes(device, dtype):
    x, angles = make(device.device, dtype, 1000, BUTTERFLY[10], leading=(6,))
    back = op(op(x, angles, BUTTERFLY[10]), angles, BUTTERFLY[10], inverse=True)
    torch.testing.assert_close(back, x, rtol=0, atol=8 * tolerance(dtype))


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
@pytest.mark.parametrize(
    "layout",
    {
        "transposed": lambda x: x.mT.contiguous().mT,
        "every other": lambda x: torch.stack([x, x], -1).flatten(-2)[..., ::2],
        "expanded": lambda x: x[:1].expand(x.shape),
        "rows of a wider matrix": lambda x: torch.cat([x, x], -1)[..., : x.shape[-1]],
        "odd offset": lambda x: torch.cat([x[..., :1], x], -1)[..., 1:],
        "three leading dimensions": lambda x: x.unflatten(0, (2, 1, 3)),
        "swapped leading dimensions": lambda x: x.unflatten(0, (2, 3)).transpose(0, 1),
    }.items(),
    ids=lambda layout: layout[0],
)
def test_strides_do_not_matter(device, dtype, layout):
    x, angles = make(device.device, dtype, 72, BUTTERFLY[6], leading=(6,))
    x = layout[1](x)
    y, expected = op(x, angles, BUTTERFLY[6]), op(x.contiguous(), angles, BUTTERFLY[6])
    torch.testing.assert_close(y, expected, rtol=0, atol=tolerance(dtype))
    grads = [
        torch.autograd.grad(op(*leaves, BUTTERFLY[6]).sin().sum(), leaves)
        for leaves in ([x.detach().requires_grad_(), angles.clone().requires_grad_()] for x in (x, x.contiguous()))
    ]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=10 * tolerance(dtype))


@pytest.mark.parametrize("leading", ((0,), (2, 0, 3), ()))
def test_leading_dimensions(device, leading):
    x, angles = make(device.device, torch.float32, 10, (1, 2), leading)
    x.requires_grad_(), angles.requires_grad_()
    y = lrkernels.givens_apply(x, angles, (1, 2))
    assert y.shape == x.shape
    dx, dangles = torch.autograd.grad(y.sum(), (x, angles))
    assert dx.shape == x.shape and (leading == () or dangles.eq(0).all())


def test_second_derivatives_of_a_vector():
    x = torch.randn(8, dtype=torch.float64, requires_grad=True)
    angles = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    for inverse in (False, True):
        apply = lambda x, angles: op(x, angles, (1, 2, 4), inverse=inverse)  # noqa: B023, E731
        assert gradcheck(apply, (x, angles)) and gradgradcheck(apply, (x, angles))


def test_one_column_of_a_transposed_matrix(device):
    """Its columns are not next to each other, and there is only one."""
    x = torch.randn(5, 4, device=device.device).T[:, :1]
    angles = torch.zeros(2, 0, device=device.device)
    assert x.stride() == (1, 4) and torch.equal(op(x, angles, (1, 2)), x)


def test_no_features(device):
    x, angles = make(device.device, torch.float32, 0, (1,), (3,))
    assert op(x, angles, (1,)).shape == (3, 0)


def test_extreme_values(device):
    x, angles = make(device.device, torch.float32, 32, BUTTERFLY[5])
    large = op(x * 1e37, angles, BUTTERFLY[5])
    torch.testing.assert_close(large, op(x, angles, BUTTERFLY[5]) * 1e37, rtol=1e-4, atol=1e32)
    huge_angle = torch.full_like(angles, 1e6)
    exact = exact_givens(x.cpu().numpy(), huge_angle.cpu().numpy(), BUTTERFLY[5])
    np.testing.assert_allclose(op(x, huge_angle, BUTTERFLY[5]).cpu().numpy(), exact, atol=3e-6 * 8)
    x[2, 3] = math.nan
    y = op(x, angles, BUTTERFLY[5])
    assert y[2].isnan().all() and y[[0, 1, 3, 4]].isfinite().all()


@pytest.mark.parametrize("rows", (1, 7, 8, 9, 300))
def test_any_number_of_rows_and_the_same_bits_again(device, rows):
    x, angles = make(device.device, torch.float32, 24, (1, 2, 4, 8), (rows,))
    results = []
    for _ in range(2):
        leaves = x.clone().requires_grad_(), angles.clone().requires_grad_()
        y = op(*leaves, (1, 2, 4, 8))
        results.append((y, *torch.autograd.grad(y.sin().sum(), leaves)))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    leaves = x.clone().requires_grad_(), angles.clone().requires_grad_()
    plain = reference.givens_apply(*leaves, (1, 2, 4, 8))
    for ours, theirs in zip(results[0], (plain, *torch.autograd.grad(plain.sin().sum(), leaves)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * rows**0.5)


def test_rows_that_shared_memory_cannot_hold():
    """Forced, and where the shape asks for it; a launch a pass, floats in between."""
    if (reason := testing.unavailable("cuda_emulated")) is not None:
        pytest.skip(reason)
    with testing.backend("cuda_emulated"):
        for name in ("odd width", "no power of two", "without pairs", "no rounds", "in any order"):
            features, strides = SCHEDULES[name]
            for dtype in (torch.float32, torch.bfloat16):
                leaves = [t.requires_grad_() for t in make("cpu", dtype, features, strides, (11,))]
                results = []
                for kernel in ("tile", "passes"):
                    with lrkernels.force(kernel), lrkernels.trace() as kernels:
                        y = op(*leaves, strides)
                        results.append((y, *torch.autograd.grad(y.float().sin().sum(), leaves)))
                    assert len(kernels) == 2 and all(kernel in k for k in kernels), kernels
                for a, b in zip(*results, strict=True):
                    torch.testing.assert_close(a, b, rtol=0, atol=10 * tolerance(dtype))
        wide = lrkernels.explain("givens_apply", torch.ones(2, 90_000), torch.zeros(1, 45_000), [1])
        assert wide[0].kernel.endswith("passes") and "shared memory" in wide[0].reason


# --- Derivatives of every order, and what is kept for them.


@pytest.mark.parametrize("inverse", (False, True))
def test_gradcheck_and_gradgradcheck(inverse):
    x, angles = make("cpu", torch.float64, 7, (1, 3, 2), (2, 2))
    x.requires_grad_(), angles.requires_grad_()
    apply = lambda x, angles: op(x, angles, (1, 3, 2), inverse=inverse)  # noqa: E731
    assert gradcheck(apply, (x, angles)) and gradgradcheck(apply, (x, angles))
    assert gradcheck(lambda x: apply(x, angles.detach()), (x,)) and gradgradcheck(
        lambda x: apply(x, angles.detach()), (x,)
    )


@pytest.mark.parametrize(("trains", "kept"), (("x", [(3, 4)]), ("angles", [(3, 4), (5, 8)])))
def test_what_is_saved(trains, kept):
    x, angles = make("cpu", torch.float32, 8, (1, 2, 4))
    (x if trains == "x" else angles).requires_grad_()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(tuple(t.shape)) or t, lambda t: t):
        lrkernels.givens_apply(x, angles, (1, 2, 4))
    assert sorted(saved) == kept


def test_forward_mode_raises():
    x, angles = make("cpu", torch.float32, 8, (1,))
    with forward_ad.dual_level():
        with pytest.raises(RuntimeError, match="givens_apply: forward-mode"):
            lrkernels.givens_apply(forward_ad.make_dual(x, x), angles, (1,))


def test_an_output_changed_in_place_raises():
    x, angles = make("cpu", torch.float32, 8, (1,))
    y = lrkernels.givens_apply(x, angles.requires_grad_(), (1,))
    y.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


# --- torch's machinery.


def test_opcheck(device):
    for dtype, angle_dtype in ((torch.float32, None), (torch.bfloat16, torch.float32)):
        x, angles = make(device.device, dtype, 9, (1, 2), (2, 3), angle_dtype)
        for inverse in (False, True):
            leaves = (x.clone().requires_grad_(), angles.clone().requires_grad_())
            opcheck(op.default, (*leaves, [1, 2]), {"inverse": inverse}, atol=0.02, rtol=0.02)
    opcheck(
        torch.ops.lrk._givens_backward.default,
        (x, x, angles),
        {"strides": [1, 2], "inverse": False},
        test_utils=("test_schema", "test_faketensor"),
    )


def test_compile():
    def layer(x, angles, back):
        y = lrkernels.givens_apply(x, angles, (1, 2, 4))
        return lrkernels.givens_apply(y.relu(), angles, (1, 2, 4), inverse=back)

    x, angles = (t.requires_grad_() for t in make("cpu", torch.float32, 8, (1, 2, 4)))
    compiled = torch.compile(layer, fullgraph=True)
    y, expected = compiled(x, angles, True), layer(x, angles, True)
    torch.testing.assert_close(y, expected)
    for ours, eager in zip(*(torch.autograd.grad(v.sum(), (x, angles)) for v in (y, expected)), strict=True):
        torch.testing.assert_close(ours, eager)


def test_transforms():
    x, angles = make("cpu", torch.float64, 8, (1, 2), (5,))
    apply = lambda x, angles: lrkernels.givens_apply(x, angles, (1, 2))  # noqa: E731
    many = angles + torch.arange(3.0, dtype=torch.float64)[:, None, None]
    for in_dims, arguments in (((0, None), (x[None].repeat(3, 1, 1), angles)), ((1, None), (x.mT, angles))):
        expected = torch.stack([apply(v, angles) for v in arguments[0].unbind(in_dims[0])])
        torch.testing.assert_close(torch.vmap(apply, in_dims)(*arguments), expected)
    torch.testing.assert_close(torch.vmap(apply, (None, 0))(x, many), torch.stack([apply(x, a) for a in many]))
    loss = lambda angles, x: apply(x, angles).sin().sum()  # noqa: E731
    per_sample = torch.vmap(torch.func.grad(loss), (None, 0))(angles, x)
    expected = torch.stack([torch.func.grad(loss)(angles, row) for row in x])
    torch.testing.assert_close(per_sample, expected)
    hessian = torch.func.jacrev(torch.func.jacrev(loss))(angles, x)
    torch.testing.assert_close(hessian, hessian.permute(2, 3, 0, 1))


def test_autocast(device):
    x, angles = make(device.device, torch.float32, 16, (1, 2))
    with torch.autocast(device.device.type, torch.bfloat16):
        y = lrkernels.givens_apply(x, angles, (1, 2))
    assert y.dtype == torch.bfloat16 and torch.equal(y, op(x.bfloat16(), angles, (1, 2)))


# --- Arguments.

x8, angles3 = torch.ones(3, 8), torch.ones(2, 4)
BAD = [
    ((None, angles3, [1, 2]), {}, TypeError, "x is a NoneType, expected a torch.Tensor"),
    ((x8, None, [1, 2]), {}, TypeError, "angles is a NoneType, expected a torch.Tensor"),
    ((x8.int(), angles3, [1, 2]), {}, TypeError, "x has dtype torch.int32, expected torch.float32"),
    ((torch.tensor(1.0), angles3, [1, 2]), {}, ValueError, "x has no dimensions, expected (..., features)"),
    ((x8, angles3[0], [1]), {}, ValueError, "angles has shape (4,), expected (rounds, features // 2)"),
    ((x8, angles3, [1]), {}, ValueError, "angles has shape (2, 4), expected (1, 4) because strides has 1 entries"),
    ((x8[:, :6], angles3, [1, 2]), {}, ValueError, "angles has shape (2, 4), expected (2, 3) because strides has 2"),
    ((x8, angles3.double(), [1, 2]), {}, TypeError, "angles has dtype torch.float64, expected torch.float32 because x"),
    ((x8.half(), angles3.bfloat16(), [1, 2]), {}, TypeError, "angles has dtype torch.bfloat16, expected torch.float16"),
    ((x8, angles3, [1, 0]), {}, ValueError, "strides holds 0, expected strides of at least 1"),
    ((x8, angles3, [1, -4]), {}, ValueError, "strides holds -4, expected strides of at least 1"),
]


@pytest.mark.parametrize(("arguments", "scalars", "kind", "message"), BAD, ids=[b[3][:40] for b in BAD])
def test_wrong_arguments(arguments, scalars, kind, message):
    with pytest.raises(kind) as caught:
        lrkernels.givens_apply(*arguments, **scalars)
    assert f"givens_apply: {message}" in str(caught.value)
    with pytest.raises(RuntimeError) as caught:
        op(*arguments, **scalars)
    assert message in str(caught.value) or ("NoneType" in message and "NoneType" in str(caught.value))


def test_wrong_arguments_of_the_twin_alone():
    with pytest.raises(TypeError, match="givens_apply: strides is a Tensor, expected a sequence of int"):
        lrkernels.givens_apply(x8, angles3, torch.tensor([1, 2]))
    with pytest.raises(TypeError, match="givens_apply: strides holds a float"):
        lrkernels.givens_apply(x8, angles3, [1, 2.0])
