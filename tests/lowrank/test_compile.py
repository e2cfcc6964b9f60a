"""torch.compile with fullgraph, torch.export, and no recompilation for a new scale, seed or rank."""

import torch
from lowrank_cases import eager_linear, make_case
from torch._dynamo.testing import CompileCounterWithBackend

import lrkernels

CPU = torch.device("cpu")


def test_forward_and_backward_without_recompiling():
    counter = CompileCounterWithBackend("inductor")

    @torch.compile(fullgraph=True, backend=counter)
    def layer(x, down, up, weight, bias, gate, seed):
        return torch.ops.lrk.lowrank_linear(x, down, up, weight, bias, None, gate, None, seed, dropout=0.25)

    for trial in range(20):
        case = make_case(CPU, torch.float32, rank=4 + trial, gate="one", dropout=0.25).differentiable()
        case.gate = torch.tensor([0.1 * trial])
        case.seed = torch.tensor(trial * 10**12)
        arguments = (case.x, case.down, case.up, case.weight, case.bias, case.gate, case.seed)
        y = layer(*arguments)
        expected = eager_linear(*arguments[:5], None, case.gate, None, case.seed, scale=1.0, dropout=0.25)
        torch.testing.assert_close(y, expected)
        grads = torch.autograd.grad(y.pow(2).sum(), arguments[:5])
        for ours, eager in zip(grads, torch.autograd.grad(expected.pow(2).sum(), arguments[:5]), strict=True):
            torch.testing.assert_close(ours, eager, rtol=1e-4, atol=1e-4)
    assert counter.frame_count <= 2, "one compilation, and one more when the rank turns dynamic"


def test_the_twins_compile_too():
    case = make_case(CPU, torch.float32, weight=False)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def layer(x, down, up, bias):
        s = lrkernels.lowrank_project(x, down)
        return lrkernels.lowrank_expand(s, up, None, bias, scale=0.5) + lrkernels.lowrank_linear(x, down, up)

    y = layer(case.x, case.down, case.up, case.bias)
    torch.testing.assert_close(y, case.call(eager_linear) + eager_linear(*case.tensors[:3], scale=1.0, dropout=0.0))


def test_under_autocast():
    case = make_case(CPU, torch.float32).differentiable()

    @torch.compile(fullgraph=True, backend="aot_eager")
    def layer(x, down, up, weight):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return lrkernels.lowrank_linear(x, down, up, weight)

    y = layer(*case.tensors[:4])
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert case.down.grad.dtype == torch.float32 and case.x.grad.dtype == torch.float32
    exact = eager_linear(*case.tensors[:4], scale=1.0, dropout=0.0)
    leaves = (case.x, case.down, case.up, case.weight)
    answers = (exact, *torch.autograd.grad(exact.sum(), leaves))
    for ours, answer in zip((y, *(leaf.grad for leaf in leaves)), answers, strict=True):
        assert (ours - answer).abs().max() <= 0.02 * answer.abs().max()


class Layer(torch.nn.Module):
    def __init__(self, case):
        super().__init__()
        self.down, self.up = torch.nn.Parameter(case.down), torch.nn.Parameter(case.up)

    def forward(self, x):
        return lrkernels.lowrank_linear(x, self.down, self.up, scale=0.5)


def test_export_keeps_the_op():
    case = make_case(CPU, torch.float32)
    rows = torch.export.Dim("rows", min=2, max=64)
    program = torch.export.export(Layer(case), (case.x,), dynamic_shapes={"x": {0: rows}})
    targets = [node.target for node in program.graph.nodes if node.op == "call_function"]
    assert torch.ops.lrk.lowrank_linear.default in targets
    x = torch.randn(13, 33)
    torch.testing.assert_close(program.module()(x), eager_linear(x, case.down, case.up, scale=0.5, dropout=0.0))


def test_compiled_vmap():
    case = make_case(CPU, torch.float32)
    layer = torch.compile(
        torch.vmap(lambda x: lrkernels.lowrank_linear(x, case.down, case.up)), backend="aot_eager", fullgraph=True
    )
    x = torch.randn(4, 7, 33)
    torch.testing.assert_close(layer(x), eager_linear(x, case.down, case.up, scale=1.0, dropout=0.0))
