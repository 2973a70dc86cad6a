"""What is known of each attacked picture, on the disk the moment it is known: a campaign outlives its process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gentool.errors import CorruptError, UserError
from gentool.runs.journal import Journal

FORMAT = 1


class Records:
    """The records of one campaign, one line a picture, in the order in which they were found.

    One writer at a time; a second one is noticed before it does harm (`Journal.append`).
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    @classmethod
    def open(cls, path: Path, header: Mapping[str, Any]) -> Records:
        """The records of the campaign that `header` describes: what is on the disk of it, or an empty file.

        Raises:
            UserError: the file is of another campaign; says what differs. CorruptError: a line was changed.
        """
        journal = Journal.open(path) if path.is_file() else Journal(path)
        if not journal.records:
            journal.append({"robustness": FORMAT, **header})
            return cls(journal)
        known = journal.records[0]
        if known.get("robustness") != FORMAT:
            raise CorruptError("these are no records of attacks that this gentool reads", str(path))
        other = [key for key, value in header.items() if known.get(key) != value]
        if other:
            said = ", ".join(f"{key}: {known.get(key)!r}, now {header[key]!r}" for key in other)
            raise UserError(f"holds records of another campaign ({said}): choose another -o", str(path))
        return cls(journal)

    @property
    def path(self) -> Path:
        return self._journal.path

    @property
    def pictures(self) -> list[dict[str, Any]]:
        return self._journal.records[1:]

    def done(self) -> set[int]:
        """Numbers of the pictures that need no more work."""
        return {record["index"] for record in self.pictures}

    def add(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Each is on the disk when this returns.

        Raises:
            GentoolError: the disk is full, or another process writes here.
        """
        for record in records:
            self._journal.append(record)
