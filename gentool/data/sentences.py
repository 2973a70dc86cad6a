"""Sentences that describe examples, and the phrases they are made of. No torch, no numpy."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from gentool.errors import UserError, did_you_mean

_BETWEEN = re.compile(r",|\bwith\b|\band\b")
_ARTICLE = re.compile(r"^(an?|the)\s+")


def sentence(what: str, attributes: Mapping[str, str]) -> str:
    """`"chair with round seat, four legs"` from `"chair"` and `{"seat": "round", "legs": "four"}`."""
    return f"{what} with " + ", ".join(f"{value} {name}" for name, value in attributes.items())


def phrases(text: str, known: Sequence[str], where: str) -> list[str]:
    """The phrases of a sentence: what stands between commas, `with` and `and`, without case and articles.

    Raises:
        UserError: there are none, or one that is not among `known`; lists these.
    """
    parts = (_ARTICLE.sub("", part.strip()) for part in _BETWEEN.split(text.lower()))
    found = [" ".join(part.split()) for part in parts if part]
    if not found:
        raise UserError(f"{text!r} says nothing; the phrases are {', '.join(known)}", where)
    for phrase in found:
        if phrase not in known:
            raise UserError(
                f"unknown phrase {phrase!r}{did_you_mean(phrase, known)} (the phrases are {', '.join(known)})",
                where,
            )
    return found
