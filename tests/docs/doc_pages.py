"""What stands in the documents: pages, links, anchors, code blocks, console sessions."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

_FENCE = re.compile(r"^(```+)(\w*)[^\n]*\n(.*?)^\1\s*$", re.M | re.S)
_LINK = re.compile(r"\[[^\]]*\]\(([^()\s]+)\)")
_HEADING = re.compile(r"^#{1,6} +(.+?)\s*$", re.M)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, text and first line's number."""

    language: str
    text: str
    line: int


@dataclass(frozen=True)
class Command:
    """A line after `$ ` of a console block, and what is shown below it."""

    text: str
    shown: tuple[str, ...]
    line: int


def blocks(text: str) -> list[Block]:
    return [Block(m[2], m[3], text.count("\n", 0, m.start()) + 2) for m in _FENCE.finditer(text)]


def prose(text: str) -> str:
    """The page without its code, fenced, indented or inline."""
    text = _FENCE.sub("", text)
    return re.sub(r"`[^`\n]+`", "code", re.sub(r"^ {4}.*$", "", text, flags=re.M))


def links(text: str) -> list[str]:
    """Targets of links and pictures."""
    return _LINK.findall(prose(text))


def anchors(text: str) -> set[str]:
    """The names that headings can be linked by, as code hosts make them; repeated ones are numbered."""
    found: set[str] = set()
    for heading in _HEADING.findall(_FENCE.sub("", text)):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        name, again = slug, 0
        while name in found:
            again += 1
            name = f"{slug}-{again}"
        found.add(name)
    return found


def console(text: str) -> list[Command]:
    """The commands of all console blocks, in order."""
    commands: list[Command] = []
    for block in blocks(text):
        if block.language != "console":
            continue
        for offset, line in enumerate(block.text.splitlines()):
            if line.startswith("$ "):
                commands.append(Command(line[2:], (), block.line + offset))
            elif line.strip():
                last = commands.pop()
                commands.append(Command(last.text, (*last.shown, line), last.line))
    return commands


def named_files(text: str) -> dict[str, str]:
    """Blocks whose first line is a comment that names a file: {path: content}."""
    found = {}
    for block in blocks(text):
        first, _, rest = block.text.partition("\n")
        if match := re.fullmatch(r"# ([\w./-]+\.\w+)", first):
            found[match[1]] = rest.lstrip("\n")
    return found
