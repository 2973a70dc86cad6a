"""Property: clouds lie in the frame that was asked for, drawn from the shapes, and bad shapes are named."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from gentool import data
from gentool.cli.data import app
from gentool.data.clouds import FEW, random_of
from gentool.data.made_shapes import KINDS, Dice, MadeShapes
from gentool.data.sentences import phrases
from gentool.data.sets.meshes import part_of
from gentool.data.sets.shapes import PHRASES
from gentool.data.solids import DEPTH, Solid, box, frustum
from gentool.errors import CorruptError, UserError
from gentool.metrics.clouds import chamfer_pairs
from gentool.points.distances import chamfer


def pointflow(
    folder: Path, count: int = 6, points: int = 300, categories: tuple[str, ...] = ("03001627",)
) -> Path:
    """Ellipsoids off the origin, `count` a part and category."""
    rng = np.random.default_rng(0)
    for synset in categories:
        for part in ("train", "val"):
            home = folder / synset / part
            home.mkdir(parents=True)
            for i in range(count):
                cloud = rng.normal(size=(points, 3)) * [0.3, 0.2, 0.1] + [1, 2, 3]
                np.save(home / f"{i}.npy", cloud.astype(np.float32))
    return folder


def opened(name: str, split: str = "train", **options: object) -> data.DataSet:
    return data.open_set(data.make_config(name, options), split)  # type: ignore[arg-type]


def clouds(found: data.DataSet) -> torch.Tensor:
    return found.take(range(len(found))).x


# --- frames ---


def test_global_figures_are_over_all_points_of_the_training_shapes_and_serve_the_test_part(
    tmp_path: Path,
) -> None:
    folder = pointflow(tmp_path)
    stored = np.concatenate([np.load(f) for f in (folder / "03001627" / "train").glob("*.npy")])
    train, test = (opened("shapenet15k", split, path=str(folder), points=50) for split in ("train", "test"))
    frame = train.spec.frame
    assert frame is not None
    np.testing.assert_allclose(frame.centre, stored.mean(0), rtol=1e-5)
    assert frame.scale == pytest.approx(stored.std(), rel=1e-5)
    assert test.spec.frame == frame
    first = np.load(folder / "03001627" / "val" / "0.npy")[:50]
    np.testing.assert_allclose(clouds(test)[0].numpy() * frame.scale + frame.centre, first, rtol=1e-4)


def test_a_shape_box_is_centred_and_its_longest_side_is_two(tmp_path: Path) -> None:
    x = clouds(opened("shapenet15k", path=str(pointflow(tmp_path)), points=300, normalise="shape-box"))
    low, high = x.amin(1), x.amax(1)
    torch.testing.assert_close(low + high, torch.zeros_like(low), rtol=0, atol=1e-5)
    torch.testing.assert_close((high - low).amax(1), torch.full((len(x),), 2.0))


def test_none_leaves_points_as_they_are_and_z_up_turns_to_y(tmp_path: Path) -> None:
    folder = pointflow(tmp_path)
    options = {"path": str(folder), "points": 300, "normalise": "none"}
    plain, turned = (clouds(opened("shapenet15k", "test", **options, up=up))[0] for up in ("y", "z"))
    np.testing.assert_array_equal(plain, np.load(folder / "03001627" / "val" / "0.npy"))
    torch.testing.assert_close(turned, torch.stack([plain[:, 0], plain[:, 2], -plain[:, 1]], 1))
    quarter = torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
    assert torch.linalg.det(quarter) == 1  # a rotation: no shape is mirrored


def test_the_frame_is_kept_by_packing(tmp_path: Path) -> None:
    run = CliRunner()
    out = tmp_path / "s.h5"
    done = run.invoke(app, ["pack", "shapes", "count=3", "points=32", "-o", str(out)])
    assert done.exit_code == 0, done.output
    packed, made = opened("hdf5", path=str(out), held_out=0.3), opened("shapes", count=3, points=32)
    assert packed.spec.kind == "points"
    assert packed.spec.frame == made.spec.frame
    assert packed.spec.class_names == ("airplane", "chair", "table")
    inspected = json.loads(run.invoke(app, ["inspect", str(out), "--json"]).stdout)
    assert inspected["frame"]["scale"] == made.spec.frame.scale  # type: ignore[union-attr]
    assert len(inspected["box"]["median"]) == 3
    assert run.invoke(app, ["check", str(out)]).exit_code == 0


def test_a_run_keeps_the_frame_beside_the_shape() -> None:
    spec = opened("shapes", count=2, points=32).spec
    back = data.DataSpec.read(json.loads(json.dumps(asdict(spec))))
    assert back == spec
    assert back.frame == spec.frame
    older = {key: value for key, value in asdict(spec).items() if key != "frame"}
    assert data.DataSpec.read(older).frame is None


# --- draws ---


def test_views_are_different_draws_of_one_shape_and_a_test_cloud_is_one(tmp_path: Path) -> None:
    options = {"path": str(pointflow(tmp_path)), "points": 40, "normalise": "none"}
    train, test = (opened("shapenet15k", split, **options, views=3) for split in ("train", "test"))
    assert (len(train), len(test)) == (18, 6)
    pool = {tuple(point) for point in np.load(tmp_path / "03001627" / "train" / "0.npy").tolist()}
    drawn = [{tuple(point) for point in x.tolist()} for x in clouds(train)[:3]]
    assert all(len(view) == 40 and view < pool for view in drawn)
    assert drawn[0] != drawn[1] != drawn[2]


def test_too_few_points_are_repeated_and_counted(tmp_path: Path) -> None:
    found = opened("shapenet15k", path=str(pointflow(tmp_path, points=20)), points=50, normalise="none")
    assert found.notes == {FEW: 6}
    assert len(np.unique(clouds(found)[0], axis=0)) == 20


def test_shapes_of_very_different_size_are_noticed(tmp_path: Path) -> None:
    folder = pointflow(tmp_path)
    file = folder / "03001627" / "train" / "0.npy"
    np.save(file, 100 * np.load(file))
    notes = opened("shapenet15k", path=str(folder), points=50).notes
    assert any("very different size" in rule and "shape-box" in rule for rule in notes)
    assert not opened("shapenet15k", path=str(folder), points=50, normalise="shape-box").notes


# --- bad input ---


def test_an_unknown_category_and_a_missing_part_list_what_exists(tmp_path: Path) -> None:
    folder = pointflow(tmp_path, categories=("03001627", "02691156"))
    with pytest.raises(UserError, match="no category 'boat'; there are airplane, chair"):
        opened("shapenet15k", path=str(folder), classes=["boat"])
    with pytest.raises(UserError, match="no folder test; there is train, val"):
        opened("shapenet15k", "test", path=str(folder), test_part="test", normalise="none")
    with pytest.raises(UserError, match="by shape"):
        opened("shapenet15k", path=str(folder), held_out=0.1)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (np.full((9, 3), np.nan, np.float32), "point 0 holds NaN"),
        (np.ones((9, 3), np.float32), "in one place"),
        (np.ones((9, 2), np.float32), "expected points"),
        (np.array([None]), "without pickle"),
    ],
)
def test_a_bad_shape_is_named_at_the_start_and_by_check(tmp_path: Path, bad: np.ndarray, words: str) -> None:
    folder = pointflow(tmp_path)
    np.save(folder / "03001627" / "train" / "3.npy", bad, allow_pickle=True)
    with pytest.raises(CorruptError, match=words) as caught:
        opened("shapenet15k", path=str(folder))
    assert str(caught.value.where).endswith("3.npy")
    faults = list(data.make_config("shapenet15k", {"path": str(folder)}).faults())
    assert [Path(fault.where).name for fault in faults] == ["3.npy"]


def test_only_categories_that_are_asked_for_are_read(tmp_path: Path) -> None:
    folder = pointflow(tmp_path, categories=("03001627", "02691156"))
    np.save(folder / "03001627" / "train" / "0.npy", np.zeros(3))
    found = opened("shapenet15k", path=str(folder), points=20, classes=["airplane"])
    assert found.spec.class_names == ("airplane",)
    assert set(found.labels) == {0}


# --- meshes ---

TETRAHEDRON = "4 4 0\n0 0 0\n1 0 0\n0 1 0\n0 0 1\n3 0 2 1\n3 0 1 3\n3 0 3 2\n3 1 2 3\n"


def meshes(folder: Path, **files: str) -> dict[str, object]:
    """Files by stem and content, named so that all are for training."""
    pytest.importorskip("trimesh")
    for stem, content in files.items():
        salt = next(k for k in range(99) if part_of(f"{stem}{k}.off") == "train")
        suffix = ".obj" if content.startswith(("mtllib", "v ")) else ".off"
        (folder / f"{stem}{salt}{suffix}").write_text(content)
    return {"path": str(folder), "points": 64, "normalise": "none"}


def test_points_of_a_mesh_are_uniform_on_its_faces(tmp_path: Path) -> None:
    options = meshes(tmp_path, a="OFF\n" + TETRAHEDRON)
    x = clouds(opened("meshes", **(options | {"points": 20_000})))[0]
    slanted = (x.sum(1) - 1).abs() < 1e-5
    flat = (x.abs() < 1e-6).any(1)
    assert (slanted | flat).all()
    area = 3**0.5 / 2
    assert slanted.float().mean().item() == pytest.approx(area / (area + 1.5), abs=0.015)


def test_modelnets_joined_first_line_and_missing_materials_are_read(tmp_path: Path) -> None:
    obj = "mtllib nowhere.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nusemtl none\nf 1 2 3\n"
    found = opened("meshes", **meshes(tmp_path, joined="OFF" + TETRAHEDRON, plain=obj))
    assert len(found) == 2
    assert not found.skipped


def test_unusable_meshes_are_left_out_and_named(tmp_path: Path) -> None:
    bare = "OFF\n20 0 0\n" + "\n".join(f"{i} {i * i % 7} 1" for i in range(20)) + "\n"
    options = meshes(
        tmp_path,
        good="OFF\n" + TETRAHEDRON,
        flat="OFF\n3 1 0\n0 0 0\n1 0 0\n2 0 0\n3 0 1 2\n",
        hole="OFF\n" + TETRAHEDRON.replace("1 0 0", "nan 0 0", 1),
        empty="OFF\n0 0 0\n",
        text="not a mesh",
        bare=bare,
        few="OFF\n2 0 0\n0 0 0\n1 0 0\n",
    )
    found = opened("meshes", **options)
    said = {Path(fault.where).name.rstrip("0123456789.of")[:3]: fault.message for fault in found.skipped}
    assert len(found) == 2
    assert found.notes["files without faces: their vertices are the points"] == 1
    assert len(said) == 5
    assert any("no area" in message for message in said.values())
    assert any("NaN" in message for message in said.values())
    assert any("2 vertices are too few for 64 points" in message for message in said.values())


def test_a_folder_without_usable_meshes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected .off"):
        opened("meshes", path=str(tmp_path))
    with pytest.raises(CorruptError, match="none of 1 meshes"):
        opened("meshes", **meshes(tmp_path, a="OFF\n0 0 0\n"))


def test_parts_are_shared_out_by_name() -> None:
    parts = [part_of(f"shape{i}.obj") for i in range(2000)]
    for part, share in (("train", 0.8), ("val", 0.1), ("test", 0.1)):
        assert parts.count(part) / 2000 == pytest.approx(share, abs=0.03)
    assert part_of("a.obj") == part_of("a.stl")


def test_modelnet_reads_folders_of_meshes(tmp_path: Path) -> None:
    pytest.importorskip("trimesh")
    for kind in ("chair", "table"):
        for part in ("train", "test"):
            (tmp_path / kind / part).mkdir(parents=True)
            (tmp_path / kind / part / f"{kind}.off").write_text("OFF" + TETRAHEDRON)
    found = opened("modelnet", path=str(tmp_path), points=32)
    assert found.spec.class_names == ("chair", "table")
    assert found.labels.tolist() == [0, 1]


def test_shapenet_vol_names_shapes_that_its_list_promises(tmp_path: Path) -> None:
    (tmp_path / "02691156").mkdir()
    (tmp_path / "02691156" / "train.lst").write_text("abc\n")
    with pytest.raises(CorruptError, match="abc"):
        opened("shapenet-vol", path=str(tmp_path))


# --- made shapes ---


def test_no_point_of_a_union_lies_inside_a_part() -> None:
    solid = Solid.of(
        [box((0, 0, 0), (2, 2, 2)), box((1, 0, 0), (2, 1, 1)), frustum((0, 0, 0), (0, 3, 0), 0.3, 0.1)]
    )
    points = solid.draw(4000, np.random.default_rng(0)).astype(np.float64)
    assert solid.depth(points).max() <= DEPTH + 1e-6
    assert np.abs(solid.depth(points)).min(1).max() < 1e-6  # and each lies on one
    # The first box shows 24 of its area less what the second (1) and the frustum's foot of 0.21 cover.
    on_first = np.abs(solid.depth(points)[:, 0]) < 1e-6
    second = 2 * 1 * 4 - 4 + 1
    assert on_first.mean() == pytest.approx(23 / (23 + second + 1.9), abs=0.04)


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_of_a_class_differ_by_more_than_draws_of_one_shape(kind: str) -> None:
    """Median distance to the nearest other shape, over that of two draws of one shape, is at least 1.8."""
    shapes = MadeShapes.of(40, "train")
    rows = np.flatnonzero(shapes.labels == shapes.class_names.index(kind)).tolist()
    x, again = (torch.from_numpy(np.stack([shapes.draw(i, 512, view) for i in rows])) for view in (0, 1))
    away = chamfer_pairs(x, x).fill_diagonal_(torch.inf)
    assert away.amin(1).median() / chamfer(x, again).median() >= 1.8


def test_made_shapes_are_the_same_for_ever_and_splits_share_none() -> None:
    few, more = (MadeShapes.of(count, "train") for count in (2, 5))
    np.testing.assert_array_equal(few.draw(4, 50, 0), more.draw(4, 50, 0))
    test = MadeShapes.of(5, "test")
    assert not np.array_equal(test.solid(1).corners[:12], more.solid(1).corners[:12])
    golden = few.draw(1, 2, None)
    assert golden.shape == (2, 3)
    assert golden.dtype == np.float32


def test_sentences_say_what_the_shapes_were_made_with() -> None:
    """Engines and legs are counted in the parts, arms in the mirrored boxes; every phrase occurs."""
    found, said = MadeShapes.of(60, "train"), set()
    for i in range(len(found)):
        kind = found.class_names[found.labels[i]]
        text = found.sentence(i)
        assert text == MadeShapes.of(60, "train").sentence(i)
        parts, told = KINDS[kind](Dice(random_of(found.names[i]))), phrases(text, PHRASES, "here")
        said.update(told)
        assert told[0] == kind
        if kind == "airplane":  # beside them: fuselage of 3, wings of 2, fin, tailplane of 2
            engines = {8: "no engines", 10: "two engines", 12: "four engines"}
            assert engines[len(parts)] in told
        if kind == "chair":  # what lies above the seat, at the front, is an arm
            front = [part for part in parts if part[:, 1].min() > 0.3 and np.abs(part[:, 0]).max() > 0.1]
            armed = sum(np.ptp(part[:, 2]) > 0.25 and np.ptp(part[:, 0]) < 0.06 for part in front)
            assert (armed >= 2) == ("two arms" in told), text
    assert said == set(PHRASES)


def test_sentences_follow_the_chosen_rows_and_are_counted_by_inspect() -> None:
    found = opened("shapes", points=16, count=4, views=2, classes=["table"], limit=5)
    again = MadeShapes.of(4, "train")
    assert found.sentences == [again.sentence(int(row) // 2) for row in found.rows]
    assert all(text.startswith("table with ") for text in found.sentences)
    words = ["shapes", "points=16", "count=4", "classes=[table]", "--json"]
    told = json.loads(CliRunner().invoke(app, ["inspect", *words]).stdout)
    assert told["phrases"]["table"] == 4
    assert told["phrases"].get("round top", 0) + told["phrases"].get("rectangular top", 0) == 4
    assert told["sentence"].startswith("table with ")


@pytest.mark.parametrize(
    ("text", "said"), [("a chair with four leg", "did you mean four legs"), (" , ", "says nothing")]
)
def test_phrases_that_nobody_says(text: str, said: str) -> None:
    assert phrases("A chair with Four  Legs, and no back", PHRASES, "x") == ["chair", "four legs", "no back"]
    with pytest.raises(UserError, match=said):
        phrases(text, PHRASES, "sample.text")


def test_every_kind_stands_up_in_all_its_forms() -> None:
    for kind, make in KINDS.items():
        for seed in range(60):
            points = Solid.of(make(Dice(np.random.default_rng(seed)))).draw(64, np.random.default_rng(0))
            assert np.isfinite(points).all()
            if kind != "airplane":
                assert points[:, 1].min() > -0.1
                assert points[:, 1].max() < 1.4


# --- digits ---


def test_digit_clouds_follow_the_pixels(tmp_path: Path) -> None:
    from gentool.data.digit_clouds import DigitShapes

    picture = np.zeros((1, 28, 28), np.uint8)
    picture[0, 0, 27], picture[0, 27, 0] = 255, 85  # top right three times as bright as bottom left
    shapes = DigitShapes("here", ["row 0"], np.zeros(1, np.int64), ("0",), pictures=picture)
    points = shapes.draw(0, 4000, 0)
    right = points[:, 0] > 0
    assert right.mean() == pytest.approx(0.75, abs=0.03)
    assert (points[right, 1] > 0.5 - 1 / 28 - 1e-6).all()
    assert (points[~right, 1] < -0.5 + 1 / 28 + 1e-6).all()
    assert np.abs(points[:, 2]).max() == pytest.approx(0.1, abs=1e-3)
    with pytest.raises(CorruptError, match="empty picture"):
        DigitShapes("here", ["row 0"], np.zeros(1, np.int64), ("0",), pictures=0 * picture).pool(0)


def test_the_frame_of_digits_is_that_of_endlessly_many_points() -> None:
    """In closed form, against 4000 points of each digit; an empty picture among them is named."""
    from gentool.data.digit_clouds import DigitShapes

    pictures = np.random.default_rng(0).integers(0, 256, (6, 9, 7), dtype=np.uint8)
    names = [f"row {i}" for i in range(6)]
    shapes = DigitShapes("here", names, np.zeros(6, np.int64), ("0",), pictures=pictures)
    chosen = np.array([0, 2, 3, 5])
    extent = shapes.extent(chosen)
    points = np.concatenate([shapes.draw(int(i), 4000, None) for i in chosen]).astype(np.float64)
    error = points.std() / np.sqrt(len(points))
    np.testing.assert_allclose(extent.centre, points.mean(0), rtol=0, atol=5 * error)
    assert extent.square == pytest.approx(np.square(points).mean(), rel=0.02)
    pictures[3] = 0
    with pytest.raises(CorruptError, match="empty picture") as caught:
        shapes.extent(chosen)
    assert caught.value.where == "row 3"


def test_the_fingerprint_of_digits_follows_their_pixels_and_labels() -> None:
    from gentool.data.clouds import CloudSource
    from gentool.data.digit_clouds import DigitShapes
    from gentool.data.sets.mnist_clouds import MnistCloudsConfig

    pictures = np.random.default_rng(0).integers(1, 256, (4, 5, 5), dtype=np.uint8)

    def digest(changed: int, label: int) -> str:
        own = pictures.copy()
        own[2, 3, 1] += changed
        labels = np.array([0, 1, 1, label])
        shapes = DigitShapes("here", [f"row {i}" for i in range(4)], labels, ("0", "1"), pictures=own)
        return CloudSource(shapes, MnistCloudsConfig(points=4, normalise="none"), "train").digest()

    assert digest(0, 0) == digest(0, 0)
    assert len({digest(0, 0), digest(1, 0), digest(0, 1)}) == 3
