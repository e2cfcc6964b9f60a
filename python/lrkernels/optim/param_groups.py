"""Which parameters of a model are the matrices that matrix optimizers are for."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor, nn

from lrkernels.optim.naming import role_of_name

_NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase)
_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
_GROUPS = ("matrices", "embeddings and heads", "other weights", "others")


class ParamGroups(list):
    """What :func:`param_groups` found: the groups, and ``decisions``, ``(name, shape, group, reason)`` a parameter.

    ``print(groups)`` shows the decisions as a table, names that differ in an index on one line.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], decisions: list[tuple[str, tuple[int, ...], str, str]]):
        super().__init__(groups)
        self.decisions = decisions

    def __str__(self) -> str:
        rows: dict[tuple[str, ...], int] = {}
        for name, shape, group, reason in self.decisions:
            pattern = re.sub(r"(?<![^.])\d+(?![^.])", "*", name)
            row = (pattern, " x ".join(map(str, shape)) or "scalar", group, reason)
            rows[row] = rows.get(row, 0) + 1
        cells = [("parameter", "count", "shape", "group", "why")]
        cells += [(name, str(count), *rest) for (name, *rest), count in rows.items()]
        widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in cells]
        return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def param_groups(
    model: nn.Module,
    *,
    adamw: dict[str, Any] | None = None,
    exclude: str | Sequence[str] = (),
    report: Callable[[str], Any] | None = print,
) -> ParamGroups:
    """Parameter groups for the optimizers of this package: hidden matrices for them, everything else for AdamW.

        optimizer = lrkernels.optim.Muon(param_groups(model, adamw={"lr": 3e-4}), lr=1e-3)

    Of the parameters that train, each once however many names it has, in this order:

    1. a vector (biases, norms, scalars, matrices of one row or column), a matrix of a norm, or coordinates of a
       rotation or of a band (``skew``, ``angles``, ``bands``, ``rotation.vectors``), whose rows are no directions:
       ``others``, without weight decay;
    2. what any of its names gives to an ``nn.Embedding`` or ``nn.EmbeddingBag``, to what a ``get_input_embeddings()``
       or ``get_output_embeddings()`` of the model or of a part of it returns, or that is called like one (``wte``,
       ``pos_embed``, ``lm_head``, ``classifier``, ``classifier.2``, ...), so a head tied to an embedding too:
       ``embeddings and heads``;
    3. what has three dimensions or more (convolutions, stacks of experts): ``other weights``, with weight decay;
    4. a matrix one of whose names contains a word of ``exclude``: ``embeddings and heads``;
    5. any other: ``matrices``.

    Names are read without what DistributedDataParallel, ``torch.compile``, FSDP, activation checkpoints,
    parametrizations and PEFT's ``modules_to_save`` put into them.

    Args:
        adamw: ``lr``, ``betas``, ``eps``, ``weight_decay`` of the AdamW groups, where not the optimizer's.
        exclude: a part of names, or several.
        report: what is called with the table of what went where; None for nothing.

    Raises:
        ValueError: no matrix was found, or a word of ``exclude`` is in no name.

    The parameters come with their names, which optimizers keep as ``param_names``; empty groups are left out.
    """
    names = _names(model)
    exclude = (exclude,) if isinstance(exclude, str) else tuple(exclude)
    for word in exclude:
        if not any(word in name for every in names.values() for name in every):
            raise ValueError(f"param_groups: exclude has {word!r}, which is in no parameter's name")
    owners = _owners(model)
    ends = _ends(model)
    found: dict[str, list[tuple[str, Tensor]]] = {group: [] for group in _GROUPS}
    decisions = []
    for parameter, every in names.items():
        if not parameter.requires_grad:
            continue
        group, reason = _decide(parameter, every, owners[parameter], ends, exclude)
        found[group].append((every[0], parameter))
        decisions.append((every[0], tuple(parameter.shape), group, reason))
    if not found["matrices"]:
        raise ValueError("param_groups: the model has no hidden matrix that trains")
    options = {"algorithm": "adamw", **(adamw or {})}
    groups = ParamGroups(
        [
            {"params": found["matrices"], "algorithm": "matrix"},
            {"params": found["embeddings and heads"], **options},
            {"params": found["other weights"], **options},
            {"params": found["others"], **options, "weight_decay": 0.0},
        ],
        decisions,
    )
    groups[:] = [group for group in groups if group["params"]]
    if report is not None:
        report(str(groups))
    return groups


def _names(model: nn.Module) -> dict[Tensor, list[str]]:
    names: dict[Tensor, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(parameter, []).append(name)
    return names


def _owners(model: nn.Module) -> dict[Tensor, list[nn.Module]]:
    owners: dict[Tensor, list[nn.Module]] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(parameter, []).append(module)
    return owners


def _ends(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """What transformers models, this one or parts of it, say are their embeddings."""
    ends = []
    for part in model.modules():
        for role, method in (("an embedding", "get_input_embeddings"), ("a head", "get_output_embeddings")):
            try:
                module = getattr(part, method, lambda: None)()
            except (NotImplementedError, AttributeError):  # of a model without any
                continue
            if isinstance(module, nn.Module):
                ends.append((role, module))
    return ends


def _decide(
    parameter: Tensor,
    names: list[str],
    owners: list[nn.Module],
    ends: list[tuple[str, nn.Module]],
    exclude: Sequence[str],
) -> tuple[str, str]:
    dimensions = f"has {parameter.dim()} dimension{'' if parameter.dim() == 1 else 's'}"
    roles = [role for role in map(role_of_name, names) if role is not None]
    if parameter.dim() < 2:
        return "others", dimensions
    if any(isinstance(owner, _NORMS) for owner in owners):
        return "others", "of a norm"
    if parameter.numel() == max(parameter.shape) or not parameter.numel():
        return "others", "has one row or column" if parameter.numel() else "is empty"
    if "coordinates" in roles:
        return "others", "coordinates by name"
    tied = f", tied: {', '.join(names[1:])}" if len(names) > 1 else ""
    if any(isinstance(owner, _EMBEDDINGS) for owner in owners):
        return "embeddings and heads", f"an embedding{tied}"
    for role, end in ends:
        if any(owner is end for owner in owners):
            return "embeddings and heads", f"{role}{tied}"
    for role in roles:
        return "embeddings and heads", f"{role} by name{tied}"
    if parameter.dim() > 2:
        return "other weights", dimensions
    for word in exclude:
        if any(word in name for name in names):
            return "embeddings and heads", f"excluded: {word!r}"
    return "matrices", f"hidden matrix{tied}"
