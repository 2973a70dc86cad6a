"""The run folder: what a training run leaves behind, and the only way in to it.

recipe.yaml  model.safetensors  checkpoints/  metrics.csv  metrics.jsonl  ledger.jsonl  provenance.json
samples/  README.md
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gentool.errors import CorruptError, UserError
from gentool.runs.atomic import PROBE, make_folder


def new_path(recipe_name: str, root: Path | str = "runs") -> Path:
    """`runs/<recipe>/<UTC time>-<id>`: sorts by time, never clashes."""
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    return Path(root) / recipe_name / f"{stamp}-{secrets.token_hex(3)}"


def told_apart(*asked: object) -> str:
    """Eight letters that differ where anything that was asked does: a file of no name of its own replaces no other."""
    return hashlib.sha256(" ".join(map(str, asked)).encode()).hexdigest()[:8]


class RunFolder:
    """Names the files of a run; opening one checks that it is a run."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.recipe = self.path / "recipe.yaml"
        self.weights = self.path / "model.safetensors"
        self.checkpoints = self.path / "checkpoints"
        self.metrics_csv = self.path / "metrics.csv"
        self.metrics_jsonl = self.path / "metrics.jsonl"
        self.ledger = self.path / "ledger.jsonl"
        self.provenance = self.path / "provenance.json"
        self.samples = self.path / "samples"
        self.card = self.path / "README.md"
        self.report = self.path / "report.html"

    @classmethod
    def open(cls, path: Path | str) -> RunFolder:
        """An existing run.

        Raises:
            UserError: the folder is missing or is not a run.
        """
        run = cls(path)
        if not run.path.is_dir():
            raise UserError("no such run folder; `gentool train` prints the folder it made", str(path))
        if not run.recipe.is_file():
            raise UserError("not a run folder: it holds no recipe.yaml", str(path))
        return run

    def create(self) -> None:
        """Makes the folders and proves that they can be written, before any work is done.

        Raises:
            UserError: they cannot.
        """
        make_folder(self.path)
        make_folder(self.checkpoints)

    @contextmanager
    def training(self) -> Iterator[None]:
        """Makes the folder and holds it for one training; one that is refused takes back what was made for it.

        Raises:
            UserError: the folder cannot be written, or another process is training in it.
        """
        made = [place for place in (self.path, *self.path.parents) if not place.exists()]
        self.create()
        with self.lock():
            try:
                yield
            except (UserError, CorruptError):
                if self.path in made and not self._learned():
                    shutil.rmtree(self.path, ignore_errors=True)
                    with suppress(OSError):  # another run lies there by now
                        for place in made[1:]:
                            place.rmdir()
                raise

    def _learned(self) -> bool:
        """Whether a training left anything here that cannot be had again for nothing: steps, or privacy spent."""
        logged = self.metrics_jsonl.is_file() and self.metrics_jsonl.stat().st_size > 0
        return logged or self.weights.exists() or self.ledger.exists() or any(self.checkpoints.iterdir())

    def sweep(self) -> None:
        """Removes what a killed training left half-written; hold the lock. Samples and reports have other writers."""
        names = [self.recipe, self.weights, self.metrics_csv, self.metrics_jsonl, self.provenance, self.card]
        stems = {path.stem for path in names}
        for leftover in [*self.path.glob(".*.tmp*"), *self.checkpoints.glob(".*.tmp*")]:
            stem = leftover.name[1:].partition(".")[0]
            if stem in stems or stem == PROBE or stem.startswith("step-"):
                leftover.unlink(missing_ok=True)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Holds the folder for one writer; the kernel lets go when the process dies, however it dies.

        Raises:
            UserError: another process is training in this folder.
        """
        with open(self.path / ".lock", "a+") as handle:
            for tries_left in reversed(range(10)):  # `in_use` holds it for a moment
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if tries_left == 0:
                        where = str(self.path)
                        raise UserError("another process is training in this run folder", where) from None
                time.sleep(0.05)
            yield

    def in_use(self) -> bool:
        """Whether a process is training here now, as far as this machine can tell."""
        try:
            with open(self.path / ".lock") as handle:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # there is none, or it may not be read
            return False
        return False

    def read_provenance(self) -> dict[str, Any]:
        try:
            return dict(json.loads(self.provenance.read_text()))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise CorruptError(f"cannot be read: {error}", str(self.provenance)) from None

    def require_weights(self) -> Path:
        if not self.weights.is_file():
            raise UserError(
                "the run has no model.safetensors yet: train it to its first checkpoint", str(self.path)
            )
        return self.weights
