"""Type annotations of a recipe's schema in a person's words ("an integer above 0")."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types as at
from pydantic import BaseModel
from pydantic.fields import FieldInfo

_NAMES: dict[Any, str] = {
    int: "an integer",
    float: "a number",
    bool: "true or false",
    str: "text",
    Path: "a path",
    NoneType: "null",
    Any: "a value",
}


@dataclass(frozen=True)
class Kind:
    """An annotation taken apart: bare type, constraints, the key that tells a union's branches apart."""

    base: Any
    limits: tuple[Any, ...] = ()
    tag: str | None = None
    nullable: bool = False

    @classmethod
    def of(cls, annotation: Any, limits: tuple[Any, ...] = (), tag: str | None = None) -> Kind:
        nullable = False
        while True:
            if get_origin(annotation) is Annotated:
                annotation, *extras = get_args(annotation)
                for extra in extras:
                    field = extra if isinstance(extra, FieldInfo) else None
                    limits += tuple(field.metadata) if field else (extra,)
                    tag = tag or (_tag(field) if field else None)
            elif _is_union(annotation) and NoneType in get_args(annotation):
                nullable = True
                rest = tuple(item for item in get_args(annotation) if item is not NoneType)
                annotation = Union[rest]  # noqa: UP007
            else:
                return cls(annotation, limits, tag, nullable)

    @classmethod
    def of_field(cls, field: FieldInfo) -> Kind:
        return cls.of(field.annotation, tuple(field.metadata), _tag(field))

    @property
    def model(self) -> type[BaseModel] | None:
        """The block's class, if this is a block of keys (or null)."""
        return self.base if isinstance(self.base, type) and issubclass(self.base, BaseModel) else None

    @property
    def is_union(self) -> bool:
        """Whether there is a choice of types, null apart."""
        return _is_union(self.base)

    def branches(self) -> list[Kind]:
        """The types there is a choice of; itself, if there is none."""
        return [Kind.of(item, self.limits) for item in get_args(self.base)] if self.is_union else [self]

    def branch(self, label: str) -> Kind | None:
        """The branch of a union that pydantic's location calls `label`; None for one that is not a block."""
        if self.tag is not None:
            return next((item for item in self.branches() if label in item.tagged(self.tag)), None)
        return next((item for item in self.branches() if item.model and item.model.__name__ == label), None)

    def tagged(self, tag: str) -> list[str]:
        """The names by which this block is chosen in a union told apart by `tag`."""
        return list(Kind.of_field(self.model.model_fields[tag]).choices()) if self.model else []

    def tags(self) -> list[str]:
        """All names a tagged union can be chosen by."""
        return [name for item in self.branches() for name in item.tagged(self.tag)] if self.tag else []

    def child(self, item: int | str) -> Kind:
        """The kind of the key or element `item`; anything, where the schema does not say."""
        if self.model is not None:
            field = self.model.model_fields.get(str(item))
            return Kind.of_field(field) if field else Kind(Any)
        origin, arguments = get_origin(self.base), get_args(self.base)
        if origin is dict:
            return Kind.of(arguments[1])
        if origin in (list, set, frozenset) or arguments[1:] == (...,):
            return Kind.of(arguments[0])
        if origin is tuple and isinstance(item, int) and item < len(arguments):
            return Kind.of(arguments[item])
        return Kind(Any)

    def keys(self) -> list[str]:
        return list(self.model.model_fields) if self.model else []

    def choices(self) -> list[str]:
        """The texts it can be, of a fixed set."""
        return [
            item
            for branch in self.branches()
            if get_origin(branch.base) is Literal
            for item in get_args(branch.base)
            if isinstance(item, str)
        ]

    def plain_types(self) -> set[Any]:
        """The scalar types it can be; a number may be written as an integer."""
        found = {branch.base for branch in self.branches()}
        return found | {int} if float in found else found

    def words(self) -> str:
        """What reads well after "expected": `an integer above 0`, `one of a, b`, `a block of keys (x, y)`."""
        if self.tag is not None:
            texts = [f"a block with {self.tag}: one of {', '.join(self.tags())}"]
        else:
            texts = [branch._words() for branch in self.branches()]
        return " or ".join(dict.fromkeys([*texts, "null"] if self.nullable else texts))

    def _words(self) -> str:
        origin, arguments = get_origin(self.base), get_args(self.base)
        if origin is Literal:
            names = [_literal(item) for item in arguments]
            return names[0] if len(names) == 1 else f"one of {', '.join(names)}"
        if self.model is not None:
            return f"a block of keys ({', '.join(self.keys())})"
        if origin is dict or self.base is dict:
            return "a block of keys"
        if origin is tuple and arguments[1:] != (...,):
            return f"a list of {len(arguments)}: {', '.join(Kind.of(item).words() for item in arguments)}"
        if origin in (list, tuple, set, frozenset):
            return f"a list, each item {Kind.of(arguments[0]).words()}{self._limits()}"
        return f"{_NAMES.get(self.base, getattr(self.base, '__name__', str(self.base)))}{self._limits()}"

    def _limits(self) -> str:
        ge = next((item.ge for item in self.limits if isinstance(item, at.Ge)), None)
        le = next((item.le for item in self.limits if isinstance(item, at.Le)), None)
        texts = [f"between {ge} and {le}"] if ge is not None and le is not None else []
        for limit in self.limits:
            match limit:
                case at.Gt(gt=bound):
                    texts.append(f"above {bound}")
                case at.Lt(lt=bound):
                    texts.append(f"below {bound}")
                case at.Ge(ge=bound) if le is None:
                    texts.append(f"of at least {bound}")
                case at.Le(le=bound) if ge is None:
                    texts.append(f"of at most {bound}")
                case at.MultipleOf(multiple_of=factor):
                    texts.append(f"that is a multiple of {factor}")
                case at.MinLen(min_length=length):
                    texts.append(f"of length at least {length}")
                case at.MaxLen(max_length=length):
                    texts.append(f"of length at most {length}")
                case _ if pattern := getattr(limit, "pattern", None):
                    texts.append(f"that matches {pattern}")
        return f" {' and '.join(texts)}" if texts else ""


def _is_union(annotation: Any) -> bool:
    return get_origin(annotation) in (Union, UnionType)


def _tag(field: FieldInfo) -> str | None:
    return field.discriminator if isinstance(field.discriminator, str) else None


def _literal(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
