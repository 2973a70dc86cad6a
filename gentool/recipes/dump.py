"""Recipe values as YAML that the strict loader, and any other YAML reader, reads back as the same values."""

from __future__ import annotations

import re
from typing import Any

import yaml

from gentool.recipes import scalars
from gentool.recipes.schema import SCHEMA

EDITOR_LINE = "# yaml-language-server: $schema=gentool.schema.json"
"""First line of every recipe: editors complete keys from the file `gentool recipes schema` writes."""


class _Dumper(yaml.SafeDumper):
    """Quotes text that YAML 1.1 or 1.2 would read as anything else; lists of scalars stay on one line."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _list(dumper: _Dumper, data: list[Any]) -> yaml.Node:
    flow = not any(isinstance(item, (dict, list)) for item in data)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=flow)


def _text(dumper: _Dumper, data: str) -> yaml.Node:
    # Between single quotes PyYAML folds U+0085 away; line breaks and controls are safe between double ones.
    return dumper.represent_scalar("tag:yaml.org,2002:str", data, style=None if data.isprintable() else '"')


_Dumper.add_representer(list, _list)
_Dumper.add_representer(str, _text)
for _kind, _pattern in (("float", scalars.FLOAT), ("int", scalars.INT), ("bool", scalars.BOOL)):
    _Dumper.add_implicit_resolver(
        f"tag:yaml.org,2002:{_kind}", re.compile(rf"(?:{_pattern.pattern})\Z"), None
    )


def dump(values: dict[str, Any]) -> str:
    """The complete text of a recipe, its first line the editors' hint and its second the schema's version."""
    body = yaml.dump(
        {"schema": SCHEMA} | values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100
    )
    return f"{EDITOR_LINE}\n{body}"
