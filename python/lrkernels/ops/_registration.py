"""How an op gets its gradient, autocast, vmap and fallback: one way for every family.

torch.library's own helpers serve the fakes, the vmap rules and the second derivatives. Two needs are beyond them, and
are met here with the same dispatcher calls they make: a forward that saves more than the op returns (so that x need not
be kept when ``down`` is frozen), and an autocast that reads the dtype in force and casts activations only.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch._guards import detect_fake_mode
from torch.autograd import forward_ad

from lrkernels import _C, inspection  # noqa: F401  (loading _C defines the ops)

library = torch.library.Library("lrk", "FRAGMENT")


def overload(name: str):
    return getattr(torch.ops.lrk, name).default


def register_fake(name: str, fake: Callable) -> None:
    torch.library.register_fake(f"lrk::{name}", fake, lib=library)


def transforming() -> bool:
    """Inside torch.func transforms a raw custom op has no gradient, but an autograd.Function has."""
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


# --- Gradients ---


def _has_tangent(tensors: Sequence) -> bool:
    return any(isinstance(t, Tensor) and forward_ad.unpack_dual(t).tangent is not None for t in tensors)


def _no_forward_mode(name: str) -> RuntimeError:
    return RuntimeError(
        f"{name}: forward-mode automatic differentiation (jvp, jacfwd, hessian) is not supported; "
        "use reverse mode (vjp, grad, jacrev)"
    )


def refuse_forward_mode(name: str, tensors: Sequence) -> None:
    """A custom op would drop a tangent silently, so an input that carries one raises."""
    if forward_ad._current_level >= 0 and _has_tangent(tensors):
        raise _no_forward_mode(name)


class ReverseModeFunction(torch.autograd.Function):
    """An autograd.Function of the op ``op_name``, under torch.func too."""

    op_name: str
    generate_vmap_rule = True

    @classmethod
    def jvp(cls, ctx, *tangents):
        raise _no_forward_mode(cls.op_name)


def apply_function(function: type[torch.autograd.Function], *args):
    """``function.apply`` on positional arguments, without its binding of them to forward's signature, which at every
    call takes several times as long as a small layer."""
    if transforming():
        return function.apply(*args)
    return super(torch.autograd.Function, function).apply(*args)


def register_autograd(name: str, apply: Callable) -> None:
    """Calls ``apply(*args, **scalars)`` when a gradient is wanted, and the kernels directly when none is."""
    op = overload(name)

    def kernel(keyset, *args, **scalars):
        if torch.is_grad_enabled() and torch._C._any_requires_grad(*args):
            refuse_forward_mode(name, args)
            if transforming():
                raise RuntimeError(
                    f"torch.ops.lrk.{name} has no gradient under torch.func; call lrkernels.{name} there"
                )
            return apply(*args, **scalars)
        refuse_forward_mode(name, args)
        try:
            with torch._C._AutoDispatchBelowAutograd():
                return op.redispatch(keyset & torch._C._after_autograd_keyset, *args, **scalars)
        except RuntimeError as error:
            raise_out_of_memory(error)
            raise

    library.impl(name, kernel, "Autograd", with_keyset=True)


def raise_out_of_memory(error: RuntimeError) -> None:
    """Kernels can only raise RuntimeError (no other exception crosses torch's stable ABI); for a GPU's memory torch has
    a kind of its own, which training loops catch."""
    message = str(error)
    if "out of memory" in message and "cuda" in message.lower() and not isinstance(error, torch.OutOfMemoryError):
        raise torch.OutOfMemoryError(message) from None


# --- Products left to torch ---


def library_gemm(a: Tensor, b: Tensor) -> Tensor:
    """a·b by torch's own GEMM, listed as such in traces and logs."""
    if inspection.recording() and not torch.compiler.is_compiling() and detect_fake_mode((a, b)) is None:
        torch.ops.lrk._record_dispatch("library_gemm")
    return a @ b


class _Scalars:
    """The keyword-only arguments of an op, as one leaf that autograd.Function passes through untouched."""

    def __init__(self, values: dict):
        self.values = values


def register_second_derivative(name: str, reference: Callable) -> Callable:
    """Gives a backward op a gradient of its own, by differentiating its plain-torch twin; any order works.

    Without it a second derivative through a custom backward op is silently zero. Returns the op as a function that also
    works inside torch.func transforms.
    """
    op = overload(name)

    class SecondDerivative(ReverseModeFunction):
        op_name = name

        @staticmethod
        def forward(scalars, *tensors):
            return op(*tensors, **scalars.values)

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.scalars, *tensors = inputs
            ctx.save_for_backward(*tensors)

        @staticmethod
        def backward(ctx, *grads):
            tensors, wanted = list(ctx.saved_tensors), ctx.needs_input_grad[1:]
            positions = [i for i, need in enumerate(wanted) if need]

            def as_function_of(*values):
                arguments = list(tensors)
                for position, value in zip(positions, values, strict=True):
                    arguments[position] = value
                return reference(*arguments, **ctx.scalars.values)

            outputs, vjp = torch.func.vjp(as_function_of, *(tensors[i] for i in positions))
            cotangents = grads if isinstance(outputs, tuple) else grads[0]
            result = [None] * len(tensors)
            for position, grad in zip(positions, vjp(cotangents), strict=True):
                result[position] = grad
            return None, *result

    def apply(*tensors, **scalars):
        return apply_function(SecondDerivative, _Scalars(scalars), *tensors)

    def call(*tensors, **scalars):
        if transforming():
            return apply(*tensors, **scalars)
        if torch.is_grad_enabled():
            return op(*tensors, **scalars)
        try:
            with torch._C._AutoDispatchBelowAutograd():  # spares the way through register_autograd's kernel
                return op(*tensors, **scalars)
        except RuntimeError as error:
            raise_out_of_memory(error)
            raise

    register_autograd(name, apply)
    return call


# --- The Python twins ---

_NO_MODES = torch._C._dispatch_tls_local_include_set()


def _dispatches_to_autograd(tensors: Sequence) -> bool:
    """Whether the Autograd key is the first that a call of the op would reach: no autocast, mode, tracing, subclass.

    The dispatcher boxes the arguments to come back to Python there, which costs a third of a small layer's forward.
    """
    return not (
        torch._C._is_any_autocast_enabled()
        or torch._C._is_torch_function_mode_enabled()
        or torch.overrides.has_torch_function(tensors)
        or torch._C._dispatch_tls_local_include_set() != _NO_MODES
    )


def twin(name: str, apply: Callable, check: Callable) -> Callable:
    """The function behind a Python twin: calls the op, and raises ``check``'s ValueError or TypeError when it refuses.

    The op makes the same checks before any work, so a right call pays for them once. Inside torch.func transforms
    ``apply``, an autograd.Function, stands for the op.
    """
    op = getattr(torch.ops.lrk, name)

    def call(tensors: Sequence, scalars: dict):
        for argument, value in scalars.items():
            if isinstance(value, Tensor):  # torch would take its value and drop its gradient
                raise TypeError(f"{name}: {argument} is a Tensor, expected a float (a scale that trains goes in gate)")
        try:
            if transforming():
                tensors = under_autocast(name, *tensors)
                check(name, *tensors, *scalars.values())
                return apply(*tensors, **scalars)
            if torch.compiler.is_compiling():
                return op(*tensors, **scalars)
            if torch.is_grad_enabled() and torch._C._any_requires_grad(*tensors):
                if not _dispatches_to_autograd(tensors):
                    return op(*tensors, **scalars)
                refuse_forward_mode(name, tensors)
                return apply(*tensors, **scalars)  # what register_autograd's kernel would call
            refuse_forward_mode(name, tensors)
            with torch._C._AutoDispatchBelowAutograd():  # register_autograd's kernel would only pass it on
                return op(*tensors, **scalars)
        except RuntimeError as error:
            refusal = refused(tensors, scalars)
            if refusal is None:
                raise_out_of_memory(error)
                raise
        raise refusal

    def refused(tensors: Sequence, scalars: dict) -> Exception | None:
        try:
            check(name, *under_autocast(name, *tensors), *scalars.values())
        except (TypeError, ValueError) as error:
            return error
        return None

    return call


# --- Autocast ---


AUTOCAST_DEVICES = ("cpu", "cuda")
# Activations, factors, and caches: argument i is made from argument caches[i], and of no use when that is cast.
_autocast_rules: dict[str, tuple[Sequence[int], Sequence[int], dict[int, int]]] = {}


def cast_for_autocast(name: str, device_type: str, args: Sequence) -> list:
    """Activations go to the autocast dtype; factors stay, unless they are half of another kind. float64 stays."""
    activations, factors, caches = _autocast_rules[name]
    args = list(args)
    first = args[activations[0]]
    if not isinstance(first, Tensor) or first.dtype == torch.float64:
        return args
    dtype = torch.get_autocast_dtype(device_type)
    for i, value in enumerate(args):
        if not isinstance(value, Tensor) or not value.is_floating_point():
            continue
        if i in activations or (i in factors and value.dtype not in (dtype, torch.float32)):
            args[i] = value.to(dtype)
            for cache, source in caches.items():
                if source == i and value.dtype != dtype and cache < len(args):
                    args[cache] = None
    return args


def under_autocast(name: str, *args) -> Sequence:
    """What an op would see of ``args`` here: the Python twins check the dtypes after the casts of autocast."""
    device_type = args[0].device.type if name in _autocast_rules and isinstance(args[0], Tensor) else None
    if device_type in AUTOCAST_DEVICES and torch.is_autocast_enabled(device_type):
        return cast_for_autocast(name, device_type, args)
    return args


def register_no_autocast(name: str) -> None:
    """For ops that keep their dtypes: what they call inside must not be cast either."""
    op = overload(name)
    for device_type in AUTOCAST_DEVICES:
        key = getattr(torch._C.DispatchKey, f"Autocast{device_type.upper()}")

        def kernel(*args, _key=key, **scalars):
            with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(_key)):
                return op(*args, **scalars)

        library.impl(name, kernel, f"Autocast{device_type.upper()}")


