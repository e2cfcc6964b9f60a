"""Put other modules in the place of a model's linear layers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from torch import nn

from lrkernels.nn import selection, surgery
from lrkernels.nn.replace_report import Replacement, ReplaceReport, count_parameters
from lrkernels.nn.save_guard import guard_save_pretrained

_EXPERT_NAME = re.compile(r"expert|moe|gate_up|(gate|up|down)_proj|^w[123]$|fc[12]", re.IGNORECASE)


def replace_linear(
    model: nn.Module,
    factory: Callable[[nn.Linear], nn.Module],
    *,
    target_modules: Iterable[str] | str | None = None,
    filter_fn: Callable[[nn.Module, str], bool] | None = None,
) -> ReplaceReport:
    """Replace linear layers of ``model``, in place, by what ``factory(linear)`` makes of each.

        report = replace_linear(model, partial(LoRALinear, r=16, alpha=32), target_modules=["q_proj", "v_proj"])
        report = replace_linear(model, partial(LowRankLinear.from_linear, rank=64), target_modules="all-linear")
        print(report)

    ``target_modules`` names layers as PEFT does: a name matches the layer of that dotted name and every layer whose
    dotted name ends in it ("q_proj", "attn.q_proj", "layers.0.attn.q_proj"). "all-linear" is every ``nn.Linear`` but
    the output head (``get_output_embeddings()``, or one tied to an ``nn.Embedding``); name the head to have it. None
    leaves the choice to ``filter_fn(module, fqn)``, which otherwise narrows it; it is asked about ``nn.Linear``
    layers alone.

    What stays as it was: device and train mode; the dtype (the base layer's; a module that does not contain the old
    layer is converted to its dtype); ties: a wrapped weight is the same Parameter, two tied layers replaced by
    factors share these, and a layer tied to anything else is refused unless its replacement wraps it; a layer used in
    several places is replaced by one module in all of them. Forward and backward hooks move to the new module, so
    that they fire with its input and output, and their handles go on removing them; state-dict hooks stay with the
    old layer where the new module contains it and move otherwise. Hooks stay in place where the weight is itself
    computed by one (the older ``weight_norm`` and ``spectral_norm``, ``prune``).

    Adapters: where a new module has ``adapter_parameters`` (``LoRALinear`` does), every other parameter of the model is
    frozen, except those of adapters made before. Call ``requires_grad_(True)`` afterwards on what else shall train.
    Layers inside an adapter are not replaced again.

    Refused, because the replacement would silently not act: ``nn.MultiheadAttention.out_proj``, and linear1 and linear2
    of ``nn.TransformerEncoderLayer``, whose parents read the weight and never call the layer. Refused to a module that
    does not contain the old layer: a layer whose weight is computed, or that has a forward of its own. A refused layer
    that was named raises, one swept in by "all-linear" or a filter is reported. Fused 3-D expert weights are reported.

    ``save_pretrained``, where the model or a part of it has one, raises from then on and says what to call instead:
    ``from_pretrained`` would drop the new layers. A model that contains ``model`` is not known here and stays as it is.

    Returns a printable :class:`ReplaceReport`. Raises, with the model unchanged: ValueError when a name, or everything
    together, matches nothing (close names are listed), when a named layer is refused, or when the model itself is a
    linear layer; TypeError for arguments or factory results of a wrong type; and what the factory raises, where it is
    one of these with the name of the layer.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"replace_linear: model is {type(model).__name__}, expected an nn.Module")
    if not callable(factory) or isinstance(factory, nn.Module):
        raise TypeError(
            f"replace_linear: factory is {type(factory).__name__}, expected a function that takes an nn.Linear and "
            "returns the module to put in its place"
        )
    report = ReplaceReport()
    report.parameters_before, report.trainable_before = count_parameters(model)
    chosen = selection.choose(model, selection.linear_layers(model), target_modules, filter_fn, report)
    named = target_modules is not None and target_modules != "all-linear"
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        built = _build(model, factory, chosen, named, report)
    except BaseException:
        for parameter, flag in flags:
            parameter.requires_grad = flag
        raise
    for layer, new in built:
        surgery.swap(layer, new)
        name, *aliases = layer.names
        report.replaced.append(Replacement(name, _one_line(layer.module), _one_line(new), tuple(aliases)))
    guard_save_pretrained(model, [new for _, new in built])
    report.frozen = any(hasattr(type(new), "adapter_parameters") for _, new in built)
    if report.frozen:
        surgery.freeze_all_but_adapters(model)
    _report_expert_weights(model, report)
    report.parameters_after, report.trainable_after = count_parameters(model)
    return report


def _build(
    model: nn.Module,
    factory: Callable[[nn.Linear], nn.Module],
    chosen: list[selection.LinearLayer],
    named: bool,
    report: ReplaceReport,
) -> list[tuple[selection.LinearLayer, nn.Module]]:
    """Make every replacement before any is put in, so that a failure leaves the model as it was."""
    ties = surgery.Ties(model, selection.replaceable_by_anything(chosen))
    built = []
    for layer in chosen:
        name, reason = layer.names[0], selection.refusal(layer)
        if reason is None:
            new = _call(factory, layer)
            if new is layer.module:
                report.skipped[name] = "the factory returned the layer itself"
                continue
            surgery.match(layer.module, new)
            if not surgery.wraps(new, layer.module):
                reason = selection.refusal_unless_wrapped(layer.module) or ties.keep(layer.module, new)
        if reason is None:
            built.append((layer, new))
        elif named:
            raise ValueError(f"replace_linear: refused '{name}': {reason}")
        else:
            report.refused[name] = reason
    if not built and report.refused:
        reasons = "\n".join(f"  {name}: {reason}" for name, reason in report.refused.items())
        raise ValueError(f"replace_linear: every layer it matched was refused:\n{reasons}")
    return built


def _call(factory: Callable[[nn.Linear], nn.Module], layer: selection.LinearLayer) -> nn.Module:
    name = layer.names[0]
    try:
        new = factory(layer.module)
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"replace_linear: factory failed for '{name}', {_one_line(layer.module)}: {error}") from error
    if not isinstance(new, nn.Module):
        raise TypeError(f"replace_linear: factory returned {type(new).__name__} for '{name}', expected an nn.Module")
    return new


def _one_line(module: nn.Module) -> str:
    return f"{type(module).__name__}({module.extra_repr()})"


def _report_expert_weights(model: nn.Module, report: ReplaceReport) -> None:
    for name, parameter in model.named_parameters():
        if parameter.dim() == 3 and _EXPERT_NAME.search(name):
            shape = "x".join(map(str, parameter.shape))
            report.expert_weights[name] = f"a fused {shape} parameter, {parameter.numel():,} elements, not an nn.Linear"
