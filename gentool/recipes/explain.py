"""Pydantic's errors in a person's words, each at its place in the file.

Pydantic reports one error per branch of a union and locations that mix keys with branch labels; here the
schema is walked along with the location, so that a fault is one `Problem` with the key that the person wrote.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from gentool.errors import Problem, did_you_mean
from gentool.recipes.kinds import Kind
from gentool.recipes.loader import Node
from gentool.recipes.scalars import scalar
from gentool.recipes.schema import Misfit

MOST = 100  # problems that are worded; a file with more is told their number


def explain(error: ValidationError, model: type[BaseModel], root: Node) -> list[Problem]:
    """One problem a fault, in the order of the file (faults of overrides last)."""
    details = error.errors(include_url=False)
    spots = [(_locate(model, (*detail["loc"], *_inside(detail))), detail) for detail in details[:MOST]]
    found: dict[tuple[str, ...], Problem] = {}
    for spot, detail in spots:
        # Where a union has a block among its branches and got one, its faults are inside that block.
        deeper = any(other.path[: len(spot.path)] == spot.path != other.path for other, _ in spots)
        if not (spot.kind.is_union and deeper):
            found.setdefault(spot.path, _word(detail, spot, root))
    problems = sorted(found.values(), key=_order)
    if len(details) > MOST:
        problems.append(Problem(root.where, "", f"and {len(details) - MOST} more faults"))
    return problems


def _inside(detail: Any) -> tuple[str, ...]:
    """The keys below the block that a validator was given, where its fault belongs to one of them."""
    error = detail.get("ctx", {}).get("error")
    return tuple(error.key.split(".")) if isinstance(error, Misfit) else ()


@dataclass(frozen=True)
class _Spot:
    """Where an error is: `path` as the person wrote it, the kind expected there, and the kind it is in."""

    path: tuple[str, ...]
    kind: Kind
    owner: Kind


def _locate(model: type[BaseModel], location: Sequence[int | str]) -> _Spot:
    path: tuple[str, ...] = ()
    kind = owner = Kind(model)
    for index, item in enumerate(location):
        if kind.is_union:
            branch = kind.branch(str(item))
            inside = index + 1 < len(location)
            # Where no branch fits, the fault is the union's; a plain one is told so once for each branch.
            if branch is None or (kind.tag is None and not inside):
                break
            kind = branch
        elif item != "[key]":  # that marks a fault of the dict key before it
            path, owner, kind = (*path, str(item)), kind, kind.child(item)
    return _Spot(path, kind, owner)


def _word(detail: Any, spot: _Spot, root: Node) -> Problem:
    path, kind, dotted = spot.path, spot.kind, ".".join(spot.path)
    if detail["type"] == "extra_forbidden":
        keys = spot.owner.keys()
        hint = did_you_mean(path[-1], keys) or (f" (there are: {', '.join(keys)})" if keys else "")
        return Problem(_nearest(root, path).key_where, dotted, f"unknown key{hint}")
    if detail["type"] == "missing":
        if spot.owner.model is not None:
            return Problem(_nearest(root, path[:-1]).key_where, dotted, f"required: {kind.words()}")
        path, kind, dotted = path[:-1], spot.owner, ".".join(path[:-1])  # a list that is too short
    node = _nearest(root, path)
    if kind.tag is not None and detail["type"].startswith("union_tag") and isinstance(node.value, dict):
        names = kind.tags()
        dotted = f"{dotted}.{kind.tag}" if dotted else kind.tag
        if kind.tag not in node.value:
            return Problem(node.key_where, dotted, f"required: one of {', '.join(names)}")
        node = node.value[kind.tag]
        hint = did_you_mean(str(node.value), names)
        return Problem(node.where, dotted, f"expected one of {', '.join(names)}, got {_show(node)}{hint}")
    if detail["type"] in ("value_error", "assertion_error"):  # a validator of the schema's own
        return Problem(node.where, dotted, str(detail["ctx"]["error"]))
    return Problem(node.where, dotted, f"expected {kind.words()}, got {_show(node)}{_hint(kind, node)}")


def _nearest(root: Node, path: Sequence[str]) -> Node:
    """The node at `path`, or the deepest that was written on the way there."""
    node = root
    for item in path:
        if isinstance(node.value, dict) and item in node.value:
            node = node.value[item]
        elif isinstance(node.value, list) and item.isdigit() and int(item) < len(node.value):
            node = node.value[int(item)]
        else:
            break
    return node


def _show(node: Node) -> str:
    value = node.plain()
    text = repr(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _hint(kind: Kind, node: Node) -> str:
    """What to write instead, where that can be guessed."""
    value = node.value
    if value is None and kind.model is not None:
        return "; give it keys, or take it out"
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**63 and kind.base is int:
        return f"; write {int(value)}"
    if isinstance(value, str):
        if near := did_you_mean(value, kind.choices()):
            return near
        try:
            bare, joined = scalar(value.strip()), scalar(value.replace("_", ""))
        except ValueError:
            return ""
        if type(bare) in kind.plain_types():
            return "; remove the quotes"
        if type(joined) in kind.plain_types():
            return f"; write {joined}"
    return ""


def _order(problem: Problem) -> tuple[bool, int, int]:
    place = re.search(r":(\d+):(\d+)$", problem.where)
    return (False, int(place[1]), int(place[2])) if place else (True, 0, 0)
