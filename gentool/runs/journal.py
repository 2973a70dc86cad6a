"""An append-only file of JSON lines that outlives a kill, and shows when lines in it were changed or removed.

Each line ends with a SHA-256 of the digest before it and of its own text, so that a reader who trusts
the last digest can trust every line. It is no signature: who may write the file can write another. What is lost
at the end leaves no trace in the file; a checkpoint that keeps `head` shows that too (`Journal.holds`).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gentool.errors import CorruptError, GentoolError, UserError
from gentool.runs.atomic import plain_failures, sync

_MARK = ',"digest":"'


class Journal:
    """The records of one file, and the only way to add to it. One writer at a time: hold the run's lock.

    Attributes:
        records: what the lines say, in order, their digests checked and taken off.
        head: the digest of the last line; "" of an empty journal.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: list[dict[str, Any]] = []
        self._digests: list[str] = []
        self._good = 0  # bytes of whole lines
        self._size = 0  # and of the file, with what a crash left of one more line
        self._ended = True  # whether the last whole line has its newline

    @classmethod
    def open(cls, path: Path | str) -> Journal:
        """Reads a journal. A last line that a crash cut short was never acted on, and is passed over.

        Raises:
            UserError: there is no such file.
            CorruptError: any other line is not as it was written; names it.
        """
        journal = cls(Path(path))
        try:
            data = journal.path.read_bytes()
        except FileNotFoundError:
            raise UserError("there is no such file", str(path)) from None
        except OSError as error:
            raise GentoolError(f"cannot be read: {error.strerror}", str(path)) from None
        journal._size = len(data)
        for number, line in enumerate(data.splitlines(keepends=True), 1):
            try:
                journal._take(line.removesuffix(b"\n"))
            except ValueError as error:
                if not line.endswith(b"\n"):
                    break
                raise CorruptError(
                    f"line {number} is not as it was written ({error}): restore the file from a copy",
                    str(path),
                ) from None
            journal._good += len(line)
            journal._ended = line.endswith(b"\n")
        return journal

    @classmethod
    def create(cls, path: Path | str) -> Journal:
        """An empty journal; the file appears with the first line.

        Raises:
            UserError: a file is there that holds a line.
        """
        path = Path(path)
        if path.exists() and cls.open(path).records:
            raise UserError("the file is there already", str(path))
        journal = cls(path)
        journal._size = path.stat().st_size if path.exists() else 0
        return journal

    @property
    def head(self) -> str:
        return self._digests[-1] if self._digests else ""

    def holds(self, head: str) -> bool:
        """Whether the journal once ended in `head`: False for one that was cut back, or is another."""
        return head in self._digests or head == ""

    def append(self, record: Mapping[str, Any]) -> None:
        """Adds a line; when this returns it is on the disk. What a crash left of a line before it is cut off.

        Raises:
            GentoolError: it cannot be written (says why), or the file was changed by someone else.
        """
        body = json.dumps(dict(record), separators=(",", ":"), allow_nan=False)[:-1]
        digest = _digest(self.head, body.encode())
        line = f'{body}{_MARK}{digest}"}}'.encode()
        data = (b"" if self._ended else b"\n") + line + b"\n"
        with plain_failures(self.path):
            fresh = not self.path.exists()
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                if os.fstat(handle).st_size != self._size:
                    raise GentoolError("another process has written to the file", str(self.path))
                self._size = self._good  # the file is cut back to it, now or on failure
                try:
                    _write(handle, data, self._good)
                except OSError:
                    os.ftruncate(handle, self._good)
                    raise
            finally:
                os.close(handle)
            if fresh:
                sync(self.path.parent)
        self._take(line)
        self._good = self._size = self._good + len(data)
        self._ended = True

    def draft(self) -> Draft:
        """A copy whose further lines stay in memory."""
        copy = Draft(self.path)
        copy.records, copy._digests = list(self.records), list(self._digests)
        return copy

    def _take(self, line: bytes) -> None:
        """Checks and keeps one line.

        Raises:
            ValueError: it does not follow the one before it; says what is wrong.
        """
        body, mark, rest = line.rpartition(_MARK.encode())
        if not mark or not rest.endswith(b'"}'):
            raise ValueError("it has no digest")
        if rest != f'{_digest(self.head, body)}"}}'.encode():
            raise ValueError("its digest differs")
        self.records.append(json.loads(body + b"}"))
        self._digests.append(rest[:-2].decode())


class Draft(Journal):
    """What a journal holds, for a process that is not its writer: it may add lines, and nothing reaches the file."""

    def append(self, record: Mapping[str, Any]) -> None:
        self.records.append(dict(record))


def _digest(head: str, body: bytes) -> str:
    return hashlib.sha256(head.encode() + body).hexdigest()


def _write(handle: int, data: bytes, start: int) -> None:
    """Writes `data` at `start`, where the file then ends, and waits for the disk."""
    os.ftruncate(handle, start)
    while data:
        written = os.pwrite(handle, data, start)
        data, start = data[written:], start + written
    os.fsync(handle)
