"""model.safetensors: what sampling needs, and never a pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gentool.errors import CorruptError
from gentool.runs.atomic import atomic_write


def save_weights(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Writes atomically; `metadata` values are strings (the format's rule)."""
    with atomic_write(path) as scratch:
        # One key: safetensors writes several in no fixed order, and equal runs should give equal files.
        header = {"gentool": json.dumps(dict(metadata), sort_keys=True)}
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, scratch, header)


def load_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors on the CPU and the metadata.

    Raises:
        CorruptError: the file is not a whole safetensors file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {}).get("gentool", "{}"))
            return {k: file.get_tensor(k) for k in file.keys()}, metadata  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise CorruptError(f"not a whole safetensors file: {error}", str(path)) from None


def fingerprint(path: Path) -> str:
    """SHA-256 of the file: what a distilled head stores of its base, and samples of their model."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
