"""sparse24_compress, sparse24_decompress, sparse24_pack: fakes, gradients, vmap, and their Python twins."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from lrkernels import reference
from lrkernels.ops import _registration as registration
from lrkernels.ops.sparse24 import _checks as checks

_lrk = torch.ops.lrk


class _Compress(registration.ReverseModeFunction):
    op_name = "sparse24_compress"

    @staticmethod
    def forward(weight, mask):
        return _lrk.sparse24_compress(weight, mask)

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, bitmask = output
        ctx.mark_non_differentiable(bitmask)
        ctx.save_for_backward(bitmask)

    @staticmethod
    def backward(ctx, grad, _):
        (bitmask,) = ctx.saved_tensors
        return sparse24_decompress(grad, bitmask), None


class _Decompress(registration.ReverseModeFunction):
    op_name = "sparse24_decompress"

    @staticmethod
    def forward(values, bitmask):
        return _lrk.sparse24_decompress(values, bitmask)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx, grad):
        (bitmask,) = ctx.saved_tensors
        values, _ = sparse24_compress(grad, reference.sparse24_positions(bitmask, grad.shape[1]))
        return values, None


def _apply_compress(weight, mask):
    return registration.apply_function(_Compress, weight, mask)


def _apply_decompress(values, bitmask):
    return registration.apply_function(_Decompress, values, bitmask)


def _apply_pack(values, bitmask, *, transposable=False):
    return _lrk.sparse24_pack(values.detach(), bitmask, transposable=transposable)


def sparse24_compress(weight: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The portable format of the 2:4 matrix ``weight ⊙ mask``, 9/16 of the bytes of a dense 16-bit one.

    Args:
        weight: ``[out, in]``, any strides; float32, float64, bfloat16 or float16; in a multiple of 4.
        mask: bool ``[out, in]``, two of every four of a row, for example from :func:`sparse24_mask`.

    Returns:
        ``values`` ``[out, in / 2]``, the kept entries of every row in order, bit for bit (−0.0, NaN and Inf too), and
        ``bitmask`` uint8 ``[out, ⌈in / 8⌉]``: bit i of byte j says whether entry 8j + i is kept; spare bits of a row
        are zero. The format is the same on every device.

    Differentiable in weight, any number of times; forward-mode differentiation raises.

    Raises:
        TypeError, ValueError: an argument of the wrong type, dtype, shape or device, or a mask that does not keep
            exactly two of every four, before anything is written. On CUDA that is known after one synchronization.
    """
    return _call_compress((weight, mask), {})


def sparse24_decompress(values: Tensor, bitmask: Tensor) -> Tensor:
    """The dense ``[out, in]`` matrix of what :func:`sparse24_compress` made, zero where nothing was kept.

    Args:
        values: ``[out, in / 2]``; float32, float64, bfloat16 or float16.
        bitmask: uint8 ``[out, ⌈in / 8⌉]``.

    Differentiable in values, any number of times; forward-mode differentiation raises.

    Raises:
        TypeError, ValueError: an argument of the wrong type, dtype, shape or device, or a malformed bitmask (a nibble
            without exactly two bits, spare bits that are set), before anything is written. On CUDA that is known after
            one synchronization.
    """
    return _call_decompress((values, bitmask), {})


def sparse24_pack(values: Tensor, bitmask: Tensor, *, transposable: bool = False) -> Tensor:
    """The same numbers in the order in which this device's kernels read them: a cache for :func:`sparse24_linear`.

    Make it again after a change of values or a move to another device; it is not to be stored.

    Args:
        values: ``[out, in / 2]``; float32, float64, bfloat16 or float16.
        bitmask: uint8 ``[out, ⌈in / 8⌉]``.
        transposable: the mask keeps two of every four in columns too (it is not looked at again), and the packing is to
            serve the gradient of the input as well. Must then be said to :func:`sparse24_linear` too.

    Returns:
        uint8, one dimension; empty where the kernels read the portable format (float64).

    Raises:
        TypeError, ValueError: as :func:`sparse24_decompress`.
    """
    return _call_pack((values, bitmask), {"transposable": transposable})


def _fake_compress(weight, mask):
    checks.check_compress("sparse24_compress", weight, mask)
    out, features = weight.shape
    return weight.new_empty(out, features // 2), weight.new_empty(out, (features + 7) // 8, dtype=torch.uint8)


def _fake_decompress(values, bitmask):
    checks.check_format("sparse24_decompress", values, bitmask)
    return values.new_empty(values.shape[0], 2 * values.shape[1])


def _fake_pack(values, bitmask, *, transposable=False):
    checks.check_pack("sparse24_pack", values, bitmask, transposable)
    return bitmask.new_empty(checks.packed_bytes(values, transposable))


# --- The plain twins refuse what the kernels refuse, and move bits: a copy of a half NaN may be another NaN ---


def _bits(tensor: Tensor) -> Tensor:
    return tensor.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.dtype.itemsize])


def _plain_compress(weight, mask):
    checks.check_malformed("sparse24_compress", "mask", mask)
    values, bitmask = reference.sparse24_compress(_bits(weight), mask)
    return values.view(weight.dtype), bitmask


def _checked_format(op, values, bitmask):
    kept = reference.sparse24_positions(bitmask, 8 * bitmask.shape[1])
    features = 2 * values.shape[1]
    checks.check_malformed(op, "bitmask", kept[:, :features])
    if bool(kept[:, features:].any()):
        row = int(kept[:, features:].any(1).nonzero()[0])
        raise ValueError(
            f"{op}: bitmask is malformed: of columns {features - 4} to {features - 1} of row {row} not exactly two are "
            "kept, or bits past the last column are set"
        )


def _plain_decompress(values, bitmask):
    _checked_format("sparse24_decompress", values, bitmask)
    return reference.sparse24_decompress(_bits(values), bitmask).view(values.dtype)


def _plain_pack(values, bitmask, *, transposable=False):
    _checked_format("sparse24_pack", values, bitmask)
    return reference.sparse24_pack(values, bitmask, transposable=transposable)


# --- What the twins say of a call that the op refused; under torch.func there are no values to look at ---


def _check_compress(op, weight, mask):
    checks.check_compress(op, weight, mask)
    if not registration.transforming():
        checks.check_malformed(op, "mask", mask)


def _check_decompress(op, values, bitmask):
    checks.check_format(op, values, bitmask)
    if not registration.transforming():
        _checked_format(op, values, bitmask)


def _check_pack(op, values, bitmask, transposable=False):
    checks.check_pack(op, values, bitmask, transposable)
    if not registration.transforming():
        _checked_format(op, values, bitmask)


# --- Registration ---

for _name, _fake, _plain, _check in (
    ("sparse24_compress", _fake_compress, _plain_compress, checks.check_compress),
    ("sparse24_decompress", _fake_decompress, _plain_decompress, checks.check_format),
    ("sparse24_pack", _fake_pack, _plain_pack, checks.check_pack),
):
    registration.register_fake(_name, _fake)
    registration.register_fallback(_name, _plain, partial(_check, _name))
    registration.register_no_autocast(_name)
    registration.register_vmap(_name)

registration.register_autograd("sparse24_compress", _apply_compress)
registration.register_autograd("sparse24_decompress", _apply_decompress)
registration.register_autograd("sparse24_pack", _apply_pack)

_call_compress = registration.twin("sparse24_compress", _apply_compress, _check_compress)
_call_decompress = registration.twin("sparse24_decompress", _apply_decompress, _check_decompress)
_call_pack = registration.twin("sparse24_pack", _apply_pack, _check_pack)
