"""Progress of long work on standard error: a bar for a person, one line a minute for a log.

Tasks are handed a plain callable, `report(done, total, figures)` with figures such as `{"loss": 0.31}`, and
know nothing of terminals.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TextIO

from gentool.training.watching import Report, unreported


@contextmanager
def progress(what: str, units: str, quiet: bool = False) -> Iterator[Report]:
    """A report that shows `what`, its rate in `units` a second and the time left; nothing when `quiet`."""
    if quiet:
        yield unreported
    elif sys.stderr.isatty():
        with _bar(what, units) as report:
            yield report
    else:
        yield LineReport(what, units, sys.stderr)


class LineReport:
    """A `Report` that writes one line a minute, and one at the end.

    The rate is that of the last `every` seconds; a log that has gone away does not stop the work.
    """

    def __init__(
        self,
        what: str,
        units: str,
        stream: TextIO,
        every: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.what, self.units, self.stream, self.every, self.clock = what, units, stream, every, clock
        self.since: tuple[float, int] | None = None

    def __call__(self, done: int, total: int, figures: Mapping[str, float]) -> None:
        now = self.clock()
        if self.since is None:  # a resumed run starts in the middle: its rate counts from there
            self.since = (now, done)
        then, before = self.since
        if now - then < self.every and done < total:
            return
        rate = (done - before) / (now - then) if now > then else 0.0
        self.since = (now, done)
        parts = [f"{self.what} {done}/{total} {self.units}"]
        if rate > 0:
            parts.append(f"{rate:.3g} {self.units}/s")
            if done < total:
                parts.append(f"{duration((total - done) / rate)} left")
        parts += [f"{name} {value:.4g}" for name, value in figures.items()]
        with suppress(OSError):
            print(", ".join(parts), file=self.stream, flush=True)


def duration(seconds: float) -> str:
    """`42 s`, `3 min 20 s`, `2 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


@contextmanager
def _bar(what: str, units: str) -> Iterator[Report]:
    from rich import progress as rich
    from rich.console import Console
    from rich.text import Text

    class Rate(rich.ProgressColumn):
        def render(self, task: rich.Task) -> Text:
            return Text(f"{task.speed:.3g} {units}/s" if task.speed else "")

    columns = (
        rich.TextColumn("{task.description}"),
        rich.BarColumn(),
        rich.MofNCompleteColumn(),
        Rate(),
        rich.TimeRemainingColumn(),
        rich.TextColumn("{task.fields[figures]}"),
    )
    with rich.Progress(*columns, console=Console(stderr=True)) as bar:
        task: list[rich.TaskID] = []

        def report(done: int, total: int, figures: Mapping[str, float]) -> None:
            if not task:
                task.append(bar.add_task(what, total=total, completed=done, figures=""))
            shown = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
            bar.update(task[0], completed=done, total=total, figures=shown)

        yield report
