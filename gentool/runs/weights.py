"""model.safetensors: what sampling needs, and never a pickle."""

from __future__ import annotations

import errno
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gentool.errors import CorruptError
from gentool.runs.atomic import atomic_write

DIGEST = "sha256"


def save_weights(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Writes atomically; `metadata` values are strings (the format's rule).

    Raises:
        GentoolError: the disk is full, or may not be written.
    """
    with atomic_write(path) as scratch:
        # One key: safetensors writes several in no fixed order, and equal runs should give equal files.
        kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        header = {"gentool": json.dumps({**metadata, DIGEST: _digest(kept)}, sort_keys=True)}
        try:
            save_file(kept, scratch, header)
        except SafetensorError as error:  # the disk's own reason is in its text alone
            number = re.search(r"os error (\d+)", str(error))
            raise OSError(int(number[1]) if number else errno.EIO, str(error)) from None


def load_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors on the CPU and the metadata.

    Raises:
        CorruptError: the file is not a whole safetensors file, or not with the bytes that were written.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {}).get("gentool", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise CorruptError(f"not a whole safetensors file: {error}", str(path)) from None
    known = metadata.pop(DIGEST, None)
    if known is not None and known != _digest(tensors):
        raise CorruptError("the weights are not those that were written (SHA-256 differs)", str(path))
    return tensors, metadata


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and bytes: safetensors checks its header, and not what it holds."""
    sha = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def fingerprint(path: Path) -> str:
    """SHA-256 of the file: what a distilled head stores of its base, and samples of their model."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
