"""What all tests may ask for."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gentool.cli.app import run
from tests.tasks.runs import Call, Ended


@pytest.fixture
def hide(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Hides a package as if it were not installed, parts that earlier tests of the process loaded included."""

    def hidden(package: str) -> None:
        loaded = [name for name in sys.modules if name.startswith(f"{package}.")]
        for name in [package, *loaded]:
            monkeypatch.setitem(sys.modules, name, None)  # type: ignore[arg-type]

    return hidden


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Runs one command line in this process: a fraction of what a process of its own costs."""

    def ended(*arguments: str | Path) -> Ended:
        code = run([str(argument) for argument in arguments])
        return Ended(code, *capsys.readouterr())

    return ended
