"""model.safetensors: what is read back is what was written, or an error."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gentool.errors import CorruptError
from gentool.runs.weights import load_weights, save_weights

TENSORS = {
    "b": torch.arange(6.0).view(2, 3),
    "a": torch.tensor(1.5, dtype=torch.float64),
    "n": torch.ones(4).bfloat16(),
}


def test_round_trip_and_equal_bytes_for_equal_content(tmp_path: Path) -> None:
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_weights(first, TENSORS, {"step": "3", "family": "edm"})
    save_weights(second, dict(reversed(TENSORS.items())), {"family": "edm", "step": "3"})
    tensors, metadata = load_weights(first)
    assert metadata == {"step": "3", "family": "edm"}
    assert all(torch.equal(tensors[name], value) for name, value in TENSORS.items())
    assert first.read_bytes() == second.read_bytes()


def test_every_flipped_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_weights(path, TENSORS, {"step": "3"})
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    for place in range(header, len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        with pytest.raises(CorruptError):
            load_weights(path)


def test_cut_file_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_weights(path, TENSORS, {})
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(CorruptError):
        load_weights(path)
