"""Strict YAML with positions: the one way text becomes a recipe's values.

Built on PyYAML's events, so that a hostile file is given up in bounded time: at most 1 MiB, 10 000 values, 32
levels. Anchors, aliases, tags, duplicate keys and second documents are refused with their position. Faults
that leave the rest readable are collected; those that do not (syntax, limits) raise at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import yaml

from gentool.errors import Problem, RecipeError
from gentool.recipes.scalars import Scalar, scalar

MAX_BYTES = 1 << 20
MAX_VALUES = 10_000
MAX_DEPTH = 32


@dataclass(frozen=True, slots=True)
class Node:
    """A value and where it was written; `key_where` is where its key was (its own place, if it has none)."""

    value: Scalar | dict[str, Node] | list[Node]
    where: str
    key_where: str

    def plain(self) -> Any:
        """The value in Python's own types, positions dropped."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value


def load(data: bytes, name: str, problems: list[Problem]) -> Node:
    """The tree of a recipe file's bytes; places read `name:line:column`, counted from 1.

    Faults that leave the rest readable are appended to `problems`.

    Raises:
        RecipeError: not UTF-8, not YAML, beyond the limits, or not a mapping.
    """
    if len(data) > MAX_BYTES:
        _fail(problems, f"{name}:1:1", f"the file is larger than {MAX_BYTES >> 20} MiB: no recipe is")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, column = _end(data[: error.start].decode("utf-8-sig"))
        _fail(problems, f"{name}:{line}:{column}", "not UTF-8 text")
    root = parse(text, lambda line, column: f"{name}:{line}:{column}", problems)
    if root.value is None:
        _fail(problems, root.where, "the recipe is empty; it starts with `family: NAME`")
    if not isinstance(root.value, dict):
        _fail(problems, root.where, "a recipe is a mapping of keys (`family: NAME`, `data: {...}`, ...)")
    return root


def parse(text: str, at: Callable[[int, int], str], problems: list[Problem], key: str = "") -> Node:
    """The tree of one YAML document; `at(line, column)` words a place, `key` is the dotted key of the root.

    Raises:
        RecipeError: as `load`.
    """
    try:
        builder = _Builder(text, at, problems)
    except yaml.reader.ReaderError as error:
        _fail(
            problems,
            at(*_end(text[: error.position])),
            f"the character {chr(error.character)!r} is not allowed in YAML",
            key,
        )
    try:
        return builder.document(key)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark or builder.loader.get_mark()
        problem = error.problem or "cannot be read"
        if "'\\t'" in problem:
            message = "a tab cannot indent or separate here; use spaces"
        else:
            message = "not valid YAML: " + ", ".join(filter(None, [error.context, problem]))
        _fail(problems, at(mark.line + 1, mark.column + 1), message, key)
    except (
        ValueError,
        OverflowError,
    ):  # PyYAML on escapes beyond Unicode ("\UFFFFFFFF") and endless %YAML numbers
        mark = builder.loader.get_mark()
        _fail(
            problems,
            at(mark.line + 1, mark.column + 1),
            "not valid YAML: a number or escape out of range",
            key,
        )


