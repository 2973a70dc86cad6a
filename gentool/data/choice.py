"""Which rows of a source a split has: held-out share, classes, limit; the same for ever."""

from __future__ import annotations

import numpy as np

from gentool.errors import UserError

_HELD_OUT_KEY = 0x67656E746F6F6C01
_LIMIT_KEY = 0x67656E746F6F6C02


def shuffled(count: int, key: int) -> np.ndarray:
    """A permutation of range(count) by sorting Philox's raw words, whose stream numpy never changes."""
    return np.argsort(np.random.Philox(key=key).random_raw(count), kind="stable")


def held_out(labels: np.ndarray, share: float) -> np.ndarray:
    """(N,) bool: the rows kept for `test`, round(share * n) of each class's n rows."""
    order = shuffled(len(labels), _HELD_OUT_KEY)
    kept = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = order[labels[order] == label]
        kept[members[: round(share * len(members))]] = True
    return kept


def limited(rows: np.ndarray, limit: int | None) -> np.ndarray:
    """`limit` of the rows, in their order; those of a smaller limit are among those of a larger."""
    if limit is None or limit >= len(rows):
        return rows
    return rows[np.sort(shuffled(len(rows), _LIMIT_KEY)[:limit])]


def class_numbers(wanted: tuple[int | str, ...], names: tuple[str, ...], where: str) -> list[int]:
    """The numbers of classes given by number or name.

    Raises:
        UserError: no labels, no such class, or one twice.
    """
    if not names:
        raise UserError("`classes` is set, but these data have no labels", where)
    numbers = []
    for item in wanted:
        if isinstance(item, int) and 0 <= item < len(names):
            numbers.append(item)
        elif isinstance(item, str) and item in names:
            numbers.append(names.index(item))
        else:
            raise UserError(
                f"classes: no class {item!r}; there are 0 to {len(names) - 1}: {', '.join(names)}", where
            )
    if len(set(numbers)) != len(numbers) or not numbers:
        raise UserError(f"classes: {list(wanted)} is empty or names a class twice", where)
    return numbers
