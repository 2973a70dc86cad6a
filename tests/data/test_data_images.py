"""Property: pictures come by stated rules or not at all, the same from a folder, a tar and a zip."""

from __future__ import annotations

import io
import json
import shutil
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from data_files import picture
from PIL import Image

from gentool import data
from gentool.data.dataset import DataSet, open_whole
from gentool.data.options import DataConfig
from gentool.errors import CorruptError, UserError
from gentool.runs.samples import write_samples


def config(path: Path, **options: object) -> DataConfig:
    return data.make_config("images", {"path": str(path), **options})


def whole(path: Path, **options: object) -> DataSet:
    return open_whole(config(path, **options), "train")


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    for i, kind in enumerate(["cat", "dog", "dog", "cat", "ant"]):
        picture(tmp_path / "pets" / kind / f"{i}.png", seed=i)
    (tmp_path / "pets" / "README.txt").write_text("not a picture")
    (tmp_path / "pets" / ".DS_Store").write_text("x")
    return tmp_path / "pets"


def packed(folder: Path, kind: str, wrapper: str = "") -> Path:
    target = folder.with_name(f"packed{kind}")
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    if kind == ".zip":
        with zipfile.ZipFile(target, "w") as archive:
            for file in files:
                archive.write(file, wrapper + str(file.relative_to(folder)))
    else:
        with tarfile.open(target, "w:" + kind.rpartition(".")[2].replace("tar", "")) as archive:
            for file in files:
                archive.add(file, wrapper + str(file.relative_to(folder)))
    return target


def test_classes_are_the_sorted_subfolders(pets: Path) -> None:
    dataset = whole(pets)
    assert dataset.spec == data.DataSpec("image", (3, 8, 8), 3, ("ant", "cat", "dog"))
    assert dataset.labels.tolist() == [0, 1, 1, 2, 2]
    np.testing.assert_array_equal(
        dataset[1][0].numpy(), np.moveaxis(np.asarray(Image.open(pets / "cat" / "0.png")), -1, 0)
    )


@pytest.mark.parametrize("wrapper", ["", "my pets/", "./"])
@pytest.mark.parametrize("kind", [".zip", ".tar", ".tar.gz", ".tar.xz"])
def test_archives_are_the_same_set_as_the_folder(pets: Path, kind: str, wrapper: str) -> None:
    archive = packed(pets, kind, wrapper)
    before = sorted(pets.parent.iterdir())
    ours, theirs = whole(archive), whole(pets)
    np.testing.assert_array_equal(ours.take(range(5)).x, theirs.take(range(5)).x)
    np.testing.assert_array_equal(ours.labels, theirs.labels)
    assert ours.fingerprint == theirs.fingerprint
    assert sorted(pets.parent.iterdir()) == before  # nothing is unpacked


def test_labels_are_known_without_decoding(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gentool.data.pictures.decode", None)
    assert whole(pets).labels.tolist() == [0, 1, 1, 2, 2]


def test_a_flat_folder_has_no_labels(tmp_path: Path) -> None:
    for i in range(3):
        picture(tmp_path / "flat" / f"{i}.jpg", seed=i)
    dataset = whole(tmp_path / "flat")
    assert (dataset.spec.classes, dataset.labels.tolist()) == (0, [-1, -1, -1])


def test_a_picture_beside_class_folders_is_refused(pets: Path) -> None:
    picture(pets / "stray.png")
    with pytest.raises(UserError, match=r"stray\.png: lies beside the class folders"):
        whole(pets)


def test_train_and_test_folders_are_the_splits(tmp_path: Path) -> None:
    for i in range(6):
        picture(tmp_path / "s" / ("test" if i > 3 else "train") / "ab"[i % 2] / f"{i}.png", seed=i)
    train, test = (data.open_set(config(tmp_path / "s"), split) for split in ("train", "test"))
    assert (len(train), len(test)) == (4, 2)
    assert train.spec == test.spec
    picture(tmp_path / "s" / "val" / "a" / "9.png")
    assert len(data.open_set(config(tmp_path / "s"), "test")) == 2
    shutil.rmtree(tmp_path / "s" / "test")
    assert len(data.open_set(config(tmp_path / "s"), "train")) == 4
    assert len(data.open_set(config(tmp_path / "s"), "test")) == 1


def test_the_labels_of_a_stylegan_archive_are_read(tmp_path: Path) -> None:
    for i in range(4):
        picture(tmp_path / "s" / "00000" / f"img{i}.png", seed=i)
    index = tmp_path / "s" / "dataset.json"
    index.write_text(json.dumps({"labels": [[f"00000/img{i}.png", 3 - i] for i in range(4)]}))
    archive = packed(tmp_path / "s", ".zip")
    assert whole(archive).labels.tolist() == [3, 2, 1, 0]
    index.write_text(json.dumps({"labels": None}))
    assert whole(tmp_path / "s").spec.classes == 0
    index.write_text(json.dumps({"labels": [["00000/img0.png", 1]]}))
    with pytest.raises(CorruptError, match="3 pictures have no label"):
        whole(tmp_path / "s")
    index.write_text("{")
    with pytest.raises(CorruptError, match=r"dataset\.json: expected"):
        whole(tmp_path / "s")


def test_a_folder_of_samples_is_a_data_set(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), np.uint8)
    write_samples(tmp_path / "out", images, np.arange(12) % 3)
    dataset = whole(tmp_path / "out")
    np.testing.assert_array_equal(dataset.take(range(12)).x, np.moveaxis(images, -1, 1))
    assert dataset.labels.tolist() == [i % 3 for i in range(12)]


