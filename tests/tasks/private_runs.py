"""Real private trainings in processes that can be killed, each of which notes the steps that it takes."""

from __future__ import annotations

import multiprocessing as mp
import os
import random
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

STEPS = 40
TINY = (
    "edm/digits-dp-small",
    f"trainer.max_steps={STEPS}",
    "trainer.checkpoint_every=6",
    "trainer.log_every=20",
    "data.batch_size=32",
    "data.limit=200",
    "privacy.records=200",
    "privacy.noise_multiplicity=2",
    "privacy.physical_batch=64",
    "model.network.width=16",
    "model.network.blocks=1",
)


def child(run: str, notes: str, overrides: tuple[str, ...]) -> None:
    """Trains or goes on. A step is noted between its entry in the ledger and its first computation, so that what
    was taken is never more than what is noted."""
    from gentool.errors import GentoolError
    from gentool.tasks.train import train
    from gentool.tasks.training.private import PrivateTraining

    plain = PrivateTraining.cover
    handle = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def cover(self: PrivateTraining, step: int) -> None:
        plain(self, step)
        os.write(handle, b"%d\n" % step)
        time.sleep(0.003)  # room for a signal between two steps

    PrivateTraining.cover = cover  # type: ignore[method-assign]
    try:
        train(TINY[0], (*TINY[1:], *overrides), run_dir=Path(run), resume="auto")
    except GentoolError as error:
        os._exit(error.exit_code)


def start(run: Path, notes: Path, *overrides: str) -> BaseProcess:
    """A process forked from one that has imported everything and done nothing."""
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(["gentool.tasks.train", "gentool.families.edm.module"])
    process = context.Process(target=child, args=(str(run), str(notes), overrides))
    process.start()
    return process


def noted(notes: Path) -> list[int]:
    return [int(line) for line in notes.read_text().splitlines()] if notes.exists() else []


def wait_for(notes: Path, least: int, process: BaseProcess, draw: random.Random) -> None:
    """Until so many steps are noted, and a random part of a step longer."""
    while len(noted(notes)) < least and process.is_alive():
        time.sleep(0.002)
    time.sleep(draw.random() * 0.03)
