"""cayley_rectangular on every backend: against NumPy in float64, orthogonality, and torch's machinery."""

import numpy as np
import pytest
import torch
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.library import opcheck

import lrkernels
from lrkernels import reference

op = torch.ops.lrk.cayley_rectangular
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
EPSILON = {torch.float32: 2**-24, torch.float64: 2**-53, torch.bfloat16: 2**-8, torch.float16: 2**-11}
SHAPES = (
    (1, 1),
    (7, 1),
    (1, 5),
    (6, 6),
    (9, 4),
    (5, 12),
    (64, 64),
    (65, 65),
    (150, 70),
    (70, 150),
    (150, 150),
    (2, 3, 9, 5),
)


def exact_map(weight):
    """[(I + A)⁻¹(I − A); −2V(I + A)⁻¹] in float64, by solving."""
    if weight.shape[-2] < weight.shape[-1]:
        return exact_map(weight.swapaxes(-1, -2)).swapaxes(-1, -2)
    cols = weight.shape[-1]
    u, v = weight[..., :cols, :], weight[..., cols:, :]
    a, identity = u - u.swapaxes(-1, -2) + v.swapaxes(-1, -2) @ v, np.eye(cols)
    bottom = -2 * np.linalg.solve((identity + a).swapaxes(-1, -2), v.swapaxes(-1, -2)).swapaxes(-1, -2)
    return np.concatenate([np.linalg.solve(identity + a, identity - a), bottom], axis=-2)


def make(device, dtype, shape, norm=2.0):
    """A weight whose A has about this spectral norm."""
    rows, cols = max(shape[-2:]), min(shape[-2:])
    weight = torch.randn(*shape[:-2], rows, cols, dtype=torch.float64)
    u, v = weight[..., :cols, :], weight[..., cols:, :]
    size = torch.linalg.matrix_norm(u - u.mT + v.mT @ v, 2).clamp(min=1e-3)[..., None, None] / norm
    weight = torch.cat([u / size, v / size.sqrt()], -2)
    return (weight.mT if shape[-2] < shape[-1] else weight).contiguous().to(dtype).to(device)


def orthogonality_error(q):
    q = q.detach().cpu().double()
    q = q if q.shape[-2] >= q.shape[-1] else q.mT
    return torch.linalg.matrix_norm(q.mT @ q - torch.eye(q.shape[-1], dtype=q.dtype), 2).max().item()


def roundings(dtype):
    """Of a result that is computed in float32 or wider and rounded once."""
    return max(EPSILON[dtype], 40 * (2**-53 if dtype == torch.float64 else 2**-24))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients(device, shape, dtype):
    weight = make(device.device, dtype, shape).requires_grad_()
    q = op(weight)
    assert q.dtype == dtype and q.is_contiguous() and q.shape == weight.shape
    wide = weight.detach().cpu().double().requires_grad_()
    np.testing.assert_allclose(
        q.detach().cpu().double(), exact_map(wide.detach().numpy()), rtol=0, atol=roundings(dtype)
    )

    grad = torch.randn(shape, dtype=torch.float64).to(dtype)
    (ours,) = torch.autograd.grad(q, weight, grad.to(device.device))
    (exact,) = torch.autograd.grad(reference.cayley_rectangular(wide), wide, grad.double())
    assert ours.dtype == dtype and ours.is_contiguous()
    np.testing.assert_allclose(
        ours.cpu().double(), exact, rtol=0, atol=4 * roundings(dtype) * max(exact.abs().max().item(), 1.0)
    )


@pytest.mark.parametrize("norm", (0.0, 0.1, 3, 30, 300, 1000))
@pytest.mark.parametrize("shape", ((40, 40), (100, 40), (200, 200), (130, 300)), ids=str)
def test_orthogonality(device, shape, norm):
    """What the inverse of a badly conditioned I + A loses, the polish restores."""
    q = op(make(device.device, torch.float32, shape, max(norm, 1e-9)))
    assert orthogonality_error(q) < 5e-6
    assert orthogonality_error(op(make(device.device, torch.float64, shape, max(norm, 1e-9)))) < 1e-11


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16))
def test_a_half_result_is_the_float32_one_rounded(device, dtype):
    weight = make(device.device, dtype, (90, 50))
    exact = exact_map(weight.cpu().double().numpy())
    error = np.abs(op(weight).cpu().double().numpy() - exact)
    assert (error <= EPSILON[dtype] * np.abs(exact) + 4e-6).all()


