"""gentool runs: what the run folders on a disk hold and how far they are. Only reads, and needs no torch."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from gentool import families
from gentool.errors import GentoolError, UserError
from gentool.privacy.account import account_of
from gentool.privacy.runs import ledger_of
from gentool.recipes.resolve import Resolved, resolve
from gentool.runs.folder import RunFolder
from gentool.training.metricslog import read_rows

State = Literal["training", "complete", "stopped", "not begun", "damaged"]
"""`training`: a process of this machine holds the folder; `not begun`: there is no checkpoint yet."""


@dataclass(frozen=True)
class RunStatus:
    """One run.

    Attributes:
        step: of the newest checkpoint or row of the log. loss: of that row. epsilon: spent by the ledger, all lives
            together; None where nothing is private. fault: why the run is `damaged`.
        checkpoints: (step, bytes) of each. lives: one entry a start, as provenance.json has them.
        metrics: of the last evaluation.
    """

    path: Path
    recipe: str
    state: State
    step: int = 0
    max_steps: int = 0
    loss: float | None = None
    epsilon: float | None = None
    fault: str | None = None
    checkpoints: list[tuple[int, int]] = field(default_factory=list)
    lives: list[dict[str, Any]] = field(default_factory=list)
    samples: list[str] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        """What `gentool runs list` tells."""
        return {
            "run": str(self.path),
            "recipe": self.recipe,
            "state": self.state,
            "step": self.step,
            "max_steps": self.max_steps,
            "loss": self.loss,
            "epsilon": self.epsilon,
        }

    def document(self) -> dict[str, Any]:
        """What `gentool runs show` tells."""
        return self.row() | {
            "fault": self.fault,
            "checkpoints": [{"step": step, "bytes": size} for step, size in self.checkpoints],
            "lives": self.lives,
            "samples": self.samples,
            "metrics": self.metrics,
        }


def find_runs(root: Path) -> list[Path]:
    """The run folders below `root`, in the order of their names; not those inside of others (the bases they keep).

    Raises:
        UserError: there is no such folder.
    """
    if not root.is_dir():
        raise UserError("no such folder; runs lie under runs/ where `gentool train` was called", str(root))
    return list(_found(root))


def _found(folder: Path) -> Iterator[Path]:
    if (folder / "recipe.yaml").is_file():
        yield folder
        return
    for entry in sorted(os.scandir(folder), key=lambda e: e.name):
        if entry.is_dir(follow_symlinks=False):
            yield from _found(Path(entry.path))


def status(path: Path) -> RunStatus:
    """How far a run is; a file in it that cannot be read makes it `damaged`, with the reason.

    Raises:
        UserError: not a run folder.
    """
    run = RunFolder.open(path)
    try:
        resolved = resolve(run.recipe, (), families.recipe_schema)
        return _status(run, resolved)
    except GentoolError as error:
        return RunStatus(run.path, run.path.parent.name, "damaged", fault=str(error))


def _status(run: RunFolder, resolved: Resolved) -> RunStatus:
    provenance, rows = run.read_provenance(), read_rows(run)
    checkpoints = [_manifest(path) for path in sorted(run.checkpoints.glob("step-*.json"))]
    step = max(
        (int(n) for n in (*(step for step, _ in checkpoints), *(row["step"] for row in rows[-1:]))), default=0
    )
    last, asked = checkpoints[-1][0] if checkpoints else 0, resolved.recipe.trainer.max_steps
    state: State
    if run.in_use():
        state = "training"
    elif not checkpoints:
        state = "not begun"
    else:
        state = "complete" if last >= asked else "stopped"
    evaluation = run.path / "evaluation.json"
    return RunStatus(
        run.path,
        provenance.get("recipe", resolved.name),
        state,
        step if state == "training" else last,  # rows after the last checkpoint are of steps that are lost
        asked,
        rows[-1]["loss"] if rows else None,
        _epsilon(run),
        None,
        checkpoints,
        provenance.get("lives", []),
        sorted(str(p.relative_to(run.path)) for p in run.samples.glob("*")) if run.samples.is_dir() else [],
        _read(evaluation)["metrics"] if evaluation.is_file() else {},
    )


def _manifest(path: Path) -> tuple[int, int]:
    found = _read(path)
    return int(found["step"]), int(found["bytes"])


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError) as error:
        raise GentoolError(f"cannot be read: {error}", str(path)) from None


def _epsilon(run: RunFolder) -> float | None:
    if not run.ledger.is_file():
        return None
    ledger = ledger_of(run)
    if ledger.plan is None:
        return None
    account = account_of(ledger, ledger.plan)
    return None if account.not_private else account.epsilon
