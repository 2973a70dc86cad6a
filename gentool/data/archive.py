"""Folders, tar and zip files as one flat list of files, read in place; nothing is ever written.

Members that an honest archive of pictures never has are refused: absolute names, `..`, links, devices, the
same name twice, and bombs. Sources: CWE-22, CWE-59, CWE-409.
"""

from __future__ import annotations

import lzma
import os
import stat
import tarfile
import threading
import zipfile
import zlib
from abc import ABC, abstractmethod
from pathlib import Path, PurePosixPath

from gentool.data.spec import Fault
from gentool.errors import CorruptError, UserError

MAX_RATIO = 200
"""Largest honest ratio of unpacked to packed bytes; PNG and JPEG members hardly shrink at all."""
RATIO_FROM = 16 << 20
"""Below this many unpacked bytes a ratio harms nobody (blank pictures shrink a thousandfold)."""
MAX_STREAM = 2 << 30
"""A compressed tar has no random access: its files are held in memory, up to this many bytes."""


_UNREADABLE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    OSError,
    EOFError,
    ValueError,
    RuntimeError,  # and with it NotImplementedError: zip's answer to unknown methods and wrong flags
)
"""What the standard library raises on a damaged archive."""


class Tree(ABC):
    """Files by relative POSIX name.

    Attributes:
        names: the files' names, sorted.
        faults: members that were refused; `open_tree` raises the first of them.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names: list[str] = []
        self.faults: list[Fault] = []

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The bytes of one file; `CorruptError` when they cannot be had."""

    def where(self, name: str) -> str:
        """The file's name for messages."""
        return f"{self.path}/{name}" if self.path.is_dir() else f"{self.path}:{name}"

    def refuse(self, name: str, reason: str) -> None:
        self.faults.append(Fault(f"{self.path}:{name}", reason))

    def admit(self, name: str, seen: set[str]) -> str | None:
        """A member's name without `./`, when it is safe and new; else None, and the fault is recorded."""
        path = PurePosixPath(name.replace("\\", "/"))
        if not name:
            self.refuse("?", "a member without a name in an archive; refused")
        elif path.is_absolute() or str(path)[1:2] == ":":
            self.refuse(name, "an absolute name in an archive; refused")
        elif ".." in path.parts:
            self.refuse(name, "a name with '..' in an archive; refused")
        elif str(path) in seen:
            self.refuse(name, "the same name twice in one archive; refused")
        else:
            seen.add(str(path))
            return str(path)
        return None


class Folder(Tree):
    """A folder; links inside it are followed, since it is the user's own."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        visited: set[str] = set()
        for place, folders, files in os.walk(path, followlinks=True):
            real = os.path.realpath(place)
            if real in visited:
                folders.clear()
                continue
            visited.add(real)
            relative = Path(place).relative_to(path)
            self.names += [(relative / file).as_posix() for file in files]
        self.names.sort()

    def read(self, name: str) -> bytes:
        try:
            return (self.path / name).read_bytes()
        except OSError as error:
            raise CorruptError(f"cannot be read ({error.strerror})", self.where(name)) from error


class Zip(Tree):
    """A zip file."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        seen: set[str] = set()
        self._lock = threading.Lock()
        self._file: zipfile.ZipFile | None = None
        self._pid = 0
        self._entries: dict[str, zipfile.ZipInfo] = {}
        for entry in self._open().infolist():
            kind = stat.S_IFMT(entry.external_attr >> 16)
            name = self.admit(entry.filename, seen)
            if name is None or entry.is_dir():
                continue
            if kind not in (0, stat.S_IFREG):
                self.refuse(entry.filename, "a link or device in an archive; refused")
            elif entry.file_size > max(RATIO_FROM, MAX_RATIO * entry.compress_size):
                self.refuse(
                    entry.filename, f"unpacks to {entry.file_size} bytes from {entry.compress_size}; refused"
                )
            elif entry.flag_bits & 1:
                self.refuse(entry.filename, "is encrypted")
            else:
                self._entries[name] = entry
        self.names = sorted(self._entries)

    def _open(self) -> zipfile.ZipFile:
        if (
            self._file is None or self._pid != os.getpid()
        ):  # a forked loader shares no file position with its parent
            try:
                self._file, self._pid = zipfile.ZipFile(self.path), os.getpid()
            except _UNREADABLE as error:
                raise CorruptError(f"not a whole zip file ({error})", str(self.path)) from error
        return self._file

    def read(self, name: str) -> bytes:
        try:
            with self._lock:
                return self._open().read(self._entries[name])
        except _UNREADABLE as error:
            raise CorruptError(f"cannot be unpacked ({error})", self.where(name)) from error

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_file": None, "_lock": None}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())


class Tar(Tree):
    """A tar file: plain ones are read at the members' offsets, compressed ones once into memory."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._places: dict[str, tuple[int, int]] = {}
        self._held: dict[str, bytes] = {}
        seen: set[str] = set()
        try:
            plain = _is_plain(path)
            total, allowed = 0, min(MAX_STREAM, max(RATIO_FROM, MAX_RATIO * path.stat().st_size))
            with tarfile.open(path, "r:" if plain else "r|*") as file:
                for member in file:
                    total += member.size
                    if total > (allowed if not plain else 1 << 62) or (not plain and total > MAX_STREAM):
                        limit = min(allowed, MAX_STREAM)
                        self.refuse(
                            member.name, f"unpacks to more than {limit} bytes; uncompress the archive first"
                        )
                        break
                    name = self.admit(member.name, seen)
                    if name is None or member.isdir():
                        continue
                    if not member.isreg() or member.issparse():
                        self.refuse(member.name, "a link, device or sparse file in an archive; refused")
                        continue
                    self.names.append(name)
                    if plain:
                        self._places[name] = (member.offset_data, member.size)
                    else:
                        stream = file.extractfile(member)
                        self._held[name] = stream.read() if stream else b""
        except _UNREADABLE as error:
            raise CorruptError(f"not a whole tar file ({error})", str(path)) from error
        self.names.sort()

    def read(self, name: str) -> bytes:
        if name in self._held:
            return self._held[name]
        offset, size = self._places[name]
        with self.path.open("rb") as file:
            file.seek(offset)
            data = file.read(size)
        if len(data) != size:
            raise CorruptError(
                f"the archive ends inside this member ({len(data)} of {size} bytes)", self.where(name)
            )
        return data


def _is_plain(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(512)[257:262] == b"ustar"


def scan_tree(path: str | Path) -> Tree:
    """The files of a folder, tar (also .gz, .xz, .bz2) or zip, with `faults` for what was refused.

    Raises:
        UserError: no such path, or neither of these.
        CorruptError: a damaged archive.
    """
    path = Path(path)
    if path.is_dir():
        return Folder(path)
    if not path.exists():
        raise UserError("no such folder or archive", str(path))
    if zipfile.is_zipfile(path) or path.suffix.lower() == ".zip":
        return Zip(path)
    if any(suffix in (".tar", ".tgz", ".txz", ".tbz2") for suffix in path.suffixes[-2:]):
        return Tar(path)
    raise UserError("expected a folder, a tar (also .gz, .xz, .bz2) or a zip file", str(path))


def open_tree(path: str | Path) -> Tree:
    """`scan_tree`, and a `CorruptError` for the first refused member."""
    tree = scan_tree(path)
    if tree.faults:
        raise CorruptError(tree.faults[0].message, tree.faults[0].where)
    return tree
