"""What trained runs have spent together, read from their ledgers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gentool.errors import UserError
from gentool.privacy.account import Account
from gentool.privacy.ledger import Ledger
from gentool.privacy.mechanisms import Phase, merge
from gentool.runs.folder import RunFolder


@dataclass(frozen=True)
class Spending:
    """Everything that runs on the same data released.

    Attributes:
        phases: of all their ledgers. ledgers: one a run.
        remarks: what to know of them, one sentence each.
    """

    phases: tuple[Phase, ...]
    ledgers: tuple[Ledger, ...]
    remarks: tuple[str, ...] = ()

    @classmethod
    def of(cls, runs: Sequence[Path]) -> Spending:
        """Reads the ledgers of run folders, or of what `gentool export` made of them.

        Raises:
            UserError: one is no run, was trained without privacy, or is named twice or counted by another.
            CorruptError: a ledger is not as it was written.
        """
        folders = [RunFolder.open(run) for run in runs]
        ledgers = tuple(map(ledger_of, folders))
        seen: dict[str, Path] = {}
        for folder, ledger in zip(folders, ledgers):
            if (other := seen.setdefault(ledger.id, folder.path)) is not folder.path:
                raise UserError(f"is the same run as {other}, and would be counted twice", str(folder.path))
        for folder, ledger in zip(folders, ledgers):
            for base in ledger.inherited.keys() & seen.keys():
                raise UserError(
                    f"starts from {seen[base]}, whose releases it counts: they would be counted twice",
                    str(folder.path),
                )
        remarks = []
        for folder, ledger in zip(folders, ledgers):
            if ledger.remark is not None:
                remarks.append(f"{folder.path}: {ledger.remark}")
        known = {folder.read_provenance().get("data_fingerprint") for folder in folders} - {None}
        if len(known) > 1:
            remarks.append(
                "the runs were trained on different data: the sum holds for each record, and is too high for "
                "one that is in the data of some of them only"
            )
        phases = merge(phase for ledger in ledgers for phase in ledger.phases())
        return cls(phases, ledgers, tuple(remarks))

    @property
    def delta(self) -> float | None:
        """The smallest delta that one of the runs was planned for."""
        return min((ledger.plan.delta for ledger in self.ledgers if ledger.plan), default=None)

    @property
    def accountant(self) -> str | None:
        """The accountant that they were planned by, where they agree."""
        names = {ledger.plan.accountant for ledger in self.ledgers if ledger.plan}
        return names.pop() if len(names) == 1 else None

    def goes_on(self) -> tuple[float | None, float | None]:
        """Noise multiplier and sample rate of the steps that the last run would take next."""
        plan = self.ledgers[-1].plan
        return (None, None) if plan is None else (plan.noise_multiplier, plan.sample_rate)

    def told(self, answer: Account) -> Account:
        """An account of these runs with what their ledgers have to say beside the figures."""
        reasons = dict.fromkeys(reason for ledger in self.ledgers if (reason := ledger.not_private()))
        target = (
            self.ledgers[0].plan.target_epsilon if len(self.ledgers) == 1 and self.ledgers[0].plan else None
        )
        return replace(
            answer,
            target_epsilon=answer.target_epsilon or target,
            not_private="; ".join(reasons) or None,
            remarks=self.remarks,
        )


def ledger_of(run: RunFolder) -> Ledger:
    """The ledger of a run that was trained with privacy.

    Raises:
        UserError: it was not. CorruptError: the ledger is damaged.
    """
    if not run.ledger.is_file():
        raise UserError(
            "the run has no ledger: it was trained without a privacy: block, so no epsilon holds for it",
            str(run.path),
        )
    return Ledger.open(run.ledger)