def register_autocast(
    name: str, activations: Sequence[int], factors: Sequence[int], caches: dict[int, int] | None = None
) -> None:
    op = overload(name)
    _autocast_rules[name] = (activations, factors, caches or {})
    for device_type in AUTOCAST_DEVICES:
        suffix = device_type.upper()
        key = getattr(torch._C.DispatchKey, f"Autocast{suffix}")

        def kernel(*args, _device_type=device_type, _key=key, **scalars):
            with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(_key)):
                return op(*cast_for_autocast(name, _device_type, args), **scalars)

        library.impl(name, kernel, f"Autocast{suffix}")


# --- vmap ---


def register_vmap(name: str, fold: Callable | None = None, caches: dict[int, int] | None = None) -> None:
    """``fold(batch_size, in_dims, args, scalars)`` may turn the batch into a leading dimension of one call and return
    (arguments, out_dims); where it returns None, each sample is a call of its own. Argument i of ``caches`` is made
    from argument caches[i], and is left out where that is batched."""
    op = overload(name)

    def batched(argument, dim) -> bool:
        return isinstance(argument, Tensor) and dim is not None  # of a list of int, dim is a list of None

    def rule(info, in_dims, *args, **scalars):
        folded = fold(info.batch_size, in_dims, args, scalars) if fold is not None else None
        if folded is not None:
            folded_args, out_dims = folded
            return op(*folded_args, **scalars), out_dims
        for cache, source in (caches or {}).items():
            if cache < len(args) and in_dims[source] is not None:
                args = (*args[:cache], None, *args[cache + 1 :])
                in_dims = (*in_dims[:cache], None, *in_dims[cache + 1 :])
        samples = []
        for i in range(max(info.batch_size, 1)):
            if info.batch_size == 0:  # one sample of zeros tells the shapes
                pairs = zip(args, in_dims, strict=True)
                args = [a.new_zeros(a.movedim(d, 0).shape[1:]) if batched(a, d) else a for a, d in pairs]
                in_dims = [None] * len(args)
            sample = (a.select(dim, i) if batched(a, dim) else a for a, dim in zip(args, in_dims, strict=True))
            samples.append(op(*sample, **scalars))
        if isinstance(samples[0], Tensor):
            return torch.stack(samples)[: info.batch_size], 0
        stacked = tuple(torch.stack(outputs)[: info.batch_size] for outputs in zip(*samples, strict=True))
        return stacked, (0,) * len(stacked)

    torch.library.register_vmap(f"lrk::{name}", rule, lib=library)


