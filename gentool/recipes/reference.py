"""The keys of a recipe class as a flat list: dotted key, type in words, default, meaning."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from gentool.recipes.kinds import Kind

REQUIRED = "required"


@dataclass(frozen=True)
class Key:
    """One row: `default` is YAML flow text or `required`."""

    key: str
    type: str
    default: str
    meaning: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def reference(model: type[BaseModel]) -> list[Key]:
    """Every key of a recipe of class `model`, in the order of the file.

    The branches of a union told apart by a key appear one after the other, marked `data[digits].batch_size`.
    """
    return list(_keys(model, None, ""))


def _keys(model: type[BaseModel], default: BaseModel | None, prefix: str) -> Iterator[Key]:
    for name, field in model.model_fields.items():
        kind, key = Kind.of_field(field), f"{prefix}{name}"
        value = (
            getattr(default, name) if default is not None else field.get_default(call_default_factory=True)
        )
        inner = value if isinstance(value, BaseModel) else None
        required = default is None and field.is_required()
        if kind.model is not None and not kind.nullable:
            yield from _keys(kind.model, inner, f"{key}.")
            continue
        shown = REQUIRED if required else json.dumps(to_jsonable_python(value), ensure_ascii=False)
        if inner is not None:
            shown = "the keys below"
        yield Key(key, kind.words(), shown, " ".join((field.description or "").split()))
        for branch in kind.branches():
            if branch.model is not None:
                label = f"[{', '.join(branch.tagged(kind.tag))}]" if kind.tag else ""
                same = inner if isinstance(inner, branch.model) else None
                yield from _keys(branch.model, same, f"{key}{label}.")
