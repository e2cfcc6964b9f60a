"""What ``replace_linear`` did, as data and as text."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from torch import nn
from torch.nn.parameter import UninitializedParameter


@dataclass(frozen=True)
class Replacement:
    """One module that took another's place; ``aliases`` are further names the model has for the same module."""

    name: str
    old: str
    new: str
    aliases: tuple[str, ...] = ()


@dataclass
class ReplaceReport:
    """What was replaced, what was not and why, and what that did to the parameter counts.

    ``skipped`` were not asked for (or cannot change), ``refused`` were asked for but would have been silently wrong,
    and ``expert_weights`` are fused 3-D parameters, matrices that no replacement of an ``nn.Linear`` reaches; all map
    a dotted name to the reason. Counts are of distinct parameters. ``print(report)`` puts names that differ in an
    index on one line.
    """

    replaced: list[Replacement] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    expert_weights: dict[str, str] = field(default_factory=dict)
    frozen: bool = False
    parameters_before: int = 0
    parameters_after: int = 0
    trainable_before: int = 0
    trainable_after: int = 0

    def __len__(self) -> int:
        return len(self.replaced)

    def __str__(self) -> str:
        lines = [f"replaced {_count(len(self.replaced), 'module')}"]
        lines += _grouped((r.name, _description(r)) for r in self.replaced)
        for title, reasons in (
            ("refused", self.refused),
            ("expert weights not replaced", self.expert_weights),
            ("skipped", self.skipped),
        ):
            if reasons:
                lines += [f"{title} ({len(reasons)})", *_grouped(reasons.items())]
        lines.append(_change("parameters", self.parameters_before, self.parameters_after))
        trainable = _change("trainable", self.trainable_before, self.trainable_after)
        share = 100.0 * self.trainable_after / max(self.parameters_after, 1)
        frozen = "; everything but the adapters is frozen" if self.frozen else ""
        lines.append(f"{trainable}, {share:.2f}% of the parameters{frozen}")
        return "\n".join(lines)

    __repr__ = __str__


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """Distinct parameter elements of a model, and those of them that train; lazy ones count from when they exist."""
    parameters = [p for p in model.parameters() if not isinstance(p, UninitializedParameter)]
    return sum(p.numel() for p in parameters), sum(p.numel() for p in parameters if p.requires_grad)


def _description(replacement: Replacement) -> str:
    also = f", also held as {', '.join(replacement.aliases)}" if replacement.aliases else ""
    return f"{replacement.old} -> {replacement.new}{also}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _change(title: str, before: int, after: int) -> str:
    ratio = f" ({after / before:.3g}x)" if before else ""
    return f"{title}: {before:,} -> {after:,}{ratio}"


def _grouped(entries: Iterable[tuple[str, str]]) -> list[str]:
    """One line for all entries whose names differ only in their indices and whose texts are equal."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name, text in entries:
        groups.setdefault((re.sub(r"(?<![^.])\d+(?![^.])", "*", name), text), []).append(name)
    return [
        f"  {names[0]}: {text}" if len(names) == 1 else f"  {pattern} ({len(names)}): {text}"
        for (pattern, text), names in groups.items()
    ]
