"""Scalars of a recipe: the YAML 1.2 core schema, and nothing more.

PyYAML resolves YAML 1.1 (`1e-3` is text, `on` is true, `012` is ten, `12:30:00` is a number); every recipe
and every override is read by the rules here instead (YAML 1.2.2, section 10.3.2).
"""

from __future__ import annotations

import math
import re
from typing import TypeAlias

Scalar: TypeAlias = bool | int | float | str | None

NULL = re.compile(r"~|null|Null|NULL|")
BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")

_OCTAL_LOOK = re.compile(r"[-+]?0[0-9]+")


def scalar(text: str) -> Scalar:
    """The value of a plain (unquoted) scalar.

    Raises:
        ValueError: with words for the user, for `.nan`, `.inf`, numbers beyond 64 bits and `012`, which
            YAML 1.1 reads as ten and YAML 1.2 as twelve.
    """
    if NULL.fullmatch(text):
        return None
    if BOOL.fullmatch(text):
        return text.lower() == "true"
    if INT.fullmatch(text):
        return _integer(text)
    if FLOAT.fullmatch(text):
        number = float(text)
        if math.isinf(number):
            raise ValueError(f"{_short(text)} is too large for a 64-bit float")
        return number
    if NOT_FINITE.fullmatch(text):
        raise ValueError(f"a number must be finite, got {text}")
    return text


def _integer(text: str) -> int:
    if _OCTAL_LOOK.fullmatch(text):
        raise ValueError(
            f"{_short(text)} is ambiguous: write it without the leading zero, or 0o... for octal, or quote it"
        )
    # int() refuses thousands of digits, and nothing below can hold more than 64 bits.
    number = int(text, 0) if len(text) <= 32 else 2**63
    if abs(number) >= 2**63:
        raise ValueError(f"{_short(text)} is too large for a 64-bit integer")
    return number


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:37]}..."
