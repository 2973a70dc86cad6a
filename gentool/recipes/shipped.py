"""The recipes that come with gentool, by name (`edm/digits-small`)."""

from __future__ import annotations

from pathlib import Path

from gentool.errors import UserError, did_you_mean
from gentool.recipes.loader import load


def root() -> Path:
    """The folder of shipped recipes: inside the package in a wheel, at the repository's top in a checkout."""
    here = Path(__file__).parent
    packed = here / "shipped"
    return packed if packed.is_dir() else here.parents[1] / "recipes"


def names() -> list[str]:
    """All names, sorted: a recipe's path below `root()` without its suffix."""
    return sorted(file.relative_to(root()).with_suffix("").as_posix() for file in root().rglob("*.yaml"))


def path(name: str) -> Path:
    """The file of a shipped recipe.

    Raises:
        UserError: for a name that is not there.
    """
    if name not in (known := names()):
        raise UserError(f"no shipped recipe {name!r}{did_you_mean(name, known)} (see `gentool recipes list`)")
    return root() / f"{name}.yaml"


def describe(name: str) -> dict[str, str]:
    """`{name, family, description}`, read off the file without checking it against its family.

    Raises:
        UserError: for a name that is not there, or a file that is not YAML.
    """
    values = load(path(name).read_bytes(), f"{name}.yaml", []).plain()
    return {
        "name": name,
        "family": str(values.get("family", "")),
        "description": str(values.get("description", "")),
    }
