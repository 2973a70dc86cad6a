"""The page of every HTML report: one file, nothing loaded from anywhere; it reads the same in ten years.

Only a report of point clouds has a script, which turns them, and the page allows that one by its hash.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from PIL import Image


def page(title: str, summary: str, sections: Mapping[str, str], footer: str, script: str = "") -> str:
    """One HTML document. Titles and words are escaped here; `sections`, by name, are HTML already, empty ones left out.

    The section `Warnings` is set off from the others. `script` is the only JavaScript that may run, after the page is
    there.
    """
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"; script-src 'sha256-{allowed}'" if script else ""
    code = f"<script>{script}</script>\n" if script else ""
    shown = {name: body for name, body in sections.items() if body}
    links = "".join(f'<li><a href="#{_anchor(name)}">{name}</a></li>' for name in shown)
    style = files("gentool.metrics").joinpath("report.css").read_text(encoding="utf-8")
    lead = f'<p class="lead">{escape(summary)}</p>' if summary else ""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        f"style-src 'unsafe-inline'{policy}\">\n"
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        f"<header><h1>{escape(title)}</h1>{lead}</header>\n"
        f'<nav aria-label="Sections"><ul>{links}</ul></nav>\n'
        + "\n".join(_section(name, body) for name, body in shown.items())
        + f"\n<footer><p>Made by gentool. {escape(footer)}</p></footer>\n</main>\n{code}</body>\n</html>\n"
    )


def _anchor(name: str) -> str:
    return name.lower().replace(" ", "-")


def _section(name: str, body: str) -> str:
    mark = ' class="warnings"' if name == "Warnings" else ""
    anchor = _anchor(name)
    return (
        f'<section id="{anchor}" aria-labelledby="{anchor}-h"{mark}>'
        f'<h2 id="{anchor}-h">{name}</h2>{body}</section>'
    )


def bullets(lines: Sequence[str]) -> str:
    """The lines as a list; "" for none."""
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>" if lines else ""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose rows are headed by their first cell."""
    names = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = "".join(
        f'<tr><th scope="row">{escape(first)}</th>'
        + "".join(f'<td class="plain">{escape(cell)}</td>' for cell in rest)
        + "</tr>"
        for first, *rest in rows
    )
    return f'<div class="scroll"><table><thead><tr>{names}</tr></thead><tbody>{body}</tbody></table></div>'


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted keys and text of nested mappings."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        elif isinstance(value, str):
            yield f"{prefix}{key}", value
        else:
            yield f"{prefix}{key}", json.dumps(value, ensure_ascii=False, default=str)


def figure(picture: Image.Image, scale: int, what: str, caption: str) -> str:
    """A picture in the page itself, at its own pixels; the browser enlarges it `scale` times, square."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    size = f'width="{picture.width * scale}" height="{picture.height * scale}"'
    return (
        f'<figure><img {size} alt="{escape(what)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )
