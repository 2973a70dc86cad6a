"""The ledger: what a run may have released of its data, written ahead of each release and never taken back.

A stretch of steps is reserved, on the disk, before its first step is taken. So whenever a run is killed, the
ledger tells at least what was taken; what it tells too much is the rest of one stretch. Steps that are taken
again after a kill are counted again, as their noise is fresh. `settle` gives back what was reserved and not
taken, when the loop has really stopped.
"""

from __future__ import annotations

import math
import secrets
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from gentool.errors import CorruptError, UserError
from gentool.privacy import statement
from gentool.privacy.calibrate import find_steps
from gentool.privacy.mechanisms import Phase, Release, SampledGaussian, merge
from gentool.privacy.plan import Plan
from gentool.runs.journal import Journal

FORMAT = 1
MOST_LINES = 10_000
"""A run's steps are reserved in about so many stretches at most: a file of a few MB, however long the run."""


@dataclass(frozen=True)
class Stretch:
    """Steps `first` .. `first + count - 1`, reserved by the run's `life`-th process."""

    release: Release
    first: int
    count: int
    life: int
    """0 for what was released beside the steps."""

    @property
    def end(self) -> int:
        return self.first + self.count


class Ledger:
    """The ledger of one run, for reading and (one process at a time: hold the run's lock) for writing.

    Attributes:
        header: what `start` was given. plans: each plan that the run was trained by, in order.
        stretches: all that may have been released, in order.
        inherited: what other runs released that this one starts from, by their `id`; part of `stretches`.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._life: int | None = None  # of this process, once it has written
        self._ends: dict[int, int] = {}  # life -> the step it has reserved to
        self.header: dict[str, Any] = {}
        self.plans: list[Plan] = []
        self.stretches: list[Stretch] = []
        self.inherited: dict[str, Counter[Release]] = {}
        self._settled: dict[int, int] = {}  # life -> the step it has told to have stopped at
        for number, record in enumerate(journal.records, 1):
            try:
                self._read(record, first=number == 1)
            except (KeyError, TypeError, ValueError, UserError) as error:
                raise CorruptError(f"line {number} is not of a ledger ({error})", str(journal.path)) from None

    @classmethod
    def open(cls, path: Path | str) -> Ledger:
        """The ledger of a run that was trained.

        Raises:
            UserError: there is none, or nothing in it. CorruptError: a line of it is not as it was written.
        """
        path = Path(path)
        if not path.is_file():
            raise UserError("there is no ledger: what was spent on the data is not known", str(path))
        journal = Journal.open(path)
        if not journal.records:
            raise UserError("the ledger is empty: what was spent on the data is not known", str(path))
        return cls(journal)

    @classmethod
    def start(
        cls, path: Path | str, header: Mapping[str, Any] | None = None, *, writes: bool = True
    ) -> Ledger:
        """The ledger of a run that is about to be trained; what one that is there says was spent stays spent.

        Args:
            writes: False for a further process of a run, beside the one that writes: it comes to the same plan from
                whatever is on the disk by then (nothing, the beginning of a line), and what it adds stays in memory.

        Raises:
            CorruptError: as `open`.
        """
        path = Path(path)
        journal = Journal.open(path) if path.is_file() else Journal(path)
        ledger = cls(journal if writes else journal.draft())
        if not ledger._journal.records:
            # Runs by one recipe would else have the same ledger, and copies of one run could not be told from them.
            words = {
                "id": secrets.token_hex(8),
                "unit": statement.UNIT,
                "adjacency": statement.ADJACENCY,
                "noise": statement.NOISE,
            }
            ledger._write({"ledger": FORMAT, **words, **(header or {})})
        return ledger

    @property
    def head(self) -> str:
        """The digest of all that was written: a checkpoint that keeps it shows a ledger that was cut back."""
        return self._journal.head

    def holds(self, head: str) -> bool:
        """Whether the ledger goes on from the state that had this `head`."""
        return self._journal.holds(head)

    @property
    def id(self) -> str:
        """Of the run: copies of its folder share it."""
        return str(self.header["id"])

    @property
    def plan(self) -> Plan | None:
        """The newest plan."""
        return self.plans[-1] if self.plans else None

    def adopt(self, plan: Plan) -> None:
        """States the plan that the steps to come follow; nothing is written where it is the newest already."""
        if plan != self.plan:
            self._write({"plan": plan.document()})

    def reserve(self, release: Release, first_step: int, count: int) -> None:
        """Accounts for the steps `first_step` .. `first_step + count - 1`; none may be taken before this returns.

        Raises:
            ValueError: they do not follow the ones before them, or `count` is below 1.
            GentoolError: the ledger cannot be written: the steps must not be taken.
        """
        if count < 1 or first_step < 0 or first_step != self._ends.get(self._life or 0, first_step):
            raise ValueError(f"steps {first_step} to {first_step + count - 1} do not follow those reserved")
        self._write(
            {"reserve": asdict(release), "first": first_step, "count": count, "life": self._this_life()}
        )

    def cover(self, release: Release, step: int, steps: int) -> None:
        """Reserves the next stretch, of a training of `steps` steps, unless `step` is reserved already."""
        if self._life is None or step >= self._ends.get(self._life, 0):
            self.reserve(release, step, min(stretch(steps), steps - step))

    def record(self, release: Release, count: int = 1, run: str | None = None) -> None:
        """Accounts for what is released beside the steps, such as a noisy label histogram, before it is computed.

        Args:
            run: the `id` of the run whose ledger states it too.

        Raises:
            GentoolError: as `reserve`.
        """
        if count < 1:
            raise ValueError(f"{count} releases")
        from_run = {} if run is None else {"run": run}
        self._write({"record": asdict(release), "count": count, "life": self._this_life(), **from_run})

    def inherit(self, base: Ledger) -> None:
        """Accounts for all that the run released that this one starts from; what of it stands here is not repeated.

        Raises:
            GentoolError: as `reserve`.
        """
        known = self.inherited.get(base.id, Counter())
        stated: Counter[Release] = Counter()
        for one in base.stretches:
            stated[one.release] += one.count
        for release, count in (stated - known).items():
            self.record(release, count, base.id)

    def settle(self, step: int) -> None:
        """States that this process took all steps before `step` and none after; call it when the loop has stopped.

        Raises:
            ValueError: steps were taken that were not reserved, or are taken back that were stated before.
        """
        if self._life is None or self._life not in self._ends:
            return  # it took none
        if not self._settled.get(self._life, 0) <= step <= self._ends[self._life]:
            raise ValueError(f"step {step} is outside what was reserved, to {self._ends[self._life]}")
        self._write({"settle": step, "life": self._life})

    def phases(self) -> tuple[Phase, ...]:
        """All that may have been released, equal neighbours merged: exact for a run that was never killed."""
        return merge(phase for one in self.stretches for phase in one.release.phases(one.count))

    @property
    def steps(self) -> int:
        """Releases in all, those without noise too."""
        return sum(one.count for one in self.stretches)

    @property
    def unsettled(self) -> int:
        """Steps of the last stretch of each killed (or still running) process: some may not have been taken."""
        last = {one.life: one.count for one in self.stretches if one.life and one.life not in self._settled}
        return sum(last.values())

    @property
    def remark(self) -> str | None:
        """Where the account may be too high, in words."""
        if not self.unsettled:
            return None
        return (
            "the run was killed, or is being trained: "
            f"up to {self.unsettled} of its steps may not have been taken, and are counted"
        )

    def not_private(self) -> str | None:
        """Why the run protects nobody, or None where it does."""
        if any(one.release.noise_multiplier is None for one in self.stretches):
            return "steps were taken without noise"
        return next((reason for plan in self.plans if (reason := plan.not_private())), None)

    def remaining(self, plan: Plan, enough: int | None = None) -> int | None:
        """How many more steps of `plan` its target allows; None where it has no target.

        Args:
            enough: as `find_steps` takes it.

        Raises:
            BudgetError: what was released exceeds the target already.
        """
        if plan.target_epsilon is None or plan.noise_multiplier is None:
            return None
        mechanism = SampledGaussian(plan.noise_multiplier, plan.sample_rate)
        return find_steps(plan.target_epsilon, plan.delta, mechanism, self.phases(), plan.judge, enough)

    def _this_life(self) -> int:
        if self._life is None:
            self._life = 1 + max(self._ends, default=0)
        return self._life

    def _write(self, record: dict[str, Any]) -> None:
        self._journal.append(record)
        self._read(record, first=len(self._journal.records) == 1)

    def _read(self, record: Mapping[str, Any], first: bool) -> None:
        """Takes one line in; kinds of lines that this version does not know are no reason to count less."""
        if first != ("ledger" in record):
            raise ValueError("a ledger has one header, its first line")
        if first:
            if record["ledger"] != FORMAT:
                raise ValueError(f"format {record['ledger']!r}; this gentool reads {FORMAT}")
            self.header = {"id": record["id"], **record}
        elif "plan" in record:
            self.plans.append(Plan.read(record["plan"]))
        elif "reserve" in record:
            one = Stretch(Release(**record["reserve"]), record["first"], record["count"], record["life"])
            self.stretches.append(one)
            self._ends[one.life] = one.end
        elif "record" in record:
            release, count = Release(**record["record"]), record["count"]
            self.stretches.append(Stretch(release, 0, count, 0))
            if "run" in record:
                self.inherited.setdefault(record["run"], Counter())[release] += count
        elif "settle" in record:
            self._settle(record["settle"], record["life"])
        else:
            raise ValueError(f"unknown kind {next(iter(record), '')!r}")

    def _settle(self, step: int, life: int) -> None:
        cut = [
            replace(one, count=max(0, min(one.end, step) - one.first)) if one.life == life else one
            for one in self.stretches
        ]
        self.stretches = [one for one in cut if one.count]
        self._ends[life] = step
        self._settled[life] = step


def stretch(steps: int) -> int:
    """How many steps of a training of `steps` are reserved at once.

    One where that makes at most `MOST_LINES` lines: writing one takes a millisecond or a few, a private step a
    hundred. Else a ten-thousandth of the training, which is also the most that one kill can cost of its budget.
    """
    return max(1, math.ceil(steps / MOST_LINES))