def test_steps_are_taken_where_they_are_needed():
    for norm, needed in ((2.0, False), (1000.0, True)):
        weight = make("cpu", torch.float32, (300, 300), norm)
        with lrkernels.trace() as kernels:
            op(weight)
        steps = sum("mirror_sum" in kernel for kernel in kernels) - 2  # beside A and 2Z − I
        assert steps >= 1 if needed else steps == 0, (norm, kernels)


@pytest.mark.parametrize("norm", (30.0, 300.0, 1000.0))
def test_accuracy_at_large_norms(device, norm):
    """The error of the map and of its gradient is no more than twice that of plain torch, which pivots."""
    if norm > 300 and device.backend != "cpu":
        pytest.skip("a device takes one Newton step, whatever the norm is")
    weight = make(device.device, torch.float32, (200, 200), norm).requires_grad_()
    grad = torch.randn(200, 200).to(device.device)
    q = op(weight)
    wide = weight.detach().cpu().double().requires_grad_()
    exact = reference.cayley_rectangular(wide)
    plain = reference.cayley_rectangular(weight)
    for ours, theirs, true in (
        (q, plain, exact),
        (
            *(torch.autograd.grad(v, weight, grad)[0] for v in (q, plain)),
            torch.autograd.grad(exact, wide, grad.cpu().double())[0],
        ),
    ):
        errors = [(v.detach().cpu() - true.detach()).norm() / true.norm() for v in (ours, theirs)]
        assert errors[0] <= 2 * errors[1] + 1e-6, errors


@pytest.mark.parametrize(
    "layout",
    {
        "transposed": lambda w: w.mT.contiguous().mT,
        "every other": lambda w: torch.stack([w, w], -1).flatten(-2)[..., ::2],
        "rows of a wider matrix": lambda w: torch.cat([w, w], -1)[..., : w.shape[-1]],
        "expanded": lambda w: w[:1].expand(w.shape),
        "batch last": lambda w: w.movedim(0, -1).contiguous().movedim(-1, 0),
    }.items(),
    ids=lambda layout: layout[0],
)
@pytest.mark.parametrize("shape", ((2, 9, 5), (2, 5, 9), (2, 70, 70)), ids=str)
def test_strides_do_not_matter(device, layout, shape):
    weight = make(device.device, torch.float32, shape)
    results = []
    for strided in (layout[1](weight), layout[1](weight).contiguous()):
        leaf = strided.detach().requires_grad_()
        q = op(leaf)
        results.append((q, *torch.autograd.grad((q * torch.arange(1.0, q.shape[-1] + 1, device=q.device)).sum(), leaf)))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("shape", ((0, 0), (5, 0), (0, 5), (0, 4, 3), (2, 0, 3)), ids=str)
def test_empty(device, shape):
    weight = torch.ones(shape, device=device.device, requires_grad=True)
    q = lrkernels.cayley_rectangular(weight)
    (dweight,) = torch.autograd.grad(q.sum(), weight)
    assert q.shape == dweight.shape == torch.Size(shape)


def test_zero_weight(device):
    q = op(torch.zeros(6, 4, device=device.device))
    torch.testing.assert_close(q, torch.eye(6, 4, device=device.device))


def test_not_a_number_is_passed_on(device):
    weight = make(device.device, torch.float32, (2, 80, 80))
    weight[1, 3, 4] = float("nan")
    q = op(weight)
    assert q[0].isfinite().all() and q[1].isnan().all()


def test_the_same_bits_again(device):
    weight = make(device.device, torch.float32, (140, 100), 40.0)
    results = []
    for _ in range(2):
        leaf = weight.clone().requires_grad_()
        q = op(leaf)
        results.append((q, *torch.autograd.grad(q.sin().sum(), leaf)))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_kernels(device):
    weight = make(device.device, torch.float32, (300, 200))
    with lrkernels.trace() as kernels:
        op(weight)
    assert any("square_invert" in k for k in kernels) and any("mirror_sum" in k for k in kernels)
    assert any("lowrank" in k or k == "library_gemm" for k in kernels)
    plans = lrkernels.explain("cayley_rectangular", weight)
    assert {"mirror_sum", "invert", "linear"} <= {plan.primitive for plan in plans}
    remarks = ["steps follow" in plan.reason for plan in plans]
    assert sum(remarks) == (device.backend == "cpu")  # on CUDA they are in the plan


# --- Derivatives of every order.


@pytest.mark.parametrize("shape", ((3, 3), (4, 2), (2, 3), (2, 3, 2)), ids=str)
def test_gradcheck_and_gradgradcheck(shape):
    weight = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    assert gradcheck(op, (weight,)) and gradgradcheck(op, (weight,))


