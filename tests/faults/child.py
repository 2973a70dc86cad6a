"""One `gentool` command in a process of its own, with a fault armed inside it.

The processes are forked from one that has imported everything, so that fifty kills cost seconds and not minutes.
"""

from __future__ import annotations

import functools
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sklearn.datasets  # noqa: F401  (these are imported for the processes to come)

import gentool.families.edm.module
import gentool.tasks.train  # noqa: F401
from gentool.cli.app import run
from gentool.runs import checkpoints
from gentool.training.callbacks import StepEnd
from gentool.training.private.step import PrivateStep


@dataclass(frozen=True)
class Fault:
    """What is to happen.

    Attributes:
        kill_at: SIGKILL at the disk operation of this number (writes of checkpoints and ledger, fsync, rename, unlink);
            a write is cut in half first.
        largest_file: bytes that a file may grow to.
        clock: seconds that `time.time` jumps by at each call, there and back.
        pause: seconds of sleep after each training step.
        operations, taken: files that the kinds of disk operations, and the private steps that were taken, are noted in.
    """

    kill_at: int | None = None
    largest_file: int | None = None
    clock: float = 0.0
    pause: float = 0.0
    operations: Path | None = None
    taken: Path | None = None


def main(arguments: list[str], folder: Path, log: Path, fault: Fault) -> None:
    """Ends with the command's exit code; what it printed is in `log`."""
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.chdir(folder)
    os.environ["NO_COLOR"] = "1"
    _arm(fault)
    sys.exit(run(arguments))


def _arm(fault: Fault) -> None:
    _watch_disk(fault)
    if fault.largest_file is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that the write fails instead
        resource.setrlimit(resource.RLIMIT_FSIZE, (fault.largest_file, resource.RLIM_INFINITY))
    if fault.clock:
        clock, calls = time.time, iter(range(10**9))
        time.time = lambda: clock() + fault.clock * (-1) ** next(calls)
    if fault.pause:
        _after(StepEnd, "on_train_batch_end", lambda *arguments: time.sleep(fault.pause))
    if fault.taken is not None:
        taken = os.open(fault.taken, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        # the noise of a step is drawn when its gradient is there: what a killed process has noted, it has computed
        _before(PrivateStep, "normal", lambda step, *rest: os.write(taken, f"{rest[0]}\n".encode()))


def _watch_disk(fault: Fault) -> None:
    """Counts disk operations, and kills at one of them."""
    count = iter(range(1, 10**9))
    notes = (
        None
        if fault.operations is None
        else os.open(fault.operations, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    )
    write = os.write  # itself watched below

    def watched(name: str, operation: Callable[..., Any], halve: int | None) -> Callable[..., Any]:
        @functools.wraps(operation)
        def call(*arguments: Any, **named: Any) -> Any:
            number = next(count)
            if notes is not None:
                write(notes, f"{name}\n".encode())
            if number == fault.kill_at:
                if halve is not None:
                    data = memoryview(arguments[halve]).cast("B")
                    operation(*arguments[:halve], data[: len(data) // 2], *arguments[halve + 1 :], **named)
                os.kill(os.getpid(), signal.SIGKILL)
            return operation(*arguments, **named)

        return call

    hashing = checkpoints._Hashing
    hashing.write = watched("checkpoint", hashing.write, 1)  # type: ignore[method-assign]
    os.pwrite = watched("ledger", os.pwrite, 1)
    for name in ("fsync", "replace", "unlink"):
        setattr(os, name, watched(name, getattr(os, name), None))


def _before(owner: Any, name: str, note: Callable[..., Any]) -> None:
    method = getattr(owner, name)

    def call(*arguments: Any, **named: Any) -> Any:
        note(*arguments)
        return method(*arguments, **named)

    setattr(owner, name, call)


def _after(owner: Any, name: str, note: Callable[..., Any]) -> None:
    method = getattr(owner, name)

    def call(*arguments: Any, **named: Any) -> Any:
        result = method(*arguments, **named)
        note(*arguments)
        return result

    setattr(owner, name, call)
