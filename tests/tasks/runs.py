"""A tiny run that trains in seconds, through the command line, for tests of what surrounds training."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TINY = (
    "quickstart",
    "trainer.max_steps=60",
    "trainer.checkpoint_every=10",
    "trainer.log_every=5",
    "data.batch_size=32",
    "model.network.width=32",
    "model.network.blocks=2",
    "model.network.dropout=0.1",
    "optimizer.warmup=5",
    "sample.count=20",
)


@dataclass
class Ended:
    """How a command line ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one document on standard output; anything beside it there is an error."""
        return json.loads(self.out)

    def refused(self, code: int, *words: str) -> None:
        """It ended with this code and one message that holds all these words, and without a traceback."""
        assert self.code == code, self.err
        assert "Traceback" not in self.err
        for word in words:
            assert word in self.err + self.out


Call = Callable[..., Ended]
"""The fixture `call`: runs one command line in this process."""


def environment() -> dict[str, str]:
    root = str(Path(__file__).parents[2])
    return {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}


def gentool(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs the command line to its end; the caller judges the exit code."""
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, env=environment(), cwd=cwd, timeout=240
    )


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    )


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "gentool", *map(str, arguments)]
