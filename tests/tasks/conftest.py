from __future__ import annotations

from pathlib import Path

import pytest

from tests.tasks.runs import TINY, gentool


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny run trained without interruption; tests only read it."""
    path = tmp_path_factory.mktemp("whole") / "run"
    done = gentool("train", *TINY, "--run-dir", path, "-q")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(path)
    return path