def test_backward_op_checks_what_was_saved():
    backward = torch.ops.lrk._cayley_rectangular_backward
    weight, inverse = torch.ones(6, 4), torch.ones(4, 4)
    with pytest.raises(RuntimeError, match=r"grad has shape \(5, 4\), expected \(6, 4\), the shape of weight"):
        backward(torch.ones(5, 4), weight, inverse)
    with pytest.raises(
        RuntimeError, match=r"inverse has shape \(4, 5\), expected weight's leading dimensions with 4, 4"
    ):
        backward(weight, weight, torch.ones(4, 5))
    with pytest.raises(RuntimeError, match="inverse has dtype torch.float64, expected torch.float32 because weight is"):
        backward(weight, weight, inverse.double())


def test_forward_mode_raises():
    weight = torch.randn(4, 3)
    with forward_ad.dual_level():
        with pytest.raises(RuntimeError, match="cayley_rectangular: forward-mode"):
            lrkernels.cayley_rectangular(forward_ad.make_dual(weight, weight))


# --- torch's machinery.


def test_opcheck(device):
    for dtype in (torch.float32, torch.bfloat16):
        for shape in ((6, 4), (2, 3, 5)):
            weight = make(device.device, dtype, shape)
            opcheck(op.default, (weight.clone().requires_grad_(),), atol=0.05, rtol=0.05)
            checks = ("test_schema", "test_faketensor")
            opcheck(torch.ops.lrk._cayley_rectangular_saving.default, (weight,), test_utils=checks)
            _, inverse = torch.ops.lrk._cayley_rectangular_saving(weight)
            opcheck(torch.ops.lrk._cayley_rectangular_backward.default, (weight, weight, inverse), test_utils=checks)


def test_compile():
    def layer(x, weight):
        return x.relu() @ lrkernels.cayley_rectangular(weight).mT

    x, weight = torch.randn(5, 4, requires_grad=True), torch.randn(6, 4, requires_grad=True)
    y, expected = torch.compile(layer, fullgraph=True)(x, weight), layer(x, weight)
    torch.testing.assert_close(y, expected)
    for ours, eager in zip(*(torch.autograd.grad(v.sum(), (x, weight)) for v in (y, expected)), strict=True):
        torch.testing.assert_close(ours, eager)


def test_transforms():
    weights = torch.randn(4, 5, 3, dtype=torch.float64)
    apply = lrkernels.cayley_rectangular
    expected = torch.stack([apply(w) for w in weights])
    torch.testing.assert_close(torch.vmap(apply)(weights), expected)
    torch.testing.assert_close(torch.vmap(apply, 2, 1)(weights.movedim(0, 2)), expected.movedim(0, 1))
    loss = lambda w: apply(w).sin().sum()  # noqa: E731
    per_sample = torch.vmap(torch.func.grad(loss))(weights)
    torch.testing.assert_close(per_sample, torch.stack([torch.func.grad(loss)(w) for w in weights]))
    hessian = torch.func.jacrev(torch.func.jacrev(loss))(weights[0])
    torch.testing.assert_close(hessian, hessian.permute(2, 3, 0, 1))


def test_autocast_keeps_the_dtype(device):
    weight = make(device.device, torch.float32, (40, 30)).requires_grad_()
    with torch.autocast(device.device.type, torch.bfloat16):
        q = lrkernels.cayley_rectangular(weight)
        (dweight,) = torch.autograd.grad(q.sum(), weight)
    assert q.dtype == dweight.dtype == torch.float32 and torch.equal(q, op(weight))


# --- Arguments.

BAD = [
    (None, TypeError, "weight is a NoneType, expected a torch.Tensor"),
    (torch.ones(3, 3, dtype=torch.int32), TypeError, "weight has dtype torch.int32, expected torch.float32"),
    (torch.ones(3), ValueError, "weight has shape (3,), expected (..., rows, cols)"),
]


@pytest.mark.parametrize(("weight", "kind", "message"), BAD, ids=[b[2][:40] for b in BAD])
def test_wrong_arguments(weight, kind, message):
    with pytest.raises(kind) as caught:
        lrkernels.cayley_rectangular(weight)
    assert f"cayley_rectangular: {message}" in str(caught.value)
    with pytest.raises(RuntimeError) as caught:
        op(weight)
    assert message in str(caught.value) or ("NoneType" in message and "NoneType" in str(caught.value))
