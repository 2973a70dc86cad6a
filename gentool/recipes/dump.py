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
    """Quotes text that YAML 1.1 or YAML 1.2 would read as anything else; lists of scalars stay on one line."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_list(self, data: list[Any]) -> yaml.Node:
        flow = not any(isinstance(item, (dict, list)) for item in data)
        return self.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=flow)

    def represent_float(self, data: float) -> yaml.Node:
        text = repr(
            data
        )  # the shortest text that is this number; 1e-05 lacks the point that YAML 1.1 asks for
        mantissa, e, exponent = text.partition("e")
        point = "" if not e or "." in mantissa else ".0"
        return self.represent_scalar("tag:yaml.org,2002:float", f"{mantissa}{point}{e}{exponent}")


_Dumper.add_representer(list, _Dumper.represent_list)
_Dumper.add_representer(float, _Dumper.represent_float)
for _kind, _pattern in (("float", scalars.FLOAT), ("int", scalars.INT), ("bool", scalars.BOOL)):
    _Dumper.add_implicit_resolver(
        f"tag:yaml.org,2002:{_kind}", re.compile(rf"(?:{_pattern.pattern})\Z"), None
    )


def dump(values: dict[str, Any]) -> str:
    """The complete text of a recipe, its first line the editors' hint and its second the schema's version."""
    body = yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
    return f"{EDITOR_LINE}\nschema: {SCHEMA}\n{body}"
