"""gentool mesh: what it writes, and what it refuses."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from gentool.data import make_config, open_set
from gentool.data.made_shapes import MadeShapes
from gentool.errors import UserError
from gentool.points.meshing import MeshOptions
from gentool.points.normals import spread_directions
from gentool.points.surface import zero_surface
from gentool.runs.samples import read_samples, write_samples
from gentool.tasks.train import train
from tests.families.lion_runs import recipe, spheres
from tests.tasks.runs import Call


@pytest.fixture
def clouds(tmp_path: Path) -> Path:
    """Two spheres of radius 1 and 2 about (3, 0, 0), and a cloud in one place."""
    ball = spread_directions(300)
    centre = np.array([3.0, 0, 0])
    both = np.stack([ball + centre, 2 * ball + centre, np.ones((300, 3))]).astype(np.float32)
    return write_samples(tmp_path / "clouds.npz", both, np.array([0, 1, 0]))


@pytest.mark.parametrize("format", ["ply", "obj"])
def test_a_file_a_shape_in_its_units_and_a_picture(call: Call, clouds: Path, format: str) -> None:
    trimesh = pytest.importorskip("trimesh")
    ended = call("mesh", clouds, "--resolution", "32", "--format", format, "--json")
    document = json.loads(ended.out)
    folder = Path(document["path"])
    assert (ended.code, document["count"]) == (0, 2)
    assert document["skipped"] == ["cloud 2: all its points lie in one place"]
    assert "cloud 2" in ended.err
    for i, radius in enumerate((1, 2)):
        mesh = trimesh.load(folder / f"{i:06}.{format}", force="mesh")
        assert mesh.is_watertight
        assert mesh.volume == pytest.approx(4 / 3 * np.pi * radius**3, rel=0.1)
        np.testing.assert_allclose(mesh.bounds.mean(0), [3, 0, 0], atol=0.05)
    picture = np.asarray(Image.open(folder / "meshes.png"))
    assert (picture < 200).any()
    assert (folder / "provenance.json").is_file()


def test_samples_of_lion_as_meshes(call: Call, tmp_path: Path) -> None:
    text = tmp_path / "spheres.yaml"
    text.write_text(recipe(spheres(tmp_path / "spheres.npz"), steps=2, max_steps=3))
    run = train(str(text), run_dir=tmp_path / "run").run
    ended = call("sample", run, "-n", "2", "-o", tmp_path / "out.h5", "--mesh", "--json")
    meshes = Path(json.loads(ended.out)["meshes"])
    assert meshes == tmp_path / "out-meshes"
    assert len(list(meshes.glob("*.ply"))) == 2
    assert call("mesh", tmp_path / "out.h5", "--mesher", run).code == 2


def test_a_trained_network_makes_meshes(call: Call, clouds: Path, tmp_path: Path) -> None:
    text = tmp_path / "sap.yaml"
    text.write_text(
        "family: sap\ndata: {name: shapes, count: 4, points: 64, normals: true, batch_size: 4}\n"
        "model: {points: 64, noise: 0.0, resolution: 16, target_sigma: 1.0, width: 8, blocks: 2, grid: 8, levels: 2, "
        "offsets: 2}\ntrainer: {max_steps: 40}\noptimizer: {name: adam, lr: 5.0e-3}\nema: null\n"
    )
    run = train(str(text), run_dir=tmp_path / "run").run
    document = json.loads(call("mesh", clouds, "--mesher", run, "-n", "2", "--json").out)
    assert document["mesher"] == str(run)
    assert document["resolution"] == 16  # what it was trained for
    assert document["count"] == 2
    ended = call("sample", run)
    assert ended.code == 2
    assert "gentool mesh" in ended.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--resolution", "33"), "--resolution: expected an even number"),
        (("--sigma", "-1"), "--sigma: expected 0 to"),
        (("--format", "stl"), "--format: expected ply or obj"),
        (("-o", "all.ply"), "one file for 3 meshes"),
        (("-o", "all.stl"), "cannot write meshes as .stl"),
    ],
)
def test_bad_settings_are_told(call: Call, clouds: Path, arguments: tuple[str, ...], said: str) -> None:
    ended = call("mesh", clouds, *arguments)
    assert ended.code == 2
    assert said in ended.err


def test_without_a_resolution_the_points_decide(call: Call, clouds: Path, tmp_path: Path) -> None:
    """128 for 2048 points, by the root of their number; recorded as it was."""
    nodes = [MeshOptions().nodes(points) for points in (16, 256, 1024, 2048, 100_000)]
    assert nodes == [32, 46, 90, 128, 128]
    assert MeshOptions(64).nodes(16) == 64
    document = json.loads(call("mesh", clouds, "-n", "1", "-o", tmp_path / "one.ply", "--json").out)
    assert document["resolution"] == MeshOptions().nodes(read_samples(clouds).array.shape[1])


def test_what_is_no_cloud_is_refused(call: Call, tmp_path: Path) -> None:
    pictures = write_samples(tmp_path / "p.npz", np.zeros((2, 8, 8, 1), np.uint8))
    assert "kind image" in call("mesh", pictures).err
    assert "this is image data" in call("mesh", "digits").err
    nothing = write_samples(tmp_path / "c.npz", np.ones((2, 40, 3), np.float32))
    ended = call("mesh", nothing)
    assert ended.code == 2
    assert "none of its 2 clouds" in ended.err
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "mine.txt").write_text("x")
    assert "holds other things" in call("mesh", nothing, "-o", tmp_path / "kept").err


def test_mesher_without_mesh_is_refused(call: Call, tmp_path: Path) -> None:
    assert "is for --mesh" in call("sample", tmp_path, "--mesher", "x").err


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("skimage"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"gentool\[mesh\]"):
        zero_surface(torch.ones(8, 8, 8))


def test_normals_of_made_shapes_leave_the_solid() -> None:
    """And their points are those of the set without normals."""
    options = {"count": 1, "points": 200}
    plain = open_set(make_config("shapes", options), "train").take([0, 1, 2]).x
    given = open_set(make_config("shapes", {**options, "normals": True}), "train").take([0, 1, 2]).x
    assert torch.equal(given[..., :3], plain)
    shapes = MadeShapes.of(1, "train")
    for i in range(3):
        drawn = shapes.oriented(i, 200, 0)
        np.testing.assert_allclose(np.linalg.norm(drawn[:, 3:], axis=1), 1, atol=1e-5)
        inside = shapes.solid(i).depth(drawn[:, :3] - 1e-3 * drawn[:, 3:]).max(1)
        assert (inside > 0).all()


def test_sets_without_normals_say_so(tmp_path: Path) -> None:
    folder = tmp_path / "02691156" / "train"
    folder.mkdir(parents=True)
    np.save(folder / "a.npy", np.random.default_rng(0).normal(size=(50, 3)))
    config = make_config("shapenet15k", {"path": str(tmp_path), "points": 20, "normals": True})
    with pytest.raises(UserError, match=r"leave out data\.normals"):
        open_set(config, "train").take([0])
