"""Random shapes, strides, dtypes and magnitudes (hypothesis)."""

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lowrank_cases import assert_accurate, eager_linear, exact_linear, make_case

CPU = torch.device("cpu")
sizes = st.integers(1, 90)


@st.composite
def cases(draw):
    with_weight = draw(st.booleans())
    case = make_case(
        CPU,
        draw(st.sampled_from((torch.float32, torch.float64, torch.bfloat16, torch.float16))),
        tuple(draw(st.lists(st.integers(0, 9), max_size=3))),
        draw(sizes),
        draw(sizes),
        draw(st.integers(0, 40)),
        weight=with_weight,
        bias=draw(st.booleans()),
        core=draw(st.booleans()),
        gate=draw(st.sampled_from((None, "one", "rank", "token"))),
        base=not with_weight and draw(st.booleans()),
        scale=draw(st.sampled_from((1.0, 0.5, -2.0, 0.0))),
        dropout=draw(st.sampled_from((0.0, 0.0, 0.1, 0.9))),
    )
    magnitude = draw(st.sampled_from((1.0, 2.0**-8, 2.0**5)))
    case.x = case.x * magnitude
    for name in draw(st.sets(st.sampled_from(("down", "up", "weight", "core")))):
        tensor = getattr(case, name)
        if tensor is not None:
            setattr(case, name, tensor.mT.contiguous().mT)
    return case


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(cases())
def test_forward_and_backward(case):
    exact_case = case.wide()
    y_exact = exact_case.call(exact_linear)
    assert_accurate(case.call(torch.ops.lrk.lowrank_linear), case.call(eager_linear), y_exact, "y")
    grad = torch.ones_like(y_exact)
    ours = case.gradients(torch.ops.lrk.lowrank_linear, grad)
    eager = case.gradients(eager_linear, grad)
    exact = exact_case.gradients(exact_linear, grad)
    for name in ours:
        assert_accurate(ours[name], eager[name], exact[name], name)
