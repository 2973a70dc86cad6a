"""Checkpoints that survive: hashed while written, fsynced, re-read, renamed; loaded without pickle's code.

A checkpoint is `step-NNNNNNNN.ckpt` and, written after it, `step-NNNNNNNN.json` with its SHA-256. A file without its
manifest, or that does not match it, is passed over: the newest good one before it is used, and said.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import pickle
from pathlib import Path
from typing import Any, BinaryIO

import torch

from gentool.errors import CorruptError, GentoolError
from gentool.runs.atomic import atomic_write, write_json


class _Hashing(io.RawIOBase):
    """Counts and hashes what passes through, so that the file can be proved without a second copy in memory."""

    def __init__(self, out: BinaryIO) -> None:
        self.out, self.sha, self.size = out, hashlib.sha256(), 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self.sha.update(view)
        self.size += len(view)
        self.out.write(view)
        return len(view)


def _sha256(path: Path) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def save(state: dict[str, Any], folder: Path, step: int, keep: int = 2) -> Path:
    """Writes `state` (tensors, numbers, strings, lists, dicts) as the checkpoint of `step`; keeps the newest `keep`.

    Raises:
        GentoolError: it could not be written whole; what was there before is untouched.
    """
    if not folder.is_dir():  # written anew, it would be a run without its recipe
        raise GentoolError("the folder was removed during training: the state cannot be saved", str(folder))
    path = folder / f"step-{step:08d}.ckpt"
    # A file saved again is not good before its new manifest.
    path.with_suffix(".json").unlink(missing_ok=True)
    with atomic_write(path) as scratch:
        out = _write_hashed(state, scratch)
        if _sha256(scratch) != out.sha.hexdigest():
            raise OSError(errno.EIO, "what was read back is not what was written")
    write_json(path.with_suffix(".json"), {"step": step, "sha256": out.sha.hexdigest(), "bytes": out.size})
    for old in complete(folder)[:-keep]:
        old.with_suffix(".json").unlink(missing_ok=True)
        old.unlink(missing_ok=True)
    return path


def _write_hashed(state: dict[str, Any], path: Path) -> _Hashing:
    try:
        with open(path, "wb") as raw:
            out = _Hashing(raw)
            torch.save(state, out)  # type: ignore[arg-type]
            raw.flush()
            os.fsync(raw.fileno())
    except RuntimeError as error:  # torch's zip writer hides the write's own error behind an assertion
        raise (
            error.__context__ if isinstance(error.__context__, OSError) else OSError(errno.EIO, str(error))
        ) from None
    return out


def complete(folder: Path) -> list[Path]:
    """Checkpoints that have a manifest, oldest first."""
    return sorted(p for p in folder.glob("step-*.ckpt") if p.with_suffix(".json").is_file())


def load(path: Path) -> dict[str, Any]:
    """One checkpoint, on the CPU.

    Raises:
        CorruptError: it does not match its manifest or cannot be read.
    """
    try:
        manifest = json.loads(path.with_suffix(".json").read_text())
        if _sha256(path) != manifest["sha256"]:
            raise CorruptError("does not match the SHA-256 of its manifest", str(path))
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except (OSError, ValueError, KeyError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise CorruptError(f"cannot be read: {str(error).splitlines()[0]}", str(path)) from None


def newest(folder: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """The newest good state (None when there has never been one), and a line for each bad one passed over.

    Raises:
        CorruptError: there are checkpoints and none of them is good.
    """
    bad: list[str] = []
    found = complete(folder)
    for path in reversed(found):
        try:
            return load(path), bad
        except CorruptError as error:
            bad.append(str(error))
    if found:
        raise CorruptError("no good checkpoint is left: " + "; ".join(bad), str(folder))
    return None, bad
