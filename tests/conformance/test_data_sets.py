"""What every data set must keep. A new set adds a case: the files it needs, as small as they come."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from gentool.data import DataSet, make_config, open_set
from gentool.data.config import SETS
from gentool.errors import GentoolError
from gentool.runs.samples import write_samples

COUNT = 40


def idx(array: np.ndarray) -> bytes:
    """The IDX format of MNIST's files."""
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_files(name: str, folder: Path) -> dict[str, object]:
    """Small files of the set under `folder`; returns the options that point to them."""
    rng = np.random.default_rng(0)
    labels = np.arange(COUNT) % 10
    if name in ("mnist", "fashion-mnist", "stacked-mnist", "mnist-clouds"):
        home = folder / name
        home.mkdir()
        for part in ("train", "t10k"):
            images = idx(rng.integers(0, 256, (COUNT, 28, 28), np.uint8))
            (home / f"{part}-images-idx3-ubyte").write_bytes(images)
            (home / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels.astype(np.uint8))))
        return {"root": str(folder)}
    if name == "cifar10":
        (folder / name).mkdir()
        for part in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
            rows = rng.integers(0, 256, (COUNT, 1 + 3072), np.uint8)
            rows[:, 0] = labels
            (folder / name / f"{part}.bin").write_bytes(rows.tobytes())
        return {"root": str(folder)}
    if name == "images":
        for i in range(COUNT):
            path = folder / "pictures" / f"class{i % 2}" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8)).save(path)
        return {"path": str(folder / "pictures")}
    if name in ("hdf5", "npz"):
        images = rng.integers(0, 256, (COUNT, 8, 8, 1), np.uint8)
        path = folder / ("s.h5" if name == "hdf5" else "s.npz")
        return {"path": str(write_samples(path, images, labels % 4))}
    if name in ("meshes", "modelnet", "shapenet15k", "shapenet-vol"):
        return write_shapes(name, folder)
    return {"toy2d": {"count": 500}, "shapes": {"count": 4, "points": 64}}.get(name, {})


def write_shapes(name: str, folder: Path) -> dict[str, object]:
    """Two categories with `COUNT` shapes between them, in the layout of a set of shapes."""
    if name == "meshes":
        pytest.importorskip("trimesh")
    rng = np.random.default_rng(0)
    for i in range(COUNT):
        part, synset = ("train", "val")[i % 3 == 0], ("02691156", "03001627")[i % 2]
        points = rng.normal(size=(100, 3)).astype(np.float32)
        home = folder / synset
        home.mkdir(exist_ok=True)
        if name == "shapenet15k":
            (home / part).mkdir(exist_ok=True)
            np.save(home / part / f"{i}.npy", points)
        elif name == "shapenet-vol":
            (home / str(i)).mkdir()
            np.savez(home / str(i) / "pointcloud.npz", points=points, normals=points)
            with (home / f"{part}.lst").open("a") as listed:
                listed.write(f"{i}\n")
        elif name == "meshes":
            rows = "\n".join(" ".join(map(str, point)) for point in points[:4])
            tetrahedron = f"OFF\n4 4 0\n{rows}\n3 0 1 2\n3 0 1 3\n3 0 2 3\n3 1 2 3\n"
            (home / f"{i}.off").write_text(tetrahedron)
    if name == "modelnet":
        for part, seed in (("train", 1), ("test", 2)):
            with h5py.File(folder / f"ply_data_{part}0.h5", "w") as file:
                file["data"] = np.random.default_rng(seed).normal(size=(COUNT, 100, 3)).astype(np.float32)
                file["label"] = (np.arange(COUNT)[:, None] % 4).astype(np.uint8)
    return {"path": str(folder), "points": 64}


@pytest.fixture(params=SETS.names())
def given(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, dict[str, object]]:
    return request.param, write_files(request.param, tmp_path)


def both(given: tuple[str, dict[str, object]], **more: object) -> tuple[DataSet, DataSet]:
    name, options = given
    config = make_config(name, {**options, **more})
    return open_set(config, "train"), open_set(config, "test")


def test_examples_are_what_the_spec_says(given: tuple[str, dict[str, object]]) -> None:
    for data in both(given):
        assert len(data) > 0
        for i in (0, len(data) - 1, -1):
            x, label = data[i]
            assert tuple(x.shape) == data.spec.shape
            assert x.dtype == (torch.uint8 if data.spec.kind == "image" else torch.float32)
            assert label in range(data.spec.classes) if data.spec.classes else label == -1
        assert len(data.spec.class_names) == data.spec.classes
        with pytest.raises(IndexError):
            data[len(data)]


def test_batches_are_the_examples_in_the_order_asked_for(given: tuple[str, dict[str, object]]) -> None:
    data, _ = both(given)
    rows = [3, 0, 3, len(data) - 1]
    batch = data.take(rows)
    for k, i in enumerate(rows):
        assert torch.equal(batch.x[k], data[i][0])
        assert int(batch.label[k]) == data[i][1]


def test_training_never_sees_the_test_part(given: tuple[str, dict[str, object]]) -> None:
    seen = [{data.take([i]).x.numpy().tobytes() for i in range(len(data))} for data in both(given)]
    assert seen[0].isdisjoint(seen[1])


def test_the_fingerprint_is_of_the_content(given: tuple[str, dict[str, object]]) -> None:
    train, test = both(given)
    again, _ = both(given, batch_size=3, workers=1)
    fewer, _ = both(given, limit=5)
    assert train.fingerprint == again.fingerprint
    assert len({train.fingerprint, test.fingerprint, fewer.fingerprint}) == 3


def test_a_smaller_limit_is_part_of_a_larger(given: tuple[str, dict[str, object]]) -> None:
    few, more = (
        {data.take([i]).x.numpy().tobytes() for i in range(len(data))}
        for data in (both(given, limit=4)[0], both(given, limit=9)[0])
    )
    assert few < more


def test_what_is_known_without_the_files_is_what_the_files_hold(given: tuple[str, dict[str, object]]) -> None:
    name, options = given
    expected = make_config(name, options).expected_spec()
    assert expected is None or expected == both(given)[0].spec


@pytest.mark.parametrize("name", [name for name in SETS.names() if name not in ("digits", "toy2d", "shapes")])
def test_missing_files_are_named(name: str, tmp_path: Path) -> None:
    """In an error that says what was looked for and where."""
    fields = SETS.get(name).model_fields
    suffix = {"hdf5": ".h5", "npz": ".npz"}.get(name, "")
    place = str(tmp_path / f"nowhere{suffix}")
    config = make_config(name, {"root" if "root" in fields else "path": place})
    assert not config.present()
    with pytest.raises(GentoolError) as error:
        open_set(config, "train")
    assert error.value.exit_code == 2
    assert "nowhere" in str(error.value)
    assert "root" not in fields or f"gentool data fetch {name}" in str(error.value)
