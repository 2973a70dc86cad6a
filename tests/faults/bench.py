"""Runs to hurt: starts them, waits for them, compares them with one that was left alone."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

from gentool.privacy.account import account_of
from gentool.privacy.ledger import Ledger
from tests.faults import child
from tests.faults.child import Fault

TINY = (
    *("quickstart", "trainer.max_steps=30", "trainer.checkpoint_every=5", "trainer.log_every=4"),
    *("data.batch_size=16", "model.network.width=16", "model.network.blocks=1", "model.network.dropout=0.1"),
)
PRIVATE = (
    *("edm/digits-dp-small", "trainer.max_steps=20", "trainer.checkpoint_every=5", "trainer.log_every=10"),
    *(
        "data.batch_size=16",
        "model.network.width=8",
        "model.network.blocks=1",
        "privacy.noise_multiplicity=1",
    ),
)
KILLED = -9
UNHARMED = Fault()


@dataclass
class Ended:
    code: int | None
    text: str

    def refused(self, code: int, *words: str) -> None:
        """It ended with this code and a message that holds these words, and without a traceback."""
        assert self.code == code, self.text
        assert "Traceback" not in self.text
        for word in words:
            assert word in self.text, self.text


class Bench:
    def __init__(self, folder: Path, context: ForkServerContext) -> None:
        self.folder, self.context = folder, context
        self._logs = 0

    def start(self, *words: str | Path, fault: Fault = UNHARMED) -> tuple[ForkServerProcess, Path]:
        self._logs += 1
        log = self.folder / f"{self._logs}.log"
        arguments = (list(map(str, words)), self.folder, log, fault)
        process = self.context.Process(target=child.main, args=arguments)
        process.start()
        return process, log

    def end(self, process: ForkServerProcess, log: Path) -> Ended:
        process.join(120)
        assert process.exitcode is not None, "still running after two minutes"
        return Ended(process.exitcode, log.read_text() if log.exists() else "")

    def call(self, *words: str | Path, fault: Fault = UNHARMED) -> Ended:
        return self.end(*self.start(*words, fault=fault))

    def train(self, run: Path, recipe: tuple[str, ...] = TINY, fault: Fault = UNHARMED) -> Ended:
        """The one command that is repeated for ever."""
        return self.call("train", *recipe, "--run-dir", run, "--resume", "auto", fault=fault)

    @cached_property
    def whole(self) -> Path:
        """The run that nothing happens to."""
        run = self.folder / "whole"
        done = self.train(run, fault=Fault(operations=self.folder / "operations"))
        assert done.code == 0, done.text
        return run

    @cached_property
    def operations(self) -> list[str]:
        """Its disk operations in order."""
        assert self.whole.exists()
        return (self.folder / "operations").read_text().split()

    @cached_property
    def private_operations(self) -> list[str]:
        """Those of a private run."""
        noted = self.folder / "private operations"
        assert self.train(self.folder / "private", PRIVATE, Fault(operations=noted)).code == 0
        return noted.read_text().split()

    @cached_property
    def seconds(self) -> float:
        """How long such a run takes."""
        start = time.monotonic()
        assert self.train(self.folder / "timed").code == 0
        return time.monotonic() - start

    def ends_like_whole(self, run: Path) -> Ended:
        """Goes on by --resume auto, and ends with the weights and the log of the run that was left alone."""
        done = self.train(run)
        assert done.code == 0, done.text
        self.assert_same(run)
        return done

    def assert_same(self, run: Path) -> None:
        weights = "model.safetensors"
        assert (run / weights).read_bytes() == (self.whole / weights).read_bytes()
        assert _rows(run) == _rows(self.whole)
        assert not list(run.rglob(".*.tmp*")), "something half-written was left behind"


def _rows(run: Path) -> list[dict[str, str]]:
    """metrics.csv but the speed; and metrics.jsonl says the same."""
    with open(run / "metrics.csv", newline="") as handle:
        rows = [{k: v for k, v in row.items() if k != "images_per_second"} for row in csv.DictReader(handle)]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [float(row["loss"]) for row in rows] == [line["loss"] for line in lines]
    return rows


def accounted(run: Path) -> tuple[int, float]:
    """Steps that the run's ledger states, and the epsilon of them."""
    ledger = Ledger.open(run / "ledger.jsonl")
    assert ledger.plan is not None
    account = account_of(ledger, ledger.plan)
    return sum(phase.steps for phase in account.phases), account.epsilon


def until(there: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.01)
