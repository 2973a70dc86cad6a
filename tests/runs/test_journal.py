"""The journal: what was acknowledged is there after a cut at any byte, and what was changed in between shows."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gentool.errors import CorruptError, GentoolError, UserError
from gentool.runs.journal import Journal

RECORDS = [{"n": i, "text": 'a "quoted" \n line, é', "x": 0.1 * i} for i in range(5)]


def written(path: Path) -> bytes:
    journal = Journal(path)
    for record in RECORDS:
        journal.append(record)
    return path.read_bytes()


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 10_000), garbage=st.binary(max_size=20).filter(lambda b: b"\n" not in b))
def test_a_file_cut_at_any_byte_keeps_its_whole_lines_and_takes_more(
    tmp_path_factory: pytest.TempPathFactory, cut: int, garbage: bytes
) -> None:
    path = tmp_path_factory.mktemp("journal") / "j"
    data = written(path)
    whole = data[: cut % (len(data) + 1)]
    path.write_bytes(whole + garbage)
    ends = [i + 1 for i, byte in enumerate(data) if byte == 0x0A]
    kept = sum(len(whole) >= end for end in ends)
    journal = Journal.open(path)
    # A line that lacks nothing but its newline may be kept: to count it is never too little.
    assert journal.records in (RECORDS[:kept], RECORDS[: kept + 1])
    before = list(journal.records)
    journal.append({"more": 1})
    assert Journal.open(path).records == [*before, {"more": 1}]


@settings(max_examples=80, deadline=None)
@given(place=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_a_bit_flipped_anywhere_but_in_a_torn_tail_is_told_with_its_line(
    tmp_path_factory: pytest.TempPathFactory, place: int, bit: int
) -> None:
    path = tmp_path_factory.mktemp("journal") / "j"
    data = bytearray(written(path))
    place %= len(data) - 1  # the last newline: without it the last line is one that was torn
    data[place] ^= 1 << bit
    path.write_bytes(data)
    with pytest.raises(CorruptError, match=r"line \d"):
        Journal.open(path)


@pytest.mark.parametrize("change", ["remove", "swap", "repeat"])
def test_a_line_removed_moved_or_repeated_in_the_middle_is_told(change: str, tmp_path: Path) -> None:
    lines = written(tmp_path / "j").splitlines(keepends=True)
    if change == "remove":
        del lines[2]
    elif change == "swap":
        lines[2], lines[3] = lines[3], lines[2]
    else:
        lines.insert(3, lines[2])
    (tmp_path / "j").write_bytes(b"".join(lines))
    with pytest.raises(CorruptError, match="digest differs"):
        Journal.open(tmp_path / "j")


def test_lines_lost_at_the_end_show_by_the_head_that_was_kept(tmp_path: Path) -> None:
    written(tmp_path / "j")
    head = Journal.open(tmp_path / "j").head
    lines = (tmp_path / "j").read_bytes().splitlines(keepends=True)
    (tmp_path / "j").write_bytes(b"".join(lines[:-1]))
    short = Journal.open(tmp_path / "j")
    assert not short.holds(head)
    assert short.holds(short.head)
    assert short.holds("")


def test_each_line_is_on_the_disk_before_append_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is synced after its last byte, and the folder when the file is new."""
    synced: list[tuple[bool, int]] = []
    real = os.fsync

    def fsync(handle: int) -> None:
        found = os.fstat(handle)
        synced.append((os.path.isdir(f"/proc/self/fd/{handle}"), found.st_size))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    journal = Journal(tmp_path / "j")
    journal.append({"a": 1})
    size = (tmp_path / "j").stat().st_size
    assert synced[0] == (False, size)
    assert synced[1][0]
    journal.append({"a": 2})
    assert synced[2:] == [(False, (tmp_path / "j").stat().st_size)]


def test_a_second_writer_is_noticed(tmp_path: Path) -> None:
    one, other = Journal(tmp_path / "j"), Journal(tmp_path / "j")
    one.append({"a": 1})
    with pytest.raises(GentoolError, match="another process"):
        other.append({"a": 2})
    assert Journal.open(tmp_path / "j").records == [{"a": 1}]


def test_a_full_disk_leaves_the_lines_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path / "j")
    journal.append({"a": 1})
    real = os.pwrite

    def half(handle: int, data: bytes, place: int) -> int:
        real(handle, data[:9], place)
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", half)
        with pytest.raises(GentoolError, match="no space left"):
            journal.append({"a": 2})
    assert Journal.open(tmp_path / "j").records == [{"a": 1}]
    journal.append({"a": 3})
    assert Journal.open(tmp_path / "j").records == [{"a": 1}, {"a": 3}]


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        Journal.open(tmp_path / "j")
