"""Downloads with pinned hashes that go on where they were cut, and become visible only when they are whole.

The bytes arrive in `<file>.part`, are verified, and are then renamed; a killed one resumes by HTTP Range.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import sys
import tarfile
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from gentool.errors import CorruptError, GentoolError, UserError
from gentool.runs.atomic import atomic_write, plain_failures, sync

if TYPE_CHECKING:
    from http.client import HTTPResponse

ATTEMPTS = 6
"""Tries before giving up."""
BLOCK = 1 << 18


@dataclass(frozen=True)
class Remote:
    """One file to download.

    Attributes:
        url: where from; a mirror is a folder that has the same file name.
        sha256: of `hashed`: the file as it travels, or what gzip makes of it (then mirrors that compressed
            the same content anew are good too).
        size: bytes of the original file; twice as many are refused.
        keep: members to unpack from a tar file; empty for a file that stays as it is.
    """

    url: str
    sha256: str
    size: int
    hashed: Literal["file", "gunzipped"] = "file"
    keep: tuple[str, ...] = ()

    @property
    def file(self) -> str:
        return PurePosixPath(self.url).name


def data_root(root: str | None) -> Path:
    """The common folder of named sets: `root`, else $GENTOOL_DATA, else ./.data."""
    return Path(root or os.environ.get("GENTOOL_DATA") or ".data")


Progress = Callable[[str, int, int], None]
"""(file, bytes so far, bytes in all): called now and then."""


def fetch_set(
    name: str,
    remotes: Sequence[Remote],
    root: str | None = None,
    mirror: str | None = None,
    progress: Progress | None = None,
) -> list[Path]:
    """Downloads what is missing of a set into its folder, and returns the paths of its files.

    Args:
        root: the common folder (`data_root`); the set's files go into a folder of its name there.
        mirror: a URL of a folder with files of the same names, instead of the set's own.

    Raises:
        UserError: nothing to download, the URL is not https, or GENTOOL_OFFLINE is set.
        CorruptError: the bytes are not those of the pinned hash.
        GentoolError: the network or the disk failed for good; what came is kept for the next try.
    """
    if not remotes:
        raise UserError("nothing to download", f"data set {name}")
    home = data_root(root) / name
    made = []
    for remote in remotes:
        wanted = [home / member for member in remote.keep] or [home / remote.file]
        if not all(path.exists() for path in wanted):
            url = f"{mirror.rstrip('/')}/{remote.file}" if mirror else remote.url
            archive = download(remote, url, home / remote.file, progress)
            if remote.keep:
                _unpack(archive, remote.keep, home)
                archive.unlink()
        made += wanted
    return made


def download(
    remote: Remote, url: str, target: Path, progress: Progress | None = None, pause: float = 1.0
) -> Path:
    """Downloads one file to `target`; `pause` seconds pass before the second try, then twice as many."""
    if os.environ.get("GENTOOL_OFFLINE"):
        raise UserError("GENTOOL_OFFLINE is set; nothing is downloaded", url)
    address = urlsplit(url)
    if address.scheme != "https" and (address.scheme, address.hostname) != ("http", "127.0.0.1"):
        raise UserError("expected an https:// address", url)
    part = target.with_name(target.name + ".part")
    with plain_failures(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    failure = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(pause * 2 ** (attempt - 1))
        resumed = part.exists() and part.stat().st_size > 0
        try:
            _receive(url, part, remote, progress)
        except _Cut as error:
            failure = str(error)
            continue
        found = _digest(part, remote.hashed)
        if found == remote.sha256:
            with plain_failures(target):
                sync(part)
                os.replace(part, target)
                sync(target.parent)
            return target
        part.unlink()
        if not resumed:
            raise CorruptError(
                f"came with sha256 {found}, expected {remote.sha256} ({remote.hashed}); not kept",
                url,
            )
        failure = "the earlier part belonged to another file; starting anew"
    raise GentoolError(
        f"could not be downloaded in {ATTEMPTS} tries ({failure}); run the same command to go on", url
    )


class _Cut(Exception):
    """The connection failed; another try may go on from here."""


def _receive(url: str, part: Path, remote: Remote, progress: Progress | None) -> None:
    from http.client import HTTPException
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "gentool", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        with urlopen(Request(url, headers=headers), timeout=30) as answer:
            _store(answer, part, have if answer.status == 206 else 0, remote, progress)
    except HTTPError as error:
        if error.code == 416:  # the part is whole already, or longer than the file: the hash will tell
            return
        if error.code in (408, 425, 429) or error.code >= 500:
            raise _Cut(f"HTTP {error.code}") from error
        raise GentoolError(
            f"the server answers {error.code} {error.reason}; try a mirror with --url", url
        ) from error
    except (HTTPException, OSError) as error:
        raise _Cut(str(error) or type(error).__name__) from error


def _store(answer: HTTPResponse, part: Path, have: int, remote: Remote, progress: Progress | None) -> None:
    length = answer.headers.get("Content-Length")
    total = have + int(length) if length and length.isdigit() else remote.size
    with plain_failures(part):  # a full disk must not look like a cut connection
        file = part.open("r+b" if have else "wb")
    with file:
        file.seek(have)
        file.truncate()
        while block := answer.read(BLOCK):
            have += len(block)
            if have > 2 * remote.size + BLOCK:
                raise CorruptError(f"more than {have} bytes came, the file has {remote.size}", answer.url)
            with plain_failures(part):
                file.write(block)
                file.flush()
            if progress:
                progress(remote.file, have, total)
    if length and have < total:
        raise _Cut(f"the connection ended after {have} of {total} bytes")


def _digest(path: Path, hashed: str) -> str:
    total = hashlib.sha256()
    try:
        with path.open("rb") if hashed == "file" else gzip.open(path) as file:
            while block := file.read(1 << 20):
                total.update(block)
    except (OSError, EOFError, zlib.error):
        return "none: not a whole gzip file"
    return total.hexdigest()


def _unpack(archive: Path, keep: tuple[str, ...], home: Path) -> None:
    """Takes members by file name, wherever they lie in the archive; nothing else is written."""
    with tarfile.open(archive, "r|*") as file:
        for member in file:
            name = PurePosixPath(member.name).name
            if member.isreg() and name in keep:
                stream = file.extractfile(member)
                with atomic_write(home / name) as scratch:
                    scratch.write_bytes(stream.read() if stream else b"")
    missing = [name for name in keep if not (home / name).exists()]
    if missing:
        raise CorruptError(f"lacks {', '.join(missing)}", str(archive))


def report_to_stderr(file: str, done: int, total: int) -> None:
    """A progress line on a terminal, nothing elsewhere."""
    if sys.stderr.isatty():
        print(f"\r{file} {done / 1e6:.1f} of {total / 1e6:.1f} MB", end="", file=sys.stderr, flush=True)
