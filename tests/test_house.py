"""The house keeps its rules: who imports whom, and what costs no torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import gentool

ROOT = Path(gentool.__file__).parents[1]
HEAVY = {"torch", "lightning", "torchmetrics", "opacus", "sklearn", "scipy"}


def heavy_after(code: str) -> str:
    """Names of the heavy packages that a fresh interpreter has imported after `code`."""
    show = f"import sys; print(' '.join(sorted({HEAVY} & set(sys.modules))), file=sys.__stderr__)"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{show}"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr.strip().splitlines()[-1] if done.stderr.strip() else ""


def test_import_contracts() -> None:
    """The layers and the independence of families, as pyproject.toml draws them.

    In a process of its own: the linter redirects the standard streams, which broke the test process's capture.
    """
    pytest.importorskip("importlinter.cli")
    if not (ROOT / "pyproject.toml").is_file():
        pytest.skip("an installed gentool carries no contracts")
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["--version"],
        ["train", "--help"],
        ["sample", "--help"],
        ["evaluate", "--help"],
        ["recipes", "validate", "edm/cifar10-paper"],
        ["recipes", "list"],
        ["families", "list"],
        ["solvers", "list"],
    ],
    ids=" ".join,
)
def test_no_torch_for_what_is_instant(words: list[str]) -> None:
    assert heavy_after(f"from gentool.cli.app import run; assert run({words!r}) == 0") == ""


def test_schemas_and_catalogues_import_no_torch() -> None:
    """Every config.py and catalog.py, of families and floors alike."""
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in sorted((ROOT / "gentool").rglob("*.py"))
        if path.name in ("config.py", "catalog.py", "schema.py", "options.py")
    ]
    assert len(names) > 5
    assert heavy_after("\n".join(f"import {name}" for name in names)) == ""