# --- Where there is no kernel ---

_REFERENCE_ONLY = inspection.reference_only()
_warned: set[str] = set()


def _explain_missing_kernels(name: str, device: torch.device) -> None:
    what, reason = device.type, f"lrkernels has no kernel for {name} on {device.type}"
    if device.type == "cuda" and torch.ops.lrk._has_cuda():
        what = reason = f"lrkernels has no CUDA kernels for {name.removeprefix('_').partition('_')[0]} ops yet"
    elif device.type == "cuda":
        reason += (
            f": {inspection.build_info()['cuda_reason']}. For CUDA kernels, put nvcc on the PATH (or set CUDA_HOME) "
            "and run `pip install --no-build-isolation --force-reinstall --no-deps .` in a clone"
        )
    if os.environ.get("LRK_STRICT") == "1":
        raise RuntimeError(f"{reason} (LRK_STRICT=1)")
    if what not in _warned:
        _warned.add(what)
        warnings.warn(f"{reason}. The plain torch expression runs instead; this is said once.", stacklevel=2)


def register_fallback(name: str, reference: Callable, check: Callable) -> None:
    """The plain-torch twin serves where no kernel is registered: every device without one, and with LRK_REFERENCE=1
    all (csrc/torch registers none then). Arguments of another layout than strided end here too, to be refused."""

    def plain(*args, **scalars):
        try:
            check(*args, **scalars)
        except (TypeError, ValueError) as error:
            raise RuntimeError(str(error)) from None  # the kind that a kernel raises; the twins tell them apart
        if not _REFERENCE_ONLY:
            _explain_missing_kernels(name, args[0].device)
        return reference(*args, **scalars)

    library.impl(name, plain, "CompositeExplicitAutograd")

    def plain_on_cuda(*args, **scalars):
        why = torch.ops.lrk._why_no_kernels(args[0]) or f"lrkernels has no CUDA kernel for {name}"
        if why not in _warned:
            _warned.add(why)
            warnings.warn(f"{why}. The plain torch expression runs instead; this is said once.", stacklevel=2)
        check(*args, **scalars)
        return reference(*args, **scalars)

    # The CUDA backend hands over here what it has no kernel for (csrc/torch/plain.cpp), which has seen to LRK_STRICT.
    library.define(str(overload(name)._schema).replace(f"lrk::{name}", f"_plain_{name}", 1))
    library.impl(f"_plain_{name}", plain_on_cuda, "CompositeExplicitAutograd")
