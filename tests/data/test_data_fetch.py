"""Property: a download is whole, verified, and goes on where it was cut; anything else leaves no file of
its name."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import os
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from gentool.data import fetch
from gentool.data.config import CONFIGS
from gentool.data.fetch import Remote, fetch_set
from gentool.errors import CorruptError, GentoolError, UserError

CONTENT = os.urandom(300_000)


class Server(HTTPServer):
    """Serves `files`; `cut_after` bytes the connection dies, `failures` times; remembers the ranges asked
    for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.cut_after, self.failures, self.ranges_known = 100_000, 0, True
        self.status = 200
        self.ranges: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.ranges.append(wanted)
        content = self.server.files.get(self.path.lstrip("/"))
        if content is None or self.server.status != 200:
            self.send_error(404 if content is None else self.server.status)
            return
        start = int(wanted[len("bytes=") : -1]) if wanted and self.server.ranges_known else 0
        if start >= len(content) > 0:
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if self.server.failures > 0:
            self.server.failures -= 1
            self.wfile.write(content[start : start + self.server.cut_after])
        else:
            self.wfile.write(content[start:])

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(fetch.time, "sleep", lambda _: None)
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        server.files["data.bin"] = CONTENT
        yield server
        server.shutdown()


REMOTE = Remote("https://example.org/data.bin", hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))


def get(root: Path, server: Server, remote: Remote = REMOTE) -> list[Path]:
    return fetch_set("toy", [remote], str(root), server.url)


def names(root: Path) -> list[str]:
    return sorted(p.name for p in (root / "toy").iterdir())


def test_a_whole_download_is_asked_for_once(tmp_path: Path, server: Server) -> None:
    [path] = get(tmp_path, server)
    assert path.read_bytes() == CONTENT
    get(tmp_path, server)
    assert server.ranges == [None]
    assert names(tmp_path) == ["data.bin"]


def test_a_cut_connection_goes_on_from_the_byte_it_reached(tmp_path: Path, server: Server) -> None:
    server.failures = 2
    [path] = get(tmp_path, server)
    assert path.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=100000-", "bytes=200000-"]


def test_a_killed_command_goes_on_where_it_was(tmp_path: Path, server: Server) -> None:
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "data.bin.part").write_bytes(CONTENT[:123_456])
    [path] = get(tmp_path, server)
    assert path.read_bytes() == CONTENT
    assert server.ranges == ["bytes=123456-"]


def test_a_part_that_is_whole_already_is_verified_and_kept(tmp_path: Path, server: Server) -> None:
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "data.bin.part").write_bytes(CONTENT)
    assert get(tmp_path, server)[0].read_bytes() == CONTENT


def test_a_server_without_ranges_starts_anew(tmp_path: Path, server: Server) -> None:
    server.failures, server.ranges_known = 1, False
    assert get(tmp_path, server)[0].read_bytes() == CONTENT


def test_a_part_of_another_file_is_thrown_away(tmp_path: Path, server: Server) -> None:
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "data.bin.part").write_bytes(b"x" * 50_000)
    assert get(tmp_path, server)[0].read_bytes() == CONTENT
    assert server.ranges == ["bytes=50000-", None]


def test_a_server_that_dies_for_good_keeps_the_part_and_says_how_to_go_on(
    tmp_path: Path, server: Server
) -> None:
    server.failures, server.cut_after = 99, 10_000
    with pytest.raises(
        GentoolError, match=r"6 tries .*60000 of 300000.*run the same command to go on"
    ) as caught:
        get(tmp_path, server)
    assert caught.value.exit_code == 1
    assert names(tmp_path) == ["data.bin.part"]
    assert (tmp_path / "toy" / "data.bin.part").read_bytes() == CONTENT[:60_000]


def test_other_bytes_are_never_kept(tmp_path: Path, server: Server) -> None:
    server.files["data.bin"] = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
    with pytest.raises(CorruptError, match=f"expected {REMOTE.sha256}"):
        get(tmp_path, server)
    assert names(tmp_path) == []


def test_an_endless_file_is_stopped(tmp_path: Path, server: Server) -> None:
    server.files["data.bin"] = bytes(2_000_000)
    with pytest.raises(CorruptError, match="the file has 300000"):
        get(tmp_path, server)


@pytest.mark.parametrize(("status", "tries"), [(403, 1), (503, 6)])
def test_server_errors_are_said(tmp_path: Path, server: Server, status: int, tries: int) -> None:
    server.status = status
    with pytest.raises(GentoolError, match=str(status)):
        get(tmp_path, server)
    assert len(server.ranges) == tries


def test_a_full_disk_is_not_taken_for_a_cut_connection(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.open

    def full(self: Path, *args: Any, **kwargs: Any) -> Any:
        if self.suffix == ".part":
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(GentoolError, match="no space left on the disk"):
        get(tmp_path, server)
    assert len(server.ranges) == 1


def test_content_hashes_hold_for_any_gzip_of_the_same_bytes(tmp_path: Path, server: Server) -> None:
    remote = Remote("https://example.org/data.gz", REMOTE.sha256, len(CONTENT), "gunzipped")
    server.files["data.gz"] = gzip.compress(CONTENT, 1)
    assert gzip.decompress(get(tmp_path, server, remote)[0].read_bytes()) == CONTENT
    server.files["data.gz"] = b"no gzip"
    with pytest.raises(CorruptError, match="not a whole gzip file"):
        get(tmp_path / "other", server, remote)


def test_only_the_wanted_members_of_an_archive_are_unpacked_whatever_it_holds(
    tmp_path: Path, server: Server
) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name in ("batches/a.bin", "../../evil.bin", "/abs.bin", "batches/b.bin", "other.txt"):
            member = tarfile.TarInfo(name)
            member.size = len(name)
            archive.addfile(member, io.BytesIO(name.encode()))
    content = buffer.getvalue()
    remote = Remote(
        "https://x.org/a.tar.gz", hashlib.sha256(content).hexdigest(), len(content), keep=("a.bin", "b.bin")
    )
    server.files["a.tar.gz"] = content
    paths = get(tmp_path / "root", server, remote)
    assert [p.read_text() for p in paths] == ["batches/a.bin", "batches/b.bin"]
    assert names(tmp_path / "root") == ["a.bin", "b.bin"]
    assert [p.name for p in tmp_path.iterdir()] == ["root"]


@pytest.mark.parametrize(
    "url", ["http://example.org", "http://127.0.0.1.example.org", "file:///etc", "ftp://127.0.0.1"]
)
def test_only_https_leaves_this_machine(tmp_path: Path, url: str) -> None:
    with pytest.raises(UserError, match="https"):
        fetch_set("toy", [REMOTE], str(tmp_path), url)


def test_offline_is_offline(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENTOOL_OFFLINE", "1")
    with pytest.raises(UserError, match="GENTOOL_OFFLINE"):
        get(tmp_path, server)
    assert server.ranges == []


def test_every_pinned_file_is_https_with_a_sha256() -> None:
    pinned = [remote for config in CONFIGS.values() for remote in config.remotes]
    assert len(pinned) == 17
    for remote in pinned:
        assert remote.url.startswith("https://")
        assert len(bytes.fromhex(remote.sha256)) == 32
