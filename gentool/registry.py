"""Names to things, without importing them before they are asked for.

A recipe names solvers, data sets, networks, families and metrics; a name comes from a registry, never from an
import path in YAML. Entries hold `"package.module:attribute"`, so that listing names costs no torch.
Third parties add entries through entry points (group `gentool.<kind>`, e.g. `gentool.families`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from gentool.errors import UserError, did_you_mean

T = TypeVar("T")


def resolve(target: str) -> Any:
    """The object that `"package.module:attribute"` names."""
    module, _, attribute = target.partition(":")
    return getattr(import_module(module), attribute)


class Registry(Generic[T]):
    """An ordered, lazily importing map from a name to an object of one `kind` (`"solver"`, `"family"` ...)."""

    def __init__(self, kind: str, entries: Mapping[str, str], group: str | None = None) -> None:
        self.kind = kind
        self._targets = dict(entries)
        self._group = group

    def _all(self) -> dict[str, str]:
        if self._group is not None:
            for point in entry_points(group=self._group):
                self._targets.setdefault(point.name, point.value)
            self._group = None
        return self._targets

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __contains__(self, name: object) -> bool:
        return name in self._all()

    def names(self) -> list[str]:
        return list(self._all())

    def check(self, name: str) -> str:
        """`name` itself, or a `UserError` that lists the names there are."""
        if name not in self:
            raise UserError(
                f"unknown {self.kind} {name!r}{did_you_mean(name, self.names())} "
                f"(there are: {', '.join(self.names())})"
            )
        return name

    def get(self, name: str) -> T:
        return resolve(self._all()[self.check(name)])
