"""Labels of a generator's pictures: read by a classifier, measured, or from a table."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from gentool.errors import CorruptError, UserError
from gentool.families.lace.config import FromClassifier, FromTable
from gentool.metrics.cache import digest_of
from gentool.training.module import GenModule

FEWEST = 50
"""Labels of a class below which a warning is due."""
NONE = ("", "none", "null", "nan", "-1")


class Labeller:
    """A trained classifier as the source of one attribute.

    Raises:
        UserError: it is none, or of other pictures or classes.
    """

    def __init__(
        self, name: str, config: FromClassifier, module: GenModule, shape: tuple[int, ...], classes: int
    ) -> None:
        self.judge, self.least = module.judge(), config.min_confidence
        self.digest = digest_of(module.model.state_dict())
        where = f"model.attributes.{name}.run"
        if module.spec.shape != shape:
            theirs, ours = ("x".join(map(str, s)) for s in (module.spec.shape, shape))
            raise UserError(f"it reads pictures of {theirs}, the generator makes {ours}", where)
        if module.spec.classes != classes:
            raise UserError(
                f"it tells {module.spec.classes} classes apart, not {classes}: name them in classes", where
            )

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """(B,) float classes of pictures in [-1, 1], -1 where it is not sure enough."""
        best = self.judge.logits(x).softmax(1).max(1)
        return torch.where(best.values >= self.least, best.indices, -1).float()


def read_table(name: str, config: FromTable, count: int, say: Callable[[str], None]) -> Tensor:
    """(count,) float labels of one attribute, classes or numbers; NaN where there is none.

    Raises:
        UserError, CorruptError: no such file or column, or an index that is no number; names the line.
    """
    path, column = Path(config.path), config.column or name
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror})", config.path) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise CorruptError(f"is no CSV ({error})", config.path) from None
    for key in ("index", column):
        if not rows or key not in rows[0]:
            raise UserError(
                f"has no column {key!r} (there are: {', '.join(rows[0]) if rows else 'none'})", config.path
            )
    found, unknown = torch.full((count,), torch.nan), 0
    for line, row in enumerate(rows, 2):
        if not (row["index"] or "").strip().isdecimal():
            raise UserError(f"expected the number of a sample, not {row['index']!r}", f"{config.path}:{line}")
        index, value = int(row["index"]), _value(row[column], config.classes)
        unknown += value is None
        if value is not None and index < count:
            found[index] = value
    if unknown:
        say(f"{config.path}: {unknown} of {len(rows)} labels of {name} are missing or of no known class")
    return found


def _value(text: str | None, classes: tuple[str, ...] | None) -> float | None:
    plain = (text or "").strip()
    if plain.lower() in NONE:
        return None
    if classes is not None and plain in classes:
        return float(classes.index(plain))
    try:
        number = float(plain)
    except ValueError:
        return None
    if classes is not None and not (number.is_integer() and 0 <= number < len(classes)):
        return None
    return number if math.isfinite(number) else None


def check_labels(name: str, labels: Tensor, classes: tuple[str, ...], say: Callable[[str], None]) -> None:
    """Says how often each class of an attribute is there.

    Raises:
        UserError: nothing to learn: no label at all, or one class only.
    """
    known = labels[labels >= 0]
    where = f"model.attributes.{name}"
    if len(known) == 0:
        raise UserError("has no labels at all", where)
    if not classes:
        if float(known.min()) == float(known.max()):
            raise UserError(
                f"all {len(known)} labels are {float(known[0]):g}: there is nothing to learn", where
            )
        return
    counts = Counter(known.long().tolist())
    told = ", ".join(f"{classes[k]}: {counts[k]}" for k in range(len(classes)))
    if len(counts) < 2:
        raise UserError(f"one class alone is there ({told}): there is nothing to learn", where)
    few = [classes[k] for k in range(len(classes)) if counts[k] < FEWEST]
    say(f"{name}: {told}" + (f"; warning: fewer than {FEWEST} of {', '.join(few)}" if few else ""))
