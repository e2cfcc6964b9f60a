"""Classes that differ from PEFT's in their forward alone, so that ``accelerate`` may swap the class of a layer."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any


class FusedForward:
    """First base of every fused class: the forward before PEFT's, whose class is the second base."""


def stock_class(cls: type) -> type:
    """PEFT's class behind a fused one; any other class itself."""
    return cls.__bases__[1] if _is_fused(cls) else cls


def is_subclassed(cls: type) -> bool:
    """Whether somebody made a class of their own from a fused one, as ``fully_shard`` does of a layer it is given."""
    return issubclass(cls, FusedForward) and not _is_fused(cls)


def _is_fused(cls: type) -> bool:
    return "_fused_by_lrkernels" in cls.__dict__


class FusedClasses:
    """The fused classes of one method of PEFT, made at first use in the module where pickle will look for them.

    ``covered`` are PEFT's classes by the module of ``package`` that has them; some exist only where the library they
    serve is installed, and PEFT imports some modules at first use. ``members`` are further attributes of a class.
    """

    def __init__(
        self,
        module: str,
        package: str,
        mixin: type,
        covered: dict[str, tuple[str, ...]],
        members: Callable[[type], dict[str, Any]] = lambda stock: {},
    ) -> None:
        self._module, self._package, self._mixin, self._covered = module, package, mixin, covered
        self._members = members

    def of(self, stock: type) -> type | None:
        """The fused class for one of PEFT's; None where there is none."""
        package, _, module = stock.__module__.rpartition(".")
        if package != self._package or stock.__name__ not in self._covered.get(module, ()):
            return None
        known = vars(sys.modules[self._module])
        if stock.__name__ not in known:
            # PEFT's own name, which repr and PEFT's messages show.
            members = {"__module__": self._module, "__doc__": stock.__doc__, "_fused_by_lrkernels": True}
            known[stock.__name__] = type(stock.__name__, (self._mixin, stock), members | self._members(stock))
        return known[stock.__name__]

    def by_name(self, name: str) -> type:
        """The module's ``__getattr__``: where pickle looks for a fused class that this process has not used yet."""
        for module, names in self._covered.items():
            if name in names and hasattr(stock := importlib.import_module(f"{self._package}.{module}"), name):
                return self.of(getattr(stock, name))
        raise AttributeError(f"module {self._module!r} has no attribute {name!r}")
