"""Property: whatever happens to the bytes of a file, reading it gives data or one clear error, no other."""

from __future__ import annotations

import io
import json
import random
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from data_files import MNIST_X, MNIST_Y, idx
from PIL import Image

from gentool import data
from gentool.data.dataset import open_whole
from gentool.data.options import DataConfig
from gentool.errors import CorruptError, UserError
from gentool.runs.samples import read_samples, write_samples

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 12, 10, 3), np.uint8)


def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {"exif": exif} if kind in ("PNG", "JPEG", "WEBP") else {}
    Image.fromarray(IMAGES[0]).save(buffer, kind, **options)
    return buffer.getvalue()


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in "abc":
            archive.writestr(f"{name}.bmp", encoded("BMP"))
    return buffer.getvalue()


def tarred(mode: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name in "abc":
            member = tarfile.TarInfo(f"{name}.bmp")
            member.size = len(encoded("BMP"))
            archive.addfile(member, io.BytesIO(encoded("BMP")))
    return buffer.getvalue()


def written(folder: Path, suffix: str) -> bytes:
    samples = IMAGES if suffix != ".ply" else np.random.default_rng(0).random((3, 5, 3), np.float32)
    write_samples(folder / f"whole{suffix}", samples, None, {"note": 1})
    return (folder / f"whole{suffix}").read_bytes()


def damaged(content: bytes, chance: random.Random) -> bytes:
    """Cut short, or with a few bytes changed, most often near the start where headers are."""
    if chance.random() < 0.2:
        return content[: chance.randrange(len(content))]
    out = bytearray(content)
    for _ in range(chance.choice([1, 2, 5, 30])):
        place = chance.randrange(len(out) if chance.random() < 0.6 else min(200, len(out)))
        out[place] = chance.choice([0, 255, out[place] ^ (1 << chance.randrange(8)), chance.randrange(256)])
    return bytes(out)


KINDS = [
    ".png",
    ".jpeg",
    ".bmp",
    ".webp",
    ".tiff",
    ".zip",
    ".tar",
    ".tar.gz",
    ".npz",
    ".h5",
    ".ply",
    "idx",
    "json",
]


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_a_clear_error_or_harmless(tmp_path: Path, kind: str) -> None:
    chance, refused = random.Random(kind), 0
    config: DataConfig | None = None
    path = tmp_path / f"a{kind}"
    if kind in (".zip", ".tar", ".tar.gz"):
        content = zipped() if kind == ".zip" else tarred("w:gz" if kind == ".tar.gz" else "w")
        config = data.make_config("images", {"path": str(path), "size": 8})
    elif kind in (".npz", ".h5", ".ply"):
        content = written(tmp_path, kind)
        if kind != ".ply":
            config = data.make_config({".h5": "hdf5", ".npz": "npz"}[kind], {"path": str(path)})
    elif kind == "idx":
        path, content = tmp_path / "train-images-idx3-ubyte", idx(MNIST_X)
        (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(MNIST_Y))
        config = data.make_config("mnist", {"root": str(tmp_path)})
    elif kind == "json":
        (tmp_path / "s").mkdir()
        (tmp_path / "s" / "a.png").write_bytes(encoded("PNG"))
        path, content = tmp_path / "s" / "dataset.json", json.dumps({"labels": [["a.png", 1]]}).encode()
        config = data.make_config("images", {"path": str(path.parent)})
    else:
        path, content = tmp_path / "s" / f"a{kind}", encoded(kind[1:].upper())
        path.parent.mkdir()
        config = data.make_config("images", {"path": str(path.parent)})
    for _ in range(60):
        path.write_bytes(damaged(content, chance))
        try:
            if config is None:
                read_samples(path)
            else:
                open_whole(config, "train").load()
        except (CorruptError, UserError):
            refused += 1
    assert refused > 0
