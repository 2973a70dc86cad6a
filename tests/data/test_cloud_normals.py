"""Property: a normal belongs to its point, has unit length, and faces outwards where there is an outside."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from gentool import data
from gentool.data.meshes import OPEN
from gentool.errors import CorruptError, UserError

CORNERS = "0 0 0\n1 0 0\n0 1 0\n0 0 1\n"
OUTWARDS = "3 0 2 1\n3 0 1 3\n3 0 3 2\n3 1 2 3\n"
INWARDS = "3 0 1 2\n3 0 3 1\n3 0 2 3\n3 1 3 2\n"


def opened(name: str, **options: object) -> data.DataSet:
    return data.open_set(data.make_config(name, {"normals": True, "normalise": "none", **options}), "train")


def off(folder: Path, kind: str, faces: str) -> dict[str, object]:
    """A ModelNet folder with one mesh; its options."""
    pytest.importorskip("trimesh")
    home = folder / kind / "train"
    home.mkdir(parents=True, exist_ok=True)
    count = len(faces.splitlines())
    (home / f"{kind}.off").write_text(f"OFF\n4 {count} 0\n{CORNERS}{faces}")
    return {"path": str(folder), "points": 400}


def balls(folder: Path, *, scale: float = 2.0, off_by: int = 0) -> dict[str, object]:
    """shapenet-vol with one unit sphere, whose normals are its points times `scale`, `off_by` of them missing."""
    points = np.random.default_rng(0).normal(size=(90, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    home = folder / "02691156"
    (home / "ball").mkdir(parents=True)
    np.savez(home / "ball" / "pointcloud.npz", points=points, normals=scale * points[off_by:])
    (home / "train.lst").write_text("ball\n")
    return {"path": str(folder), "points": 60}


@pytest.mark.parametrize("faces", [OUTWARDS, INWARDS])
def test_normals_of_a_closed_mesh_leave_it_however_its_faces_are_wound(tmp_path: Path, faces: str) -> None:
    options = off(tmp_path, "solid", faces)
    found = opened("modelnet", **options, up="z")
    x = found.take([0]).x[0]
    middle = torch.tensor([0.25, 0.25, -0.25])  # inside, once z up is turned to y up
    assert ((x[:, :3] - middle) * x[:, 3:]).sum(
        1
    ).min() > 0  # of a convex solid every face looks away from it
    assert torch.allclose(x[:, 3:].norm(dim=1), torch.ones(400), atol=1e-5)
    assert OPEN not in found.notes
    plain = opened("modelnet", **options, up="z", normals=False)
    assert torch.equal(plain.take([0]).x[0], x[:, :3])


def test_open_meshes_are_told_of_and_bare_points_are_left_out(tmp_path: Path) -> None:
    off(tmp_path, "sheet", "3 0 1 2\n")
    off(tmp_path, "points", "")
    found = opened("modelnet", **off(tmp_path, "solid", OUTWARDS))
    assert found.notes[OPEN] == 1
    assert [fault.message for fault in found.skipped] == ["has no faces, and so no normals"]


@pytest.mark.parametrize("up", ["y", "z"])
def test_stored_normals_stay_with_their_points(tmp_path: Path, up: str) -> None:
    x = opened("shapenet-vol", **balls(tmp_path), up=up, views=3).take([0, 2]).x
    assert torch.allclose(x[..., 3:], x[..., :3], atol=1e-6)
    assert not torch.equal(x[0], x[1])


@pytest.mark.parametrize(
    ("broken", "said"), [({"off_by": 9}, "a normal .* for each point"), ({"scale": 0.0}, "a normal is zero")]
)
def test_normals_that_do_not_fit_name_their_file(tmp_path: Path, broken: dict[str, float], said: str) -> None:
    found = opened("shapenet-vol", **balls(tmp_path, **broken))  # type: ignore[arg-type]
    with pytest.raises(CorruptError, match=said) as raised:
        found.take([0])
    assert str(raised.value.where).endswith("pointcloud.npz")


def test_modelnets_normals_are_read_where_they_are_there(tmp_path: Path) -> None:
    points = np.random.default_rng(0).normal(size=(3, 50, 3)).astype(np.float32)
    points /= np.linalg.norm(points, axis=2, keepdims=True)
    with h5py.File(tmp_path / "ply_data_train0.h5", "w") as file:
        file["data"], file["label"], file["normal"] = points, np.zeros((3, 1), np.uint8), points
    x = opened("modelnet", path=str(tmp_path), points=40).take([0, 1, 2]).x
    assert torch.allclose(x[..., 3:], x[..., :3], atol=1e-6)
    with h5py.File(tmp_path / "ply_data_train1.h5", "w") as file:
        file["data"], file["label"] = points, np.zeros((3, 1), np.uint8)
    with pytest.raises(UserError, match=r"leave out data\.normals"):
        opened("modelnet", path=str(tmp_path), points=40)


def test_normals_that_there_cannot_be_are_refused_at_the_start(tmp_path: Path) -> None:
    home = tmp_path / "02691156" / "train"
    home.mkdir(parents=True)
    np.save(home / "a.npy", np.random.default_rng(0).normal(size=(50, 3)))
    with pytest.raises(UserError, match=r"leave out data\.normals"):
        opened("shapenet15k", path=str(tmp_path), points=20)
