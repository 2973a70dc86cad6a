"""The wheel is enough: recipes, styles and the command line are in it, and work away from the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel unpacks to."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    site = folder / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    return site


def run(site: Path, cwd: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, "-m", "gentool", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=cwd, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_wheel_carries_every_recipe(site: Path, tmp_path: Path) -> None:
    listed = run(site, tmp_path, "recipes", "list")
    for path in (ROOT / "recipes").rglob("*.yaml"):
        name = path.relative_to(ROOT / "recipes").with_suffix("").as_posix()
        assert name in listed
    assert "quickstart: ok" in run(site, tmp_path, "recipes", "validate", "quickstart")


def test_wheel_carries_what_is_not_python(site: Path) -> None:
    for path in (ROOT / "gentool").rglob("*"):
        if path.is_file() and path.suffix not in (".pyc", ".py"):
            assert (site / "gentool" / path.relative_to(ROOT / "gentool")).is_file(), path.name


def test_wheel_holds_no_tests_or_results(site: Path) -> None:
    tops = {path.name for path in site.iterdir() if not path.name.endswith(".dist-info")}
    assert tops == {"gentool"}
