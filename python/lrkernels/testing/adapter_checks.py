"""What every adapter must do, whatever it computes, as checks that name what is wrong and by how much."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.gradcheck import GradcheckError, gradcheck

from lrkernels.adapters import AdaptedLinear, Adapter
from lrkernels.nn import replace_linear

HALF_DTYPES = (torch.bfloat16, torch.float16)


class OwnForward(nn.Linear):
    """A base layer that has to be called: what it computes is not x·weightᵀ + bias."""

    def forward(self, x: Tensor) -> Tensor:
        return 2.0 * super().forward(x)


@dataclass
class Subject:
    """Makes the layers that the checks look at."""

    adapter_class: type[Adapter]
    in_features: int
    out_features: int
    prepare: Callable[[Adapter], None] | None
    args: tuple = ()
    options: dict[str, Any] = field(default_factory=dict)

    def base(self, dtype: torch.dtype = torch.float64, kind: type[nn.Linear] = nn.Linear, device: Any = None):
        return kind(self.in_features, self.out_features, dtype=dtype, device=device)

    def wrap(self, base_layer: nn.Linear) -> AdaptedLinear:
        return self.adapter_class.wrap(base_layer, *self.args, **self.options)

    def trained(self, dtype: torch.dtype = torch.float64) -> AdaptedLinear:
        """A layer outside training, as if it had been trained: random parameters, and what ``prepare`` does."""
        layer = self.wrap(self.base(dtype)).eval()
        for parameter in trained_parameters(layer):
            nn.init.normal_(parameter, std=0.5)
        if self.prepare is not None:
            self.prepare(layer.adapter)
        return layer

    def input(self, *leading: int, dtype: torch.dtype = torch.float64) -> Tensor:
        return torch.randn(*(leading or (5,)), self.in_features, dtype=dtype)


def trained_parameters(layer: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in layer.parameters() if parameter.requires_grad]


def require(holds: bool, message: str) -> None:
    if not holds:
        raise AssertionError(message)


def require_close(what: str, actual: Tensor, expected: Tensor, relative: float = 1e-10) -> str:
    """At most ``relative`` times the largest expected value apart; returns the finding in words."""
    require(actual.shape == expected.shape, f"{what} has shape {tuple(actual.shape)}, not {tuple(expected.shape)}")
    if expected.numel() == 0:
        return f"{what} is empty"
    error = (actual.double() - expected.double()).abs().max().item()
    allowed = relative * max(expected.double().abs().max().item(), 1.0)
    finding = f"{what} differs by up to {error:.3g}, allowed {allowed:.3g}"
    require(error <= allowed, finding)  # NaN fails too
    return finding


def bits(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: t.detach().clone().reshape(-1).view(torch.uint8) for name, t in tensors.items()}


def require_same_bits(what: str, actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    require(list(actual) == list(expected), f"{what} has the entries {list(actual)}, not {list(expected)}")
    for name, value in bits(actual).items():
        changed = int((value != expected[name]).sum())
        require(changed == 0, f"{what}: {changed} bytes of {name} changed")


def check_neutral(subject: Subject) -> str:
    """At the start the layer computes what its base layer did, in training and outside."""
    base = subject.base()
    original, x = copy.deepcopy(base), subject.input()
    layer = subject.wrap(base)
    require_close("the output of a new layer in training", layer(x), original(x))
    return require_close("the output of a new layer", layer.eval()(x), original(x))


def check_reset(subject: Subject) -> str:
    """reset_parameters fills every tensor of the adapter, at every call, so that the layer computes its base again."""
    layer, x = subject.trained(), subject.input()
    shared = {id(t) for option in (*subject.args, *subject.options.values()) for t in _tensors(option)}
    own = {name: t for name, t in _named_tensors(layer.adapter) if t.is_floating_point() and id(t) not in shared}
    base_output = layer.base_layer(x)
    for _ in range(2):
        with torch.no_grad():
            for tensor in own.values():
                tensor.fill_(torch.nan)
        layer.reset_parameters()
        left = [name for name, tensor in own.items() if not tensor.isfinite().all()]
        require(not left, f"reset_parameters did not fill {', '.join(left)}")
        finding = require_close("the output after reset_parameters", layer(x), base_output)
        for parameter in trained_parameters(layer):
            nn.init.normal_(parameter, std=0.5)
    return finding


def _tensors(option: Any) -> list[Tensor]:
    return [t for _, t in _named_tensors(option)] if isinstance(option, nn.Module) else [option]


def _named_tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(), *module.named_buffers()]


def check_learns(subject: Subject) -> str:
    """Every trained parameter gets a finite gradient that is not zero, and the base layer gets none."""
    layer = subject.trained().train()
    layer(subject.input()).square().sum().backward()
    trained = dict(layer.adapter.named_parameters())
    require(any(p.requires_grad for p in trained.values()), "the adapter has no trained parameter")
    for name, parameter in trained.items():
        if parameter.requires_grad:
            require(parameter.grad is not None, f"{name} is trained but got no gradient")
            require(bool(parameter.grad.isfinite().all()), f"the gradient of {name} is not finite")
            require(bool(parameter.grad.any()), f"the gradient of {name} is zero everywhere")
        require(parameter.requires_grad or parameter.grad is None, f"{name} is frozen but got a gradient")
    require(all(p.grad is None for p in layer.base_layer.parameters()), "the base layer got a gradient")
    count = sum(p.numel() for p in trained_parameters(layer))
    return f"{count} trained numbers beside {layer.base_layer.weight.numel()} of the weight"


def check_gradients(subject: Subject) -> str:
    """Gradients of x and of every trained parameter are those of finite differences, dropout included."""
    layer = subject.trained().train()
    inputs = {"x": subject.input(3).requires_grad_()}
    inputs.update((name, p) for name, p in layer.named_parameters() if p.requires_grad)
    for checked in inputs:

        def forward(value: Tensor, checked: str = checked) -> Tensor:
            torch.manual_seed(0)  # the same random draws at every evaluation
            values = {**inputs, checked: value}
            return torch.func.functional_call(layer, values, (values.pop("x"),))

        try:
            gradcheck(forward, inputs[checked], fast_mode=True)
        except GradcheckError as error:
            raise AssertionError(f"the gradient of {checked}: {' '.join(str(error).split()[:14])} …") from error
    return f"finite differences in float64 for {', '.join(inputs)}"


def check_merge(subject: Subject) -> str:
    """The merged weight computes what the layer does; an adapter without a matrix refuses to merge."""
    layer, x = subject.trained(), subject.input()
    expected = layer(x)
    if not layer.mergeable:
        try:
            layer.merge()
        except TypeError as refusal:
            require(not layer.merged, "merge() raised and yet left the layer merged")
            return f"refused: {refusal}"
        raise AssertionError("merge() accepted an adapter that has neither delta() nor merged(weight)")
    effect = (expected - layer.base_layer(x)).abs().max().item()
    require(effect > 1e-3, f"random parameters change the output by {effect:.3g} only; let prepare= turn the update on")
    require_close("layer.weight", layer.weight, layer.to_linear().weight)
    layer.merge()
    require_close("the output of the merged layer", layer(x), expected)
    layer.unmerge()
    with torch.no_grad():
        for parameter in trained_parameters(layer):
            parameter.mul_(0.75)
    expected = layer(x)
    layer.merge()
    return require_close("the output of the layer that trained on and was merged again", layer(x), expected)


def check_unmerge(subject: Subject) -> str:
    """Merging and unmerging change no bit of any parameter, buffer or output."""
    layer, x = subject.trained(torch.bfloat16), subject.input(dtype=torch.bfloat16)
    if not layer.mergeable:
        return "cannot be merged"
    output_then = layer(x)
    state, output = bits(layer.state_dict()), bits({"output": output_then})
    layer.merge()
    require_close("the output of the layer merged in bfloat16", layer(x), output_then, relative=0.05)
    require_same_bits("the state_dict of a merged layer", layer.state_dict(), state)
    layer.unmerge()
    require_same_bits("after unmerge(), the state_dict", layer.state_dict(), state)
    require_same_bits("after unmerge(), the layer", {"output": layer(x)}, output)
    return f"{len(state)} tensors and the output, bit by bit in bfloat16"


def check_frozen(subject: Subject) -> str:
    """replace_linear leaves the adapter alone to train, and a training step changes neither base layer nor input.

    The adapter holds no tensor of the base layer, which would be in every state_dict twice.
    """
    model = nn.ModuleDict({"layer": subject.base(), "other": subject.base()})
    before = bits(model["layer"].state_dict())
    replace_linear(model, subject.wrap, target_modules=["layer"])
    layer, x = model["layer"], subject.input()
    own = {f"layer.adapters.default.{n}" for n, p in layer.adapter.named_parameters() if p.requires_grad}
    base_tensors = {id(tensor) for _, tensor in _named_tensors(layer.base_layer)}
    held = [name for name, tensor in _named_tensors(layer.adapter) if id(tensor) in base_tensors]
    require(not held, f"the adapter holds the base layer's tensors: {', '.join(held)}")
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    require(trained == own, f"after replace_linear {sorted(trained)} train, expected {sorted(own)}")
    if subject.prepare is not None:
        subject.prepare(layer.adapter)
    input_before = bits({"x": x})
    layer(x).square().sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    require_same_bits("the base layer in a training step", layer.base_layer.state_dict(), before)
    require_same_bits("the input", {"x": x}, input_before)
    return f"trains {', '.join(sorted(own))}"


def check_compile(subject: Subject) -> str:
    """torch.compile(fullgraph=True) takes a training step of the layer whole, with the same output and gradients."""
    layer, x = subject.trained().train(), subject.input()
    torch.compiler.reset()  # every adapter compiles the same AdaptedLinear.forward, which has a limit
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    values = {}
    for name, run in (("eager", layer), ("compiled", compiled)):
        torch.manual_seed(0)
        y = run(x)
        gradients = torch.autograd.grad(y.square().sum(), trained_parameters(layer))
        values[name] = torch.cat([y.detach().reshape(-1), *(g.reshape(-1) for g in gradients)])
    return require_close("the compiled layer, its output and gradients,", values["compiled"], values["eager"])


def check_state_dict(subject: Subject) -> str:
    """A state_dict, taken merged or not, makes another layer compute the same to the last bit."""
    layer, other, x = subject.trained(), subject.trained(), subject.input()
    expected, state = bits({"output": layer(x)}), bits(layer.state_dict())
    if layer.mergeable:
        layer.merge()
        require_same_bits("the state_dict of a merged layer", layer.state_dict(), state)
    other.load_state_dict(layer.state_dict())
    require_same_bits("the layer that loaded the state_dict", {"output": other(x)}, expected)
    return f"keys {', '.join(state)}"


def check_copies(subject: Subject) -> str:
    """deepcopy and pickle make layers that compute the same and share nothing."""
    layer, x = subject.trained(), subject.input()
    expected = bits({"output": layer(x)})
    copies = {"deepcopy": copy.deepcopy(layer), "pickle": pickle.loads(pickle.dumps(layer))}
    with torch.no_grad():
        for tensor in (*layer.parameters(), *layer.buffers()):
            tensor.zero_()
    for name, other in copies.items():
        require_same_bits(f"the layer made by {name}, after the original was zeroed,", {"output": other(x)}, expected)
    return "deepcopy and pickle"


def check_meta(subject: Subject) -> str:
    """The layer can be made on the meta device, and filled by load_state_dict or by to_empty and reset_parameters."""
    source, x = subject.trained(), subject.input()
    layer = subject.wrap(subject.base(device="meta")).eval()
    real = [name for name, t in (*layer.named_parameters(), *layer.named_buffers()) if not t.is_meta]
    require(not real, f"over a base on the meta device {', '.join(real)} are not on it")
    require(layer(x.to("meta")).shape == source(x).shape, "the output on the meta device has another shape")
    layer.load_state_dict(source.state_dict(), assign=True)
    require_close("the layer filled by load_state_dict", layer(x), source(x))
    empty, base = subject.wrap(subject.base(device="meta")).eval().to_empty(device="cpu"), subject.base()
    empty.base_layer.load_state_dict(base.state_dict())
    empty.reset_parameters()
    return require_close("the layer filled by reset_parameters", empty(x), base(x))


def check_dtypes(subject: Subject) -> str:
    """Over a base of any dtype the output has its dtype and is accurate; parameters are float32 over half precision."""
    for dtype in (torch.float32, *HALF_DTYPES):
        layer, x = subject.trained(dtype), subject.input(dtype=dtype)
        kept = {p.dtype for p in trained_parameters(layer)}
        require(kept == {torch.float32}, f"over a {dtype} base the trained parameters are {kept}, not float32")
        exact = copy.deepcopy(layer).double()(x.double())
        y = layer(x)
        require(y.dtype == dtype, f"over a {dtype} base the output is {y.dtype}")
        finding = require_close(f"the {dtype} output", y, exact, relative=8 * torch.finfo(dtype).eps)
    layer = subject.trained(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(subject.input(dtype=torch.float32))
    require(y.dtype == torch.bfloat16, f"under bfloat16 autocast the output is {y.dtype}")
    return finding


def check_shapes(subject: Subject) -> str:
    """x may have any leading dimensions, none or a zero among them, and any strides."""
    layer, x = subject.trained(), subject.input(6)
    expected = layer(x)
    strided = torch.randn(subject.in_features, 6, dtype=x.dtype).mT.copy_(x)
    for name, shaped, rows in (
        ("two leading dimensions", x.reshape(2, 3, -1), expected.reshape(2, 3, -1)),
        ("no leading dimension", x[0], expected[0]),
        ("no rows", x[:0], expected[:0]),
        ("a transposed x", strided, expected),
    ):
        require_close(f"the output for {name}", layer(shaped), rows)
    return "leading dimensions 0, 1 and 2, no rows, transposed"


def check_base_forward(subject: Subject) -> str:
    """Over a base layer with a forward of its own, the layer starts as that, not as x·weightᵀ + bias, and runs once."""
    base, x = subject.base(kind=OwnForward), subject.input()
    expected, calls = base(x), []
    layer = subject.wrap(base)
    base.register_forward_hook(lambda *_: calls.append(1))
    finding = require_close("the output over a base with its own forward", layer(x), expected)
    require(len(calls) == 1, f"a base with its own forward ran {len(calls)} times in one forward")
    return finding


CHECKS: dict[str, Callable[[Subject], str]] = {
    "neutral": check_neutral,
    "reset": check_reset,
    "learns": check_learns,
    "gradients": check_gradients,
    "merge": check_merge,
    "unmerge": check_unmerge,
    "frozen": check_frozen,
    "compile": check_compile,
    "state_dict": check_state_dict,
    "copies": check_copies,
    "meta": check_meta,
    "dtypes": check_dtypes,
    "shapes": check_shapes,
    "base_forward": check_base_forward,
}


def check_adapter(
    adapter_class: type[Adapter],
    *args: Any,
    only: str | Iterable[str] | None = None,
    prepare: Callable[[Adapter], None] | None = None,
    in_features: int = 12,
    out_features: int = 10,
    **options: Any,
) -> dict[str, str]:
    """Check what an adapter of a frozen linear layer must do, whatever it computes; ``args`` and ``options`` make it.

        for name, finding in check_adapter(LoRA, r=4, alpha=8).items():
            print(f"{name}: {finding}")

    neutral (a new layer computes what its base did), reset (and does again after reset_parameters), learns, gradients
    (against finite differences in float64), merge (= forward), unmerge (the same bits), frozen, compile (fullgraph;
    clears torch.compile's caches), state_dict, copies, meta, dtypes, shapes, base_forward: the docstring of
    ``check_NAME`` in this module says what each asks.
    ``only`` names those to run: all but gradients, of an adapter whose gradient is not the derivative on purpose (OFT's
    goes straight through the scaling of ``coft_eps`` where that binds). ``prepare(adapter)`` is called where the update
    has to be at work, after its parameters were drawn at random; one that is held at zero by something else (a ramp, a
    mask) is switched on there.

    Runs on the CPU, repeats exactly, and leaves torch's generator as it was. Returns what was found, a line a check.
    Raises AssertionError with a line for every check that failed, ValueError for an unknown name in ``only``, TypeError
    where ``adapter_class`` is no subclass of ``Adapter``.
    """
    if not (isinstance(adapter_class, type) and issubclass(adapter_class, Adapter)):
        raise TypeError(f"check_adapter: adapter_class is {adapter_class!r}, expected a subclass of Adapter")
    names = list(CHECKS) if only is None else [only] if isinstance(only, str) else list(only)
    if unknown := [name for name in names if name not in CHECKS]:
        raise ValueError(f"check_adapter: unknown checks {unknown}, expected some of {list(CHECKS)}")
    subject = Subject(adapter_class, in_features, out_features, prepare, args, options)
    findings, failures = {}, []
    for name in names:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            try:
                findings[name] = CHECKS[name](subject)
            except AssertionError as failure:
                failures.append(f"{name}: {failure}")
            except Exception as error:
                failures.append(f"{name}: {type(error).__name__}: {error}")
    if failures:
        kind = adapter_class.__name__
        text = "\n".join(f"  {failure}" for failure in failures)
        raise AssertionError(f"check_adapter({kind}): {len(failures)} of {len(names)} checks failed\n{text}")
    return findings
