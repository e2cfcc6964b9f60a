"""Low-rank layers in the place of a trained model's, each with a rank of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import nn

from lrkernels.nn import selection
from lrkernels.nn.input_statistics import InputStatistics
from lrkernels.nn.lowrank_linear import LowRankLinear
from lrkernels.nn.replace import replace_linear
from lrkernels.nn.replace_report import ReplaceReport
from lrkernels.nn.split_lowrank_linear import SplitLowRankLinear


def linear_layers(model: nn.Module, target_modules: Iterable[str] | str = "all-linear") -> dict[str, nn.Linear]:
    """The layers that ``compress`` would replace, by name; a layer with several names has its first."""
    chosen = selection.choose(model, selection.linear_layers(model), target_modules, None, ReplaceReport())
    return {layer.names[0]: layer.module for layer in chosen if selection.refusal(layer) is None}


def compress(
    model: nn.Module,
    ranks: int | Mapping[str, int | tuple[int, int] | None],
    *,
    target_modules: Iterable[str] | str = "all-linear",
    statistics: Mapping[str, InputStatistics] | None = None,
    keep_mean: bool = False,
) -> ReplaceReport:
    """Replace linear layers of a trained model, in place, by ``LowRankLinear.from_linear`` of a rank a layer.

        layers = linear_layers(model)
        statistics = input_statistics(model, batches, layers)  # optional: the error of outputs, not of weights
        ranks = ranks_within(layers, singular_values(layers, statistics), numbers=500_000)
        print(compress(model, ranks, statistics=statistics))

    ``ranks`` is one for all, or a mapping of names as ``linear_layers`` gives them, in which None (or no entry) leaves
    a layer as it is and (groups, rank) makes it a ``SplitLowRankLinear``. A layer whose factors would have more numbers
    than its weight stays as it is too, and the report says so. ``statistics`` weigh the approximation of every layer;
    with ``keep_mean`` they also correct its bias. ``target_modules``, the report and what is refused are
    ``replace_linear``'s.

    Raises as ``replace_linear`` and ``from_linear``, with the model unchanged, and ValueError for a name in ``ranks``
    that is no chosen layer, a name in ``statistics`` that is no module, or a layer to replace that they do not have.
    """
    if keep_mean and statistics is None:
        raise ValueError("compress: keep_mean is set, but there are no statistics, which have the means")
    layers = linear_layers(model, target_modules)
    if isinstance(ranks, Mapping) and (unknown := [name for name in ranks if name not in layers]):
        raise ValueError(f"compress: ranks names {', '.join(unknown[:5])}, expected some of {', '.join(layers)}")
    modules = {name for name, _ in model.named_modules(remove_duplicate=False)}
    if statistics is not None and (unknown := [name for name in statistics if name not in modules]):
        raise ValueError(f"compress: statistics has {', '.join(unknown[:5])}, which the model has not")
    names = {id(layer): name for name, layer in layers.items()}
    larger: dict[str, str] = {}

    def factory(linear: nn.Linear) -> nn.Module:
        name = names[id(linear)]
        rank = ranks.get(name) if isinstance(ranks, Mapping) else ranks
        if rank is None:
            return linear
        kind, sizes = (SplitLowRankLinear, rank) if isinstance(rank, tuple) else (LowRankLinear, (rank,))
        empty = kind(linear.in_features, linear.out_features, *sizes, bias=False, device="meta")
        numbers, dense = sum(p.numel() for p in empty.parameters()), linear.in_features * linear.out_features
        if numbers > dense:
            larger[name] = f"rank {rank} has {numbers:,} numbers, the weight {dense:,}"
            return linear
        if statistics is None:
            return kind.from_linear(linear, *sizes)
        if name not in statistics:
            raise ValueError(f"compress: statistics has no {name!r}, which is to be replaced")
        seen = statistics[name]
        mean = seen.mean if keep_mean else None
        return kind.from_linear(linear, *sizes, input_moment=seen.moment, input_mean=mean)

    report = replace_linear(model, factory, target_modules=target_modules)
    report.skipped.update(larger)
    return report