@pytest.mark.parametrize(
    ("mode", "suffix", "rule"),
    [
        ("L", ".png", "gray repeated to RGB"),
        ("RGBA", ".png", "transparency laid over white"),
        ("LA", ".png", "transparency laid over white"),
        ("P", ".png", "palette or bilevel expanded"),
    ],
)
def test_conversions_by_rule_are_counted(tmp_path: Path, mode: str, suffix: str, rule: str) -> None:
    picture(tmp_path / "s" / "a.png", "RGB")
    odd = picture(tmp_path / "s" / f"b{suffix}", mode, seed=1)
    dataset = whole(tmp_path / "s")
    assert dataset.notes[rule] == 1
    with Image.open(odd) as image:
        rgba = np.asarray(image.convert("RGBA"), np.float64)
    alpha = rgba[..., 3:] / 255
    want = np.moveaxis(rgba[..., :3] * alpha + 255 * (1 - alpha), -1, 0)
    assert np.abs(dataset[1][0].numpy() - want).max() <= 1


def test_a_gray_set_has_one_channel_unless_told_otherwise(tmp_path: Path) -> None:
    for i in range(2):
        picture(tmp_path / "s" / f"{i}.png", "L", seed=i)
    assert whole(tmp_path / "s").spec.shape == (1, 8, 8)
    assert whole(tmp_path / "s", channels=3).spec.shape == (3, 8, 8)


