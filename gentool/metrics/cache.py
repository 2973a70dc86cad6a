"""What is worth keeping between evaluations: trained classifiers and the features of reference sets.

A file is named by a hash of everything its content depends on, and carries that key and a digest of its
tensors: a file of other data, or with a flipped bit, is never taken for the right one.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gentool.errors import CorruptError, GentoolError
from gentool.runs.weights import load_weights, save_weights


def default_folder() -> Path:
    """`$GENTOOL_CACHE/metrics`, or `gentool/metrics` in the user's cache folder (XDG)."""
    if own := os.environ.get("GENTOOL_CACHE"):
        return Path(own) / "metrics"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gentool" / "metrics"


class Cache:
    """Tensors and a JSON record by key, in one folder; without a folder nothing is kept."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def _path(self, key: Mapping[str, Any]) -> Path:
        assert self.folder is not None
        name = hashlib.sha256(_text(key).encode()).hexdigest()[:24]
        return self.folder / f"{key['kind']}-{name}.safetensors"

    def load(self, key: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """What was saved under `key`, or None; a damaged file is as good as none, with a warning."""
        if self.folder is None or not (path := self._path(key)).is_file():
            return None
        try:
            tensors, metadata = load_weights(path)
            if metadata.get("key") != _text(key) or metadata.get("digest") != digest_of(tensors):
                raise CorruptError("its content is not what was written", str(path))
            return tensors, json.loads(metadata["record"])
        except (CorruptError, KeyError, ValueError) as error:
            warnings.warn(f"a cached file is damaged and is made anew ({error})", stacklevel=2)
            return None

    def save(self, key: Mapping[str, Any], tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
        """Keeps `tensors` under `key`; a cache that cannot be written costs a warning, not the evaluation."""
        if self.folder is None:
            return
        metadata = {"key": _text(key), "digest": digest_of(tensors), "record": json.dumps(dict(record))}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_weights(self._path(key), tensors, metadata)
        except (GentoolError, OSError) as error:
            warnings.warn(f"nothing is cached: {error}", stacklevel=2)


def _text(key: Mapping[str, Any]) -> str:
    return json.dumps(dict(key), sort_keys=True)


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, shapes, types and values."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name}{tuple(tensors[name].shape)}{tensors[name].dtype}".encode())
        digest.update(tensors[name].detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()
