from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gentool.cli.app import run
from tests.tasks.runs import TINY, Ended, gentool


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny run trained without interruption; tests only read it."""
    path = tmp_path_factory.mktemp("whole") / "run"
    done = gentool("train", *TINY, "--run-dir", path, "-q")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(path)
    return path


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Runs one command line in this process: a fraction of what a process of its own costs."""

    def ended(*arguments: str | Path) -> Ended:
        code = run([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return Ended(code, out, err)

    return ended
