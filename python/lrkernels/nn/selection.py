"""Which linear layers of a model ``replace_linear`` is to replace, and which it must not."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from torch import nn
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils import parametrize

from lrkernels.nn.replace_report import ReplaceReport

# Parents that read the weight of a child and never call it, at least on one of their paths.
_PARENTS_READING_WEIGHTS = (
    (
        nn.MultiheadAttention,
        ("out_proj",),
        "nn.MultiheadAttention reads out_proj.weight and never calls out_proj, so the replacement would not act",
    ),
    (
        nn.TransformerEncoderLayer,
        ("linear1", "linear2"),
        "nn.TransformerEncoderLayer has an inference fast path that reads linear1.weight and linear2.weight and never "
        "calls the layers, so the replacement would act in training and not in evaluation",
    ),
)


@dataclass
class LinearLayer:
    """One linear layer with every dotted name it has and every (parent, attribute) that holds it."""

    module: nn.Module
    names: list[str] = field(default_factory=list)
    places: list[tuple[nn.Module, str]] = field(default_factory=list)


def linear_layers(
    model: nn.Module, is_linear: Callable[[nn.Module], bool] = lambda module: isinstance(module, nn.Linear)
) -> list[LinearLayer]:
    """Every linear layer of the model that is not inside an adapter, once each, in order of definition."""
    layers: dict[int, LinearLayer] = {}
    for parent, attribute, name, module in _children(model, ""):
        if is_linear(module):
            layer = layers.setdefault(id(module), LinearLayer(module))
            layer.names.append(name)
            layer.places.append((parent, attribute))
    return list(layers.values())


def _children(parent: nn.Module, prefix: str) -> Iterator[tuple[nn.Module, str, str, nn.Module]]:
    for attribute, module in parent._modules.items():
        if module is not None:
            name = prefix + attribute
            yield parent, attribute, name, module
            if not hasattr(type(module), "adapter_parameters"):
                yield from _children(module, name + ".")


def choose(
    model: nn.Module,
    layers: list[LinearLayer],
    target_modules: Iterable[str] | str | None,
    filter_fn: Callable[[nn.Module, str], bool] | None,
    report: ReplaceReport,
) -> list[LinearLayer]:
    """The layers asked for; the others go to ``report.skipped``. Raises when that is none or a name matches nothing."""
    if isinstance(model, nn.Linear):
        raise ValueError(
            "replace_linear: model is itself an nn.Linear, which has no parent to change; use factory(model)"
        )
    names = _target_names(target_modules, filter_fn)
    if names is not None:
        _check_every_name_matches(model, layers, names)
    head = _output_head(model, layers) if target_modules == "all-linear" else None
    chosen = []
    for layer in layers:
        if names is not None and not any(_matches(name, target) for name in layer.names for target in names):
            reason = "not named in target_modules"
        elif layer.module is head:
            reason = 'the output head, which "all-linear" leaves alone; name it to replace it'
        elif filter_fn is not None and not any(filter_fn(layer.module, name) for name in layer.names):
            reason = "filter_fn declined"
        else:
            chosen.append(layer)
            continue
        report.skipped[layer.names[0]] = reason
    if not chosen:
        found = ", ".join(layer.names[0] for layer in layers[:10]) or "none"
        raise ValueError(f"replace_linear: no layer was chosen; the model's replaceable nn.Linear layers: {found}")
    return chosen


def refusal(layer: LinearLayer) -> str | None:
    """Why this layer cannot be replaced by anything, or None."""
    for parent, attribute in layer.places:
        for parent_type, attributes, reason in _PARENTS_READING_WEIGHTS:
            if isinstance(parent, parent_type) and attribute in attributes:
                return reason
    if isinstance(layer.module._parameters.get("weight"), UninitializedParameter):
        return "its weight is uninitialised; run one forward first"
    return None


def refusal_unless_wrapped(linear: nn.Linear) -> str | None:
    """Why only a module that contains this layer can replace it, or None."""
    if parametrize.is_parametrized(linear):
        return "its weight is parametrized, and the replacement does not contain the layer that computes it"
    if "weight" not in linear._parameters:
        return "its weight is computed by a hook (weight_norm, spectral_norm, prune) the replacement does not contain"
    if type(linear).forward is not nn.Linear.forward or "forward" in linear.__dict__:
        return f"{type(linear).__name__} has a forward of its own, which the replacement does not call"
    return None


def replaceable_by_anything(layers: list[LinearLayer]) -> list[LinearLayer]:
    return [layer for layer in layers if refusal(layer) is None and refusal_unless_wrapped(layer.module) is None]


def _target_names(
    target_modules: Iterable[str] | str | None, filter_fn: Callable[[nn.Module, str], bool] | None
) -> list[str] | None:
    """The names as a list; None for every layer."""
    if target_modules is None and filter_fn is None:
        raise ValueError(
            'replace_linear: say what to replace: target_modules, a list of names or "all-linear", or filter_fn'
        )
    if filter_fn is not None and not callable(filter_fn):
        raise TypeError(
            f"replace_linear: filter_fn is {type(filter_fn).__name__}, expected a function of (module, fqn)"
        )
    if target_modules is None or target_modules == "all-linear":
        return None
    if isinstance(target_modules, (str, bytes)) or not isinstance(target_modules, Iterable):
        raise TypeError(
            f'replace_linear: target_modules is {target_modules!r}, expected a list of names or "all-linear" '
            "(for a pattern use filter_fn)"
        )
    names = list(target_modules)
    if not names:
        raise ValueError("replace_linear: target_modules is empty")
    for name in names:
        if not isinstance(name, str) or not name:
            raise TypeError(f"replace_linear: target_modules holds {name!r}, expected names of modules")
    return names


def _matches(name: str, target: str) -> bool:
    return name == target or name.endswith("." + target)


def _check_every_name_matches(model: nn.Module, layers: list[LinearLayer], targets: list[str]) -> None:
    """A name that matches nothing is a slip, even where other names match: layers would silently stay as they are."""
    all_names = [name for layer in layers for name in layer.names]
    problems = []
    for target in targets:
        if any(_matches(name, target) for name in all_names):
            continue
        problems.append(f"'{target}' {_why_unmatched(model, all_names, target)}")
    if problems:
        raise ValueError("replace_linear: target_modules: " + "; ".join(problems))


def _why_unmatched(model: nn.Module, linear_names: list[str], target: str) -> str:
    for name, module in model.named_modules():
        if _matches(name, target):
            if hasattr(type(module), "adapter_parameters"):
                return f"matches {name}, which is a {type(module).__name__} already"
            inside = [n for n in linear_names if n.startswith(name + ".")]
            hint = f"; it contains {', '.join(inside[:5])}" if inside else ""
            return f"matches {name}, which is {type(module).__name__}, not nn.Linear{hint}"
    for name, parameter in model.named_parameters():
        if _matches(name, target):
            return f"matches {name}, a parameter of shape {tuple(parameter.shape)}, not an nn.Linear"
    # Names as long as the target's: its last component alone would be close to too little of "layers.0.attn.q_proj".
    depth = target.count(".") + 1
    candidates = dict.fromkeys(".".join(name.split(".")[-depth:]) for name in linear_names)
    close = difflib.get_close_matches(target, candidates, n=3, cutoff=0.5)
    if close:
        return "matches no layer; close names: " + ", ".join(close)
    return "matches no layer; the model's linear layers: " + (", ".join(list(candidates)[:10]) or "none")


def _output_head(model: nn.Module, layers: list[LinearLayer]) -> nn.Module | None:
    """The output projection, as the model declares it or as its tie to an embedding tells."""
    declared = getattr(model, "get_output_embeddings", None)
    if callable(declared) and (head := declared()) is not None:
        return head
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    for layer in layers:
        if id(layer.module._parameters.get("weight")) in embeddings:
            return layer.module
    return None
