"""Formulas over attributes: `digit=7 and slant=0.7 and not thick`, parsed to a tree. No torch here.

    formula = term {"or" term}        a or b and not c  is  a or (b and (not c))
    term    = factor {"and" factor}
    factor  = "not" factor | "(" formula ")" | NAME ["=" VALUE]

A value is a number, or the name of a class. A name alone stands for class 1 of an attribute of two classes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from gentool.errors import UserError, did_you_mean

T = TypeVar("T")
WORDS = ("and", "or", "not")
_TOKEN = re.compile(
    r"\s*(?:(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)|(?P<name>[A-Za-z_][\w-]*)|(?P<sign>.))"
)


class FormulaError(UserError):
    """What is wrong with a formula, with a caret under the column."""

    kind = "formula"

    def __init__(self, text: str, column: int, message: str) -> None:
        super().__init__(f"{message}\n  {text}\n  {' ' * column}^", f"formula, column {column + 1}")


@dataclass(frozen=True)
class Attribute:
    """What a formula may say of one attribute.

    Attributes:
        names: of its classes; empty where it is a number in [0, 1].
        low, high: what 0 and 1 are in its own units, for messages.
    """

    names: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 1.0

    def legal(self) -> str:
        """The values it takes, in words."""
        if not self.names:
            return f"a number from 0 to 1 (in the data {self.low:.3g} to {self.high:.3g})"
        plain = [str(i) for i in range(len(self.names))]
        named = "" if list(self.names) == plain else f" ({', '.join(self.names)})"
        return f"0 to {len(self.names) - 1}{named}"


@dataclass(frozen=True)
class Term:
    """An attribute at a value: a class's number, or a number in [0, 1]."""

    name: str
    value: float

    def __str__(self) -> str:
        return f"{self.name}={self.value:g}"


@dataclass(frozen=True)
class Not:
    inner: Node

    def __str__(self) -> str:
        return f"not ({self.inner})" if isinstance(self.inner, And | Or) else f"not {self.inner}"


@dataclass(frozen=True)
class And:
    left: Node
    right: Node

    def __str__(self) -> str:
        return " and ".join(
            f"({side})" if isinstance(side, Or) else str(side) for side in (self.left, self.right)
        )


@dataclass(frozen=True)
class Or:
    left: Node
    right: Node

    def __str__(self) -> str:
        return f"{self.left} or {self.right}"


Node = Term | Not | And | Or


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    column: int


def parse(text: str, attributes: Mapping[str, Attribute]) -> Node:
    """The tree of a formula over these attributes.

    Raises:
        FormulaError: bad grammar, an unknown attribute, or a value that it does not take; names the column.
    """
    return _Parser(text, attributes).whole()


def fold(
    node: Node,
    leaf: Callable[[Term], T],
    both: Callable[[T, T], T],
    either: Callable[[T, T], T],
    negated: Callable[[T], T],
) -> T:
    """The value of a tree from those of its terms."""
    match node:
        case Term():
            return leaf(node)
        case Not(inner):
            return negated(fold(inner, leaf, both, either, negated))
        case And(left, right) | Or(left, right):
            sides = (fold(side, leaf, both, either, negated) for side in (left, right))
            return (both if isinstance(node, And) else either)(*sides)


def terms(node: Node) -> Iterator[Term]:
    """Its terms from left to right, those under a `not` included."""
    match node:
        case Term():
            yield node
        case Not(inner):
            yield from terms(inner)
        case And(left, right) | Or(left, right):
            yield from terms(left)
            yield from terms(right)


def contradictions(node: Node) -> list[str]:
    """What two terms, joined by `and` alone, say of one attribute that no picture is."""
    wanted: dict[str, Term] = {}
    found = []
    for term in _joined(node):
        first = wanted.setdefault(term.name, term)
        if first.value != term.value:
            found.append(f"{first} and {term} cannot both be")
    return found


def _joined(node: Node) -> Iterator[Term]:
    if isinstance(node, Term):
        yield node
    elif isinstance(node, And):
        yield from _joined(node.left)
        yield from _joined(node.right)


class _Parser:
    """Recursive descent over tokens; the last token is the end."""

    def __init__(self, text: str, attributes: Mapping[str, Attribute]) -> None:
        self.text, self.attributes, self.at = text, attributes, 0
        self.tokens = [
            _Token(str(m.lastgroup), m[str(m.lastgroup)], m.start(str(m.lastgroup)))
            for m in _TOKEN.finditer(text.rstrip())
            if m.lastgroup
        ]
        self.tokens.append(_Token("end", "the end", len(text.rstrip())))

    @property
    def token(self) -> _Token:
        return self.tokens[self.at]

    def take(self, *texts: str) -> bool:
        """Steps over one of these words or signs, if it stands here."""
        found = self.token.kind != "end" and self.token.text in texts
        self.at += found
        return found

    def fail(self, message: str, token: _Token | None = None) -> FormulaError:
        return FormulaError(self.text, (token or self.token).column, message)

    def whole(self) -> Node:
        if self.token.kind == "end":
            raise self.fail(f"the formula is empty; the attributes are {', '.join(self.attributes)}")
        node = self.formula()
        if self.token.kind != "end":
            if self.token.text == ")":
                raise self.fail("this bracket was never opened")
            raise self.fail(f"expected and, or, or the end, not {self.token.text!r}")
        return node

    def formula(self) -> Node:
        node = self.term()
        while self.take("or"):
            node = Or(node, self.term())
        return node

    def term(self) -> Node:
        node = self.factor()
        while self.take("and"):
            node = And(node, self.factor())
        return node

    def factor(self) -> Node:
        if self.take("not"):
            return Not(self.factor())
        opened = self.token
        if self.take("("):
            node = self.formula()
            if not self.take(")"):
                raise self.fail("this bracket is never closed", opened)
            return node
        if opened.kind != "name" or opened.text in WORDS:
            raise self.fail(
                f"expected an attribute, not {opened.text!r}"
                if opened.kind != "end"
                else "expected an attribute here"
            )
        self.at += 1
        if opened.text not in self.attributes:
            known = list(self.attributes)
            raise self.fail(
                f"unknown attribute {opened.text!r}{did_you_mean(opened.text, known)} (there are: {', '.join(known)})",
                opened,
            )
        return self.value(opened)

    def value(self, name: _Token) -> Term:
        attribute = self.attributes[name.text]
        if not self.take("="):
            if self.token.text in "<>!:~":
                raise self.fail(f"expected {name.text}=VALUE: a formula knows no {self.token.text!r}")
            if len(attribute.names) != 2:
                raise self.fail(f"{name.text} needs a value, {attribute.legal()}: {name.text}=...", name)
            return Term(name.text, 1.0)
        given = self.token
        if given.kind not in ("number", "name") or given.text in WORDS:
            raise self.fail(f"expected a value for {name.text}: {attribute.legal()}")
        self.at += 1
        if given.text in attribute.names:
            return Term(name.text, float(attribute.names.index(given.text)))
        number = float(given.text) if given.kind == "number" else -1.0
        top = len(attribute.names) - 1 if attribute.names else 1
        if not 0 <= number <= top or (attribute.names and not number.is_integer()):
            raise self.fail(f"{name.text} takes {attribute.legal()}, not {given.text}", given)
        return Term(name.text, number)
