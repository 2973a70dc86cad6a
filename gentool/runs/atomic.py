"""Files that are whole or absent: temporary name in the same folder, fsync, rename, fsync of the folder.

Lightning renames without fsync and `torch.save` writes over the good file; after a power cut or a full disk
both can leave a torn file under the final name. Here the old file stays until the new one is safely on the
disk.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gentool.errors import GentoolError, UserError

PROBE = "probe"
"""The file by which a folder is tried."""

_REASONS = {
    errno.ENOSPC: "no space left on the disk",
    errno.EDQUOT: "the disk quota is used up",
    errno.EACCES: "no permission to write there",
    errno.EPERM: "no permission to write there",
    errno.EROFS: "the file system is read-only",
    errno.ENOENT: "the folder does not exist (any more)",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EEXIST: "a file of that name is in the way",
    errno.EISDIR: "a folder of that name is in the way",
    errno.EFBIG: "the file is larger than allowed there",
    errno.EIO: "the disk reports an input/output error",
}


@contextmanager
def plain_failures(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turns an `OSError` while writing `path` into a one-line `GentoolError` that says why."""
    try:
        yield
    except OSError as error:
        reason = _REASONS.get(error.errno or 0) or error.strerror or str(error)
        raise GentoolError(f"cannot write: {reason}", str(path)) from error


@contextmanager
def _refused(folder: str | os.PathLike[str]) -> Iterator[None]:
    try:
        with plain_failures(folder):
            yield
    except GentoolError as error:
        raise UserError(error.message, error.where) from error


def check_writable(folder: str | os.PathLike[str]) -> None:
    """Proves, before any work is done, that files can be written into a folder, and leaves nothing there.

    One that is missing is not made, lest work that is refused leave it behind: the nearest that is there is tried.

    Raises:
        UserError: they cannot; says why.
    """
    place = Path(folder).absolute()
    while not os.path.lexists(place):
        place = place.parent
    with _refused(folder):
        probe = temporary(place / PROBE)
        probe.write_bytes(b"\0")
        probe.unlink()


def make_folder(folder: str | os.PathLike[str]) -> None:
    """Makes a folder, with its parents, and proves that files can be written there.

    Raises:
        UserError: as `check_writable`.
    """
    with _refused(folder):
        Path(folder).mkdir(parents=True, exist_ok=True)
    check_writable(folder)


def check_apart(out: str | os.PathLike[str], *read: str | os.PathLike[str] | None) -> None:
    """Refuses to write where a file lies that is read, or that is in a folder which is read, before any work is done.

    Args:
        read: paths, or what is none: the name of a data set, None.

    Raises:
        UserError: it would be overwritten; says which.
    """
    place = Path(out)
    for source in read:
        path = None if source is None else Path(source)
        if path is None or not path.exists() or not place.exists():
            continue
        if place.samefile(path) or (path.is_dir() and path.resolve() in place.resolve().parents):
            where = "is INPUT itself" if place.samefile(path) else f"is a file of {path}, which is read"
            raise UserError(f"{where}: name another output", str(place))


def sync(path: str | os.PathLike[str]) -> None:
    """Forces a file, or a folder's list of names, onto the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (
            errno.EINVAL,
            errno.ENOTSUP,
        ):  # some network file systems cannot fsync a folder
            raise
    finally:
        os.close(handle)


def temporary(path: Path) -> Path:
    """A fresh hidden name beside `path`, with its suffix (h5py, numpy and Pillow go by it)."""
    return path.with_name(f".{path.stem}.{secrets.token_hex(4)}.tmp{path.suffix}")


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary `Path` in the same folder to write; at the end of the block it becomes `path`.

    The block may create the file with any library, and must close it. If the block raises, `path` is as it
    was and the temporary file is gone. Missing parent folders are made.

    Raises:
        GentoolError: the disk is full, read-only, or may not be written; one line that says which.
    """
    path = Path(path)
    scratch = temporary(path)
    with plain_failures(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield scratch
            sync(scratch)
            os.replace(scratch, path)
            sync(path.parent)
        finally:
            scratch.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes UTF-8 text atomically."""
    with atomic_write(path) as scratch:
        scratch.write_bytes(text.encode())


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Writes one JSON document atomically; NaN and infinity are refused, as JSON has none (`ValueError`)."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def append_line(path: str | os.PathLike[str], line: str) -> None:
    """Appends one line and fsyncs, so that the line outlives a kill the moment this returns.

    A tail torn by an earlier crash is closed with a newline first, so that it cannot swallow the new line;
    a write that fails half-way is taken back.

    Raises:
        GentoolError: as `atomic_write`.
        ValueError: the line contains a newline.
    """
    if "\n" in line:
        raise ValueError("append_line writes one line")
    path = Path(path)
    with plain_failures(path):
        fresh = not path.exists()
        handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            size = os.fstat(handle).st_size
            torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
            data = (b"\n" if torn else b"") + line.encode() + b"\n"
            try:
                while data:
                    data = data[os.write(handle, data) :]
                os.fsync(handle)
            except OSError:
                os.ftruncate(handle, size)
                raise
        finally:
            os.close(handle)
        if fresh:
            sync(path.parent)