def png16() -> bytes:
    """An 8x8 RGB PNG of 16 bits a channel, which Pillow can read but not write."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0)
    rows = zlib.compress(b"".join(b"\0" + bytes(8 * 6) for _ in range(8)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def break_(path: Path, how: str) -> None:
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:-40])
    elif how == "text":
        path.write_text("this is no picture")
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "16-bit":
        Image.fromarray(np.zeros((8, 8), np.uint16)).save(path)
    elif how == "16-bit colour":
        path.write_bytes(png16())
    elif how == "16-bit ppm":
        path.write_bytes(b"P6 8 8 65535\n" + bytes(8 * 8 * 6))
    elif how == "animated":
        buffer = io.BytesIO()
        frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
        frames[0].save(buffer, "PNG", save_all=True, append_images=frames[1:])
        path.write_bytes(buffer.getvalue())
    elif how == "cmyk":
        buffer = io.BytesIO()
        Image.new("CMYK", (8, 8)).save(buffer, "JPEG")
        path.write_bytes(buffer.getvalue())


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("truncated", "truncated or damaged"),
        ("text", "not a picture"),
        ("empty", "not a picture"),
        ("16-bit", "16-bit"),
        ("16-bit colour", "16 bits a channel"),
        ("16-bit ppm", "16 bits a channel"),
        ("animated", "several frames"),
        ("cmyk", "CMYK"),
    ],
)
def test_what_no_rule_covers_names_the_file_before_the_first_step(pets: Path, how: str, words: str) -> None:
    break_(pets / "dog" / "2.png", how)
    break_(pets / "ant" / "4.png", how)
    with pytest.raises(CorruptError, match=rf"(2|4)\.png: .*{words}"):
        data.loader(whole(pets), data.StepBatches(5, 5, 0, stop=1))
    named = {Path(fault.where).name for fault in config(pets).faults()}
    assert named == {"2.png", "4.png"}


def test_several_sizes_need_size(tmp_path: Path) -> None:
    picture(tmp_path / "s" / "a.png", size=(8, 8))
    picture(tmp_path / "s" / "b.png", size=(8, 8), seed=1)
    picture(tmp_path / "s" / "c.png", size=(12, 10))
    with pytest.raises(UserError, match=r"a\.png is 8x8 and c\.png is 10x10; set `size`"):
        whole(tmp_path / "s")
    assert [Path(f.where).name for f in config(tmp_path / "s").faults()] == ["c.png"]
    assert whole(tmp_path / "s", size=8).take(range(3)).x.shape == (3, 3, 8, 8)
    with pytest.raises(UserError, match=r"c\.png: is 12x10; to resize it without distortion"):
        whole(tmp_path / "s", size=8, crop="none").load()


def test_the_centre_crop_is_centred(tmp_path: Path) -> None:
    picture(tmp_path / "s" / "a.png", "L", size=(12, 8))
    pixels = np.asarray(Image.open(tmp_path / "s" / "a.png"))
    np.testing.assert_array_equal(whole(tmp_path / "s")[0][0][0], pixels[:, 2:10])
    np.testing.assert_array_equal(whole(tmp_path / "s", crop="none")[0][0][0], pixels)


def test_the_default_resize_keeps_the_mean_and_removes_what_cannot_be_shown(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 255
    Image.fromarray(stripes).save(tmp_path / "s" / "a.png")
    small = whole(tmp_path / "s", size=16)[0][0].numpy()
    assert np.abs(small[0, :, 2:-2].astype(float) - 127.5).max() < 2  # without antialiasing: 0 or 255


def test_pictures_stand_upright(tmp_path: Path) -> None:
    path = picture(tmp_path / "s" / "a.png", "L", size=(12, 8))
    with Image.open(path) as image:
        exif = image.getexif()
        exif[0x0112] = 6  # to be turned by a quarter clockwise
        image.save(path, exif=exif)
        pixels = np.asarray(image)
    dataset = whole(tmp_path / "s", crop="none")
    assert dataset.spec.shape == (1, 12, 8)
    np.testing.assert_array_equal(dataset[0][0][0], np.rot90(pixels, -1))


def test_no_pictures_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no pictures in there; expected \.png"):
        whole(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        whole(tmp_path / "none")
    (tmp_path / "x.rar").write_bytes(b"Rar!")
    with pytest.raises(UserError, match="expected a folder, a tar"):
        whole(tmp_path / "x.rar")


# skip_bad


@pytest.fixture
def damaged(pets: Path) -> Path:
    """Seven pictures: one that is none, one cut off behind its header."""
    (pets / "cat" / "5.png").write_bytes(b"nothing of the kind")
    whole_picture = picture(pets / "dog" / "6.png", seed=6).read_bytes()
    (pets / "dog" / "6.png").write_bytes(whole_picture[: len(whole_picture) // 2])
    return pets


@pytest.mark.parametrize("kind", ["folder", ".zip", ".tar"])
def test_unreadable_pictures_are_left_out_when_asked_for(
    damaged: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    place = damaged if kind == "folder" else packed(damaged, kind)
    with pytest.raises(CorruptError, match=r"5\.png"):
        whole(place)
    dataset = whole(place, skip_bad=True)
    assert len(dataset) == 5
    assert dataset.labels.tolist() == [0, 1, 1, 2, 2]
    dataset.take(range(5))
    assert [fault.where.rpartition("/")[2] for fault in dataset.skipped] == ["5.png", "6.png"]
    assert [fault.message[:13] for fault in dataset.skipped] == ["not a picture", "truncated or "]
    assert "2 unreadable, left out: " in caplog.text
    assert "cat/5.png" in caplog.text


def test_a_set_without_unreadable_pictures_is_the_same_set(pets: Path) -> None:
    plain, skipping = whole(pets), whole(pets, skip_bad=True)
    assert skipping.skipped == ()
    assert plain.fingerprint == skipping.fingerprint


def test_a_set_of_nothing_but_unreadable_pictures_is_an_error(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.png").write_bytes(b"no")
    with pytest.raises(CorruptError, match="none of the 2 pictures can be read; the first: not a picture"):
        whole(tmp_path, skip_bad=True)


def test_skipping_does_not_hide_what_options_can_mend(pets: Path) -> None:
    """Only what cannot be read is left out; pictures of two sizes still need `size`."""
    picture(pets / "dog" / "9.png", seed=9, size=(12, 12))
    with pytest.raises(UserError, match="pictures of 2 sizes"):
        whole(pets, skip_bad=True)
