"""Classes as users name them: by number or name, several taken in turn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from gentool.errors import UserError
from gentool.training.module import GenModule
from gentool.training.sampling import Guide


def label_cycle(
    asked: str | None, module: GenModule, guide: Guide | None, flag: str = "--label"
) -> tuple[int, ...] | None:
    """The labels that samples take in turn: the model's, or, where it is unconditional, its guide's.

    Args:
        flag: what asked for them, for messages.

    Raises:
        UserError: there are no classes, or not this one.
    """
    classes, class_names = module.classes, module.spec.class_names
    if classes == 0 and guide is not None:
        classes, class_names = guide.classes, guide.class_names
    if classes == 0:
        if asked is not None:
            raise UserError(f"{flag}: this model was trained without class labels")
        return None
    if asked is None:
        return tuple(range(classes))
    names = {name: i for i, name in enumerate(class_names)}
    names |= {str(i): i for i in range(classes)}
    parts = [part.strip() for part in asked.split(",")]
    for part in parts:
        if part not in names:
            raise UserError(f"{flag} {part!r}: the classes are 0 to {classes - 1}" + _named(class_names))
    return tuple(names[part] for part in parts)


def _named(class_names: Sequence[str]) -> str:
    named = [n for i, n in enumerate(class_names) if n != str(i)]
    return f" ({', '.join(named[:20])}{' ...' if len(named) > 20 else ''})" if named else ""


def in_turn(labels: Sequence[int], indices: Iterable[int], device: torch.device | None = None) -> Tensor:
    """(B,) int64: the label of each of these samples, where `label_cycle`'s are taken in turn."""
    return torch.tensor([labels[i % len(labels)] for i in indices], device=device)
