"""What a method of `gentool edit` tells the command."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gentool.errors import UserError

Given = Mapping[str, Any]
"""The command's parameters by name; None where an option was not given."""
SHARED = frozenset(
    {"run", "source", "method", "out", "seed", "batch_size", "count", "classifier", "json", "quiet"}
)


@dataclass(frozen=True)
class Method:
    """One way of editing.

    Attributes:
        summary: one line.
        run: parses, calls the task, and prints.
        options: the parameters it reads beside `SHARED`.
        source: whether INPUT is asked for; if not it is refused; None takes it or does without.
        required: options that it cannot do without.
    """

    summary: str
    run: Callable[[Given], None]
    options: frozenset[str]
    source: bool | None = False
    required: tuple[str, ...] = ()


def flag(key: str) -> str:
    """How a parameter is written on the command line."""
    return {"change": "--set", "count": "--sample", "source": "INPUT"}.get(key, "--" + key.replace("_", "-"))


def whole_numbers(text: str, where: str) -> tuple[int, ...]:
    """The numbers of "0-3,6", each once, in order.

    Raises:
        UserError: something else.
    """
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = (word.strip() for word in part.partition("-"))
        if not first.isdecimal() or bool(dash) != last.isdecimal() or int(first) > int(last or first):
            raise UserError(f"expected numbers and ranges with commas (0-3,6), not {text!r}", where)
        found |= set(range(int(first), int(last or first) + 1))
    return tuple(sorted(found))


def numbers(text: str, where: str, *, several: bool = True) -> tuple[float, ...]:
    """The numbers of "0.5,1,1.5".

    Raises:
        UserError: none, or more than one where `several` is false.
    """
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or not all(map(math.isfinite, found)) or (len(found) > 1 and not several):
        expected = "numbers with commas (0.5,1,1.5)" if several else "a number"
        raise UserError(f"expected {expected}, not {text!r}", where)
    return found