class _Builder:
    def __init__(self, text: str, at: Callable[[int, int], str], problems: list[Problem]) -> None:
        self.loader = yaml.SafeLoader(text)
        self.at = at
        self.problems = problems
        self.count = 0

    def document(self, key: str) -> Node:
        self.loader.get_event()  # the stream's start
        event = self.loader.get_event()
        if isinstance(event, yaml.StreamEndEvent):
            where = self.at(1, 1)
            return Node(None, where, where)
        root = self.node(self.loader.get_event(), key, 0, None)
        self.loader.get_event()  # the document's end
        event = self.loader.get_event()
        if not isinstance(event, yaml.StreamEndEvent):
            _fail(self.problems, self.place(event), "a second document starts here; one is allowed", key)
        return root

    def place(self, event: yaml.Event) -> str:
        assert event.start_mark is not None
        return self.at(event.start_mark.line + 1, event.start_mark.column + 1)

    def node(self, event: yaml.Event, key: str, depth: int, key_where: str | None) -> Node:
        where = self.place(event)
        self.count += 1
        if self.count > MAX_VALUES:
            _fail(self.problems, where, f"more than {MAX_VALUES} values: no recipe has so many", key)
        if depth > MAX_DEPTH:
            _fail(self.problems, where, f"nested deeper than {MAX_DEPTH} levels", key)
        value: Scalar | dict[str, Node] | list[Node]
        if isinstance(event, yaml.AliasEvent):
            self.fault(where, key, f"aliases are not allowed (*{event.anchor}); write the value out")
            return Node(None, where, key_where or where)
        assert isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent)
        if event.anchor is not None:
            self.fault(where, key, f"anchors are not allowed (&{event.anchor}); write the value out")
        if event.tag is not None:
            self.fault(where, key, f"tags are not allowed ({event.tag})")
        if isinstance(event, yaml.ScalarEvent):
            value = self.scalar(event, key, where)
        elif isinstance(event, yaml.MappingStartEvent):
            value = self.mapping(key, depth)
        else:
            value = self.sequence(key, depth)
        return Node(value, where, key_where or where)

    def mapping(self, key: str, depth: int) -> dict[str, Node]:
        found: dict[str, Node] = {}
        while not isinstance(event := self.loader.get_event(), yaml.MappingEndEvent):
            where = self.place(event)
            name = self.name(event, key, where)
            dotted = f"{key}.{name}" if key else name
            node = self.node(self.loader.get_event(), dotted, depth + 1, where)
            if name in found:
                self.fault(where, dotted, f"written twice; first at {found[name].key_where}")
            else:
                found[name] = node
        return found

    def name(self, event: yaml.Event, key: str, where: str) -> str:
        if not isinstance(event, yaml.ScalarEvent):
            _fail(self.problems, where, "a key must be plain text", key)
        name = event.value
        dotted = f"{key}.{name}" if key else name
        if event.anchor is not None or event.tag is not None:
            self.fault(where, dotted, "a key takes no anchor or tag")
        if not name or not is_text(name):
            self.fault(where, key, f"a key must be text, got {name!r}")
        elif "." in name:
            self.fault(where, dotted, "a key cannot hold a dot here; nest the blocks instead")
        elif event.implicit[0] and not _resolves_to_text(name):
            self.fault(where, dotted, f"a key must be text, got {name}; quote it")
        return str(name)

    def sequence(self, key: str, depth: int) -> list[Node]:
        found: list[Node] = []
        while not isinstance(event := self.loader.get_event(), yaml.SequenceEndEvent):
            found.append(self.node(event, f"{key}.{len(found)}", depth + 1, None))
        return found

    def scalar(self, event: yaml.ScalarEvent, key: str, where: str) -> Scalar:
        if not is_text(event.value):
            self.fault(where, key, "not valid Unicode text")
            return None
        if not event.implicit[0]:  # quoted, or a block of text
            return str(event.value)
        try:
            return scalar(event.value)
        except ValueError as error:
            self.fault(where, key, str(error))
            return None

    def fault(self, where: str, key: str, message: str) -> None:
        self.problems.append(Problem(where, key, message))


def is_text(text: str) -> bool:
    """Whether UTF-8 can hold it: escapes and undecodable arguments can smuggle in half a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _resolves_to_text(name: str) -> bool:
    try:
        return isinstance(scalar(name), str)
    except ValueError:
        return False


def _end(text: str) -> tuple[int, int]:
    """Line and column, from 1, of what follows `text`."""
    return text.count("\n") + 1, len(text) - text.rfind("\n")


def _fail(problems: list[Problem], where: str, message: str, key: str = "") -> NoReturn:
    raise RecipeError([*problems, Problem(where, key, message)])
