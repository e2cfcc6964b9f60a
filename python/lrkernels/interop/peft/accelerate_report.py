"""What ``accelerate`` did, as data and as text."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class LayerReport:
    """One layer of PEFT: its dotted name, its class, whether it is fused, and how or why not.

    ``adapters`` maps those adapters of a fused layer that PEFT goes on computing to the reason.
    """

    name: str
    kind: str
    fused: bool
    reason: str
    adapters: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        rest = "".join(f"; while '{name}' is active, PEFT's forward: {why}" for name, why in self.adapters.items())
        return f"{'fused' if self.fused else 'declined'}  {self.name}  {self.kind}: {self.reason}{rest}"


@dataclass
class AccelerateReport:
    """One :class:`LayerReport` for every layer of PEFT in the model, in its order; ``print(report)`` lists them."""

    layers: list[LayerReport] = field(default_factory=list)

    @property
    def fused(self) -> dict[str, str]:
        """Name of each fused layer: how it runs."""
        return {layer.name: layer.reason for layer in self.layers if layer.fused}

    @property
    def declined(self) -> dict[str, str]:
        """Name of each layer left as it was: why."""
        return {layer.name: layer.reason for layer in self.layers if not layer.fused}

    def __len__(self) -> int:
        return len(self.layers)

    def __str__(self) -> str:
        return "\n".join([f"fused {len(self.fused)} of {len(self.layers)} PEFT layers", *map(str, self.layers)])

    __repr__ = __str__
