"""Wrong arguments: the Python twins and the raw ops refuse the same, in the same words."""

import pytest
import torch

import lrkernels

A = torch.ones(6, 4)
BAD = [
    ("sketch", (None, 3), {}, TypeError, "a is a NoneType, expected a torch.Tensor"),
    ("sketch", (A.int(), 3), {}, TypeError, "a has dtype torch.int32, expected torch.float32"),
    ("sketch", (A[0, 0], 3), {}, ValueError, "a has no dimensions"),
    ("sketch", (A, -1), {}, ValueError, "size is -1, expected at least 0"),
    (
        "sketch",
        (A, 3),
        {"kind": "countsketch"},
        ValueError,
        "kind is 'countsketch', expected 'rademacher', 'sparse_sign'",
    ),
    ("sketch", (A, 3), {"dim": 2}, ValueError, "dim is 2, expected a dimension of a, which has shape (6, 4)"),
    (
        "sketch",
        (A, 5),
        {"kind": "dct"},
        ValueError,
        "a sketch of size 5 was asked for, expected at most 4 of 4 features",
    ),
    ("sketch", (A, 9), {"kind": "hadamard", "dim": 0}, ValueError, "expected at most 8 of 6 features because kind is"),
    (
        "sketch",
        (A, 2, torch.arange(2)),
        {},
        ValueError,
        "columns was given, expected none because kind is 'rademacher'",
    ),
    (
        "sketch",
        (A, 2, torch.ones(2)),
        {"kind": "dct"},
        TypeError,
        "columns has dtype torch.float32, expected torch.int64",
    ),
    ("sketch", (A, 2, torch.arange(3)), {"kind": "dct"}, ValueError, "columns has shape (3,), expected (2,)"),
    (
        "unsketch",
        (A, 3),
        {"kind": "dct"},
        ValueError,
        "a sketch of size 4 was asked for, expected at most 3 of 3 features",
    ),
    ("unsketch", (A, -2), {}, ValueError, "full_size is -2, expected at least 0"),
    ("orthonormalize", (torch.ones(3),), {}, ValueError, "a has shape (3,), expected (..., rows, cols)"),
    ("range_finder", (A, 5), {}, ValueError, "rank is 5, expected 0 to 4 because a is (6, 4)"),
    ("rsvd", (A, -1), {}, ValueError, "rank is -1, expected 0 to 4"),
    ("rsvd", (A.long(), 1), {}, TypeError, "a has dtype torch.int64"),
    ("rsvd", (A, 2), {"oversample": -2}, ValueError, "oversample is -2, expected at least -1"),
    ("rsvd", (A, 2), {"power_iters": -1}, ValueError, "power_iters is -1, expected at least 0"),
    ("rsvd", (A, 2), {"check": "maybe"}, ValueError, "check is 'maybe', expected 'auto', 'raise', 'nan' or 'ignore'"),
    ("rsvd", (A, 2), {"broadening": -1.0}, ValueError, "broadening is -1.000000, expected a number of at least 0"),
    (
        "rsvd",
        (A, 2, torch.ones(6, 5)),
        {},
        ValueError,
        "q0 has shape (6, 5), expected a's shape with at most 4 columns",
    ),
    ("rsvd", (A, 2, torch.ones(6, 2).double()), {}, TypeError, "q0 has dtype torch.float64, expected torch.float32"),
    ("rsvd", (A * torch.nan, 2), {}, ValueError, "a holds NaN or Inf, expected finite numbers"),
    ("rsvd", (A * torch.inf, 2), {"check": "raise"}, ValueError, "a holds NaN or Inf, expected finite numbers"),
    ("low_rank_approx", (A, 7), {}, ValueError, "rank is 7, expected 0 to 4"),
    ("low_rank_approx", (A / 0, 2), {}, ValueError, "a holds NaN or Inf"),
    ("polar", (A,), {"method": "qdwh"}, ValueError, "method is 'qdwh', expected 'newton_schulz', 'cubic' or 'exact'"),
    ("polar", (A,), {"steps": -1}, ValueError, "steps is -1, expected at least 0"),
    (
        "polar",
        (A,),
        {"coefficients": [1.0, 2.0]},
        ValueError,
        "coefficients has 2 numbers, expected 3, or 3 for each of 5",
    ),
    (
        "polar",
        (A,),
        {"method": "cubic", "coefficients": [1.0] * 3},
        ValueError,
        "coefficients were given, expected none",
    ),
    ("spectral_norm_bound", (A.bool(),), {}, TypeError, "weight has dtype torch.bool"),
    ("spectral_norm_bound", (A,), {"iters": -1}, ValueError, "iters is -1, expected at least 0"),
]


@pytest.mark.parametrize(("name", "args", "kwargs", "kind", "message"), BAD, ids=[f"{b[0]}-{b[4][:40]}" for b in BAD])
def test_wrong_arguments(name, args, kwargs, kind, message):
    with pytest.raises(kind) as caught:
        getattr(lrkernels, name)(*args, **kwargs)
    assert f"{name}: " in str(caught.value) and message in str(caught.value)
    with pytest.raises(RuntimeError) as caught:
        getattr(torch.ops.lrk, name)(*args, **kwargs)
    assert message in str(caught.value) or ("NoneType" in message and "NoneType" in str(caught.value))


@pytest.mark.parametrize(
    ("name", "args", "kwargs"),
    [
        ("rsvd", (A, 2.5), {}),
        ("sketch", (A, 2), {"seed": 0.5}),
        ("polar", (A,), {"coefficients": "abc"}),
        ("spectral_norm_bound", (A,), {"iters": 2.0}),
    ],
)
def test_wrong_types(name, args, kwargs):
    with pytest.raises(TypeError):
        getattr(lrkernels, name)(*args, **kwargs)


def test_policies_for_what_is_not_finite():
    a = torch.randn(2, 6, 4)
    a[1, 0, 0] = torch.inf
    for output in lrkernels.rsvd(a, 2, check="nan"):
        assert output[0].isfinite().all() and output[1].isnan().all()
    clean = torch.randn(6, 4)
    for ours, expected in zip(lrkernels.rsvd(clean, 2, check="ignore"), lrkernels.rsvd(clean, 2), strict=True):
        assert torch.equal(ours, expected)
