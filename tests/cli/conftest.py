"""The command line with a family, recipes and solvers of the tests' own."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))

import recipe_toy

from gentool import families
from gentool.cli.app import run
from gentool.families.base import Family
from gentool.recipes import shipped
from gentool.registry import Registry
from tests.tasks.runs import Ended

FAMILY = Family("toy", "A family of the tests.", "Nobody 2026, Nothing", recipe_toy.ToyRecipe, "toy:Toy")


@pytest.fixture
def gentool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Ended]:
    """Runs `gentool ARGS` in a folder that has the toy's recipe as `r.yaml` and shipped as `toy/small`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text(recipe_toy.RECIPE)
    library = tmp_path / "library" / "toy"
    library.mkdir(parents=True)
    (library / "small.yaml").write_text(recipe_toy.RECIPE)
    monkeypatch.setattr(shipped, "root", lambda: library.parent)
    toys: Registry[Family] = Registry("family", {"toy": "toy_family:FAMILY"})
    monkeypatch.setitem(sys.modules, "toy_family", SimpleNamespace(FAMILY=FAMILY))  # type: ignore[arg-type]
    monkeypatch.setattr(families, "FAMILIES", toys)
    monkeypatch.setattr(families, "recipe_schema", recipe_toy.schema_of)
    catalog = ModuleType("catalog")
    heun = SimpleNamespace(
        name="heun", summary="Trapezoids", order="2", nfe="2N-1", needs=("time",), paper="Karras 2022"
    )
    catalog.SOLVERS = {"heun": heun}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "gentool.diffusion.solvers.catalog", catalog)

    def call(*arguments: str) -> Ended:
        code = run(arguments)
        out, err = capsys.readouterr()
        return Ended(code, out, err)

    return call
