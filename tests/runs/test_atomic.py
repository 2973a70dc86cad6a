"""Property: a file is whole or as it was, whatever fails, and the failure is one clear line."""

import errno
import json
import os
from pathlib import Path

import pytest

from gentool.errors import GentoolError, UserError
from gentool.runs import atomic


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_the_new_file_replaces_the_old_one_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.json"
    atomic.write_json(path, {"a": 1})
    atomic.write_json(path, {"a": 2, "ä": [None]})
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": 2, "ä": [None]}
    assert names(path.parent) == ["a.json"]


def test_the_temporary_file_is_a_neighbour_with_the_same_suffix(tmp_path: Path) -> None:
    with atomic.atomic_write(tmp_path / "x.npz") as scratch:
        assert (scratch.parent, scratch.suffix) == (tmp_path, ".npz")
        assert not (tmp_path / "x.npz").exists()
        scratch.write_bytes(b"1")
    assert names(tmp_path) == ["x.npz"]


def test_an_error_in_the_block_keeps_the_old_file_and_sweeps_the_new(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    atomic.write_text(path, "old")

    def fail() -> None:
        with atomic.atomic_write(path) as scratch:
            scratch.write_text("half")
            raise KeyError("bug")

    with pytest.raises(KeyError):
        fail()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize(
    ("code", "words"),
    [(errno.ENOSPC, "no space left"), (errno.EACCES, "no permission"), (errno.EROFS, "read-only")],
)
def test_a_failing_system_call_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int, words: str
) -> None:
    path = tmp_path / "a.txt"
    atomic.write_text(path, "old")

    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(GentoolError, match=words) as caught:
            atomic.write_text(path, "new")
    assert caught.value.where == str(path)
    assert caught.value.exit_code == 1
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_data_reach_the_disk_before_the_name_and_the_name_before_the_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    real_sync, real_replace = atomic.sync, os.replace
    monkeypatch.setattr(
        atomic, "sync", lambda p: (events.append("dir" if Path(p).is_dir() else "file"), real_sync(p))
    )
    monkeypatch.setattr(os, "replace", lambda a, b: (events.append("rename"), real_replace(a, b)))
    atomic.write_text(tmp_path / "a", "x")
    assert events == ["file", "rename", "dir"]


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    with pytest.raises(GentoolError, match="cannot write"):
        atomic.write_text(tmp_path / "f" / "a", "x")


def test_a_folder_is_tried_without_being_made(tmp_path: Path) -> None:
    atomic.check_writable(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "f").write_text("")
    with pytest.raises(UserError, match="a part of the path is a file"):
        atomic.check_writable(tmp_path / "f" / "b")


def test_append_line_appends(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    for i in range(3):
        atomic.append_line(path, json.dumps({"step": i}))
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [0, 1, 2]


def test_a_torn_tail_does_not_swallow_the_next_line(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 0}\n{"st')
    atomic.append_line(path, '{"step": 1}')
    assert path.read_text().splitlines() == ['{"step": 0}', '{"st', '{"step": 1}']


def test_a_short_write_on_a_full_disk_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log.jsonl"
    atomic.append_line(path, "one")
    real = os.write

    def full(handle: int, data: bytes) -> int:
        if len(data) > 2:
            return real(handle, data[:2])
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(GentoolError, match="no space"):
            atomic.append_line(path, "two")
    assert path.read_text() == "one\n"


def test_a_line_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one line"):
        atomic.append_line(tmp_path / "x", "a\nb")
