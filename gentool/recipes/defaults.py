"""Defaults of whole blocks, kept when a recipe gives only some of a block's keys.

A schema may give a block a default of its own (`optimizer: Optimizer = Optimizer(lr=2e-4)`). A recipe that
then writes `optimizer: {warmup: 10}` means that optimiser with a warm-up; pydantic alone would start from the
class's defaults and silently change `lr`.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from gentool.recipes.kinds import Kind


def fill(values: dict[str, Any], model: type[BaseModel], default: BaseModel | None = None) -> dict[str, Any]:
    """`values` of a block of class `model`, what it leaves out taken from `default`; JSON types only."""
    filled = {**default.model_dump(mode="json"), **values} if default is not None else dict(values)
    for name, field in model.model_fields.items():
        given = values.get(name)
        if not isinstance(given, dict):
            continue
        kind = Kind.of_field(field)
        inner = getattr(default, name) if default is not None else field.default
        if isinstance(inner, BaseModel) and kind.tag is not None:
            tag = getattr(inner, kind.tag)
            inner = inner if given.get(kind.tag, tag) == tag else None
        branch = kind.branch(str(given.get(kind.tag))) if kind.tag is not None else kind
        if isinstance(inner, BaseModel):
            filled[name] = fill(given, type(inner), inner)
        elif branch is not None and branch.model is not None:
            filled[name] = fill(given, branch.model)
    return filled
