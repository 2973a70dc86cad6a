"""How long work tells those who wait for it what it does."""

from __future__ import annotations

from collections.abc import Callable, Mapping

Say = Callable[[str], None]
"""Takes a line for people."""
Report = Callable[[int, int, Mapping[str, float]], None]
"""Takes progress: (done, of so many, figures of the moment by name)."""


def unsaid(line: str) -> None:
    """The `Say` of those who read nothing."""


def unreported(done: int, total: int, figures: Mapping[str, float]) -> None:
    """The `Report` of those who do not watch."""
