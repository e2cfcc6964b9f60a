"""What only a GPU has: graphs, streams, several devices, its generator. The values are tested on every backend."""

import pytest
import torch
from lowrank_cases import make_case

import lrkernels
from lrkernels import testing

if (reason := testing.unavailable("cuda")) is not None:
    pytest.skip(f"cuda: {reason}", allow_module_level=True)

CUDA = torch.device("cuda")


def dropout_case(device=CUDA, dtype=torch.bfloat16):
    return make_case(device, dtype, leading=(64,), dropout=0.25, gate="one").differentiable()


def step(case):
    y = lrkernels.lowrank_linear(*case.tensors, **case.scalars)
    leaves = [t for t in case.tensors if t is not None and t.requires_grad]
    return y, *torch.autograd.grad(y, leaves, torch.ones_like(y))


def assert_equal(ours, expected):
    for a, b in zip(ours, expected, strict=True):
        assert torch.equal(a, b)


def test_a_graph_replays_forward_and_backward_with_another_seed():
    case = dropout_case()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step(case)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step(case)
    for seed in (7, 10**12):
        case.seed.fill_(seed)
        case.x.data.copy_(torch.randn_like(case.x))
        graph.replay()
        assert_equal(captured, step(case))


def test_work_goes_to_the_current_stream():
    case = dropout_case()
    expected = step(case)
    values = {name: getattr(case, name).detach().clone() for name in ("x", "down", "up")}
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        for name in values:
            getattr(case, name).data.zero_()
        torch.cuda._sleep(50_000_000)  # tens of milliseconds: whoever does not wait for this stream reads the zeros
        for name, value in values.items():
            getattr(case, name).data.copy_(value)
        ours = step(case)
    stream.synchronize()
    assert_equal(ours, expected)


def test_another_device_than_the_current_one():
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    expected = step(dropout_case())
    torch.manual_seed(0)
    ours = step(dropout_case(torch.device("cuda:1")))
    assert torch.cuda.current_device() == 0 and all(t.device.index == 1 for t in ours)
    assert_equal([t.to(CUDA) for t in ours], expected)


def test_no_synchronization_and_no_generator():
    case = dropout_case()
    step(case)
    state = torch.cuda.get_rng_state()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(case)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(state, torch.cuda.get_rng_state())


@pytest.mark.parametrize("mode", ("default", "reduce-overhead"))
def test_compiled(mode):
    case = dropout_case()

    @torch.compile(fullgraph=True, mode=mode)
    def compiled(*tensors):
        return lrkernels.lowrank_linear(*tensors, **case.scalars)

    for _ in range(3):
        torch.compiler.cudagraph_mark_step_begin()
        y = compiled(*case.tensors)
        (dup,) = torch.autograd.grad(y, [case.up], torch.ones_like(y))
    expected = lrkernels.lowrank_linear(*case.tensors, **case.scalars)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(dup, torch.autograd.grad(expected, [case.up], torch.ones_like(expected))[0])


def test_out_of_memory_is_torchs_own_error():
    x = torch.ones(1, 1, device=CUDA).expand(2**21, 2**10)
    down, up = torch.ones(8, 2**10, device=CUDA), torch.ones(2**24, 8, device=CUDA)
    with pytest.raises(torch.OutOfMemoryError, match="lowrank_linear.*cuda:0"):
        lrkernels.lowrank_linear(x, down, up)
    assert lrkernels.lowrank_linear(torch.ones(3, 2**10, device=CUDA), down, up[:4]).shape == (3, 4)
