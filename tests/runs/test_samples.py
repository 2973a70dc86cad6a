"""Property: what is written is read back, bit for bit; what is damaged is named, never returned."""

import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from gentool.errors import CorruptError, GentoolError, UserError
from gentool.runs import h5
from gentool.runs.samples import check_output, read_samples, write_samples

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (300, 8, 6, 3), np.uint8)
GRAY = RNG.integers(0, 256, (10, 8, 8, 1), np.uint8)
VECTORS = RNG.standard_normal((50, 2)).astype(np.float32)
CLOUDS = RNG.standard_normal((4, 16, 3)).astype(np.float32)
NOTE = {
    "seed": 3,
    "solver": "heun",
    "scale": 1.5,
    "recipe": {"family": "edm", "ö": [1, None]},
    "long": "x" * 100_000,
}


ARRAYS = {"rgb": IMAGES, "gray": GRAY, "vectors": VECTORS, "clouds": CLOUDS}
HELD = {
    ".h5": list(ARRAYS),
    ".npz": list(ARRAYS),
    ".ply": ["clouds"],
    "": ["rgb", "gray"],
    ".png": ["rgb", "gray", "vectors", "clouds"],
}


@pytest.mark.parametrize(
    ("suffix", "what"), [(s, w) for s, held in HELD.items() for w in held if s != ".png"]
)
@pytest.mark.parametrize("labelled", [True, False])
def test_round_trip(tmp_path: Path, suffix: str, what: str, labelled: bool) -> None:
    path, array = tmp_path / f"out{suffix}", ARRAYS[what]
    labels = np.arange(len(array)) % 7 if labelled else None
    write_samples(path, array, labels, NOTE)
    back = read_samples(path)
    assert back.array.dtype == array.dtype
    np.testing.assert_array_equal(back.array, array)
    if labelled:
        np.testing.assert_array_equal(back.labels, labels)
    else:
        assert back.labels is None
    assert back.provenance == NOTE
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("suffix", "what"), [(s, w) for s, held in HELD.items() for w in ARRAYS if w not in held]
)
def test_a_format_that_cannot_hold_the_samples_names_those_that_can(
    tmp_path: Path, suffix: str, what: str
) -> None:
    with pytest.raises(UserError, match=r"use \.h5 or "):
        write_samples(tmp_path / f"out{suffix}", ARRAYS[what])


def test_h5_keeps_the_contract_that_scripts_outside_rely_on(tmp_path: Path) -> None:
    write_samples(tmp_path / "a.h5", IMAGES, np.arange(300) % 3, {"seed": 5})
    with h5py.File(tmp_path / "a.h5") as file:
        assert (file["samples"].shape, file["samples"].dtype) == ((300, 8, 6, 3), np.uint8)
        assert file["samples"].fletcher32
        assert file["labels"].fletcher32
        assert file.attrs["seed"] == 5


def test_npz_keeps_the_names_of_other_evaluators(tmp_path: Path) -> None:
    write_samples(tmp_path / "a.npz", IMAGES, np.arange(300), {})
    with np.load(tmp_path / "a.npz") as file:
        np.testing.assert_array_equal(file["arr_0"], IMAGES)
        np.testing.assert_array_equal(file["arr_1"], np.arange(300))


def test_every_flipped_bit_of_an_h5_is_noticed_headers_and_index_included(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write_samples(path, GRAY, np.arange(10), {"seed": 1})
    clean = path.read_bytes()
    for place in range(0, len(clean), 3):
        dirty = bytearray(clean)
        dirty[place] ^= 1 << place % 8
        path.write_bytes(dirty)
        with pytest.raises(CorruptError, match=r"a\.h5"):
            read_samples(path)


@pytest.mark.parametrize("keep", [0, 4, 100, 700, 0.5, 0.99])
def test_a_truncated_h5_is_corrupt_at_any_length(tmp_path: Path, keep: float) -> None:
    path = tmp_path / "a.h5"
    write_samples(path, IMAGES)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep if keep > 1 or keep == 0 else keep * len(data))])
    with pytest.raises(CorruptError, match=r"a\.h5"):
        read_samples(path)


def test_a_file_open_for_writing_elsewhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write_samples(path, GRAY)
    hold = "import h5py, sys; f = h5py.File(sys.argv[1], 'a'); print('held', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", hold, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(CorruptError, match=r"a\.h5: it is open for writing in another process"):
            read_samples(path)
        holder.communicate()
    assert len(read_samples(path).array) == 10


@pytest.mark.parametrize("trick", ["external link", "soft link", "external storage", "virtual"])
def test_an_h5_that_points_elsewhere_is_refused(tmp_path: Path, trick: str) -> None:
    write_samples(tmp_path / "other.h5", GRAY)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        if trick == "external link":
            file["samples"] = h5py.ExternalLink("other.h5", "/samples")
        elif trick == "soft link":
            file["samples"] = h5py.SoftLink("/elsewhere")
        elif trick == "external storage":
            file.create_dataset("samples", (4,), np.uint8, external=[(str(tmp_path / "other.h5"), 0, 4)])
        else:
            layout = h5py.VirtualLayout(GRAY.shape, np.uint8)
            layout[:] = h5py.VirtualSource(tmp_path / "other.h5", "samples", GRAY.shape)
            file.create_virtual_dataset("samples", layout)
    with pytest.raises(CorruptError, match="links, virtual and external"):
        read_samples(tmp_path / "a.h5")


def test_rows_come_in_the_order_asked_for(tmp_path: Path) -> None:
    h5.write_rows(tmp_path / "a.h5", [IMAGES[:100], IMAGES[100:]], 300, None, {})
    rows = np.array([5, 3, 4, 299, 0, 5])
    with h5.open_rows(tmp_path / "a.h5") as file:
        np.testing.assert_array_equal(h5.read_rows(file["samples"], rows), IMAGES[rows])
        assert h5.read_rows(file["samples"], np.array([], int)).shape == (0, 8, 6, 3)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (IMAGES.astype(np.float32), r"float32.* in \[0, 255\]"),
        (np.zeros((4, 3, 8, 8), np.uint8), "channels last"),
        (np.full((3, 2), np.nan, np.float32), "row 0 holds NaN"),
        (np.array([{"pickled": 1}], object), "pickle"),
        (np.zeros((0, 8, 8, 1), np.uint8), "no samples"),
    ],
    ids=["float images", "channels first", "nan", "pickle", "empty"],
)
def test_an_npz_of_another_layout_is_refused_with_what_was_found(
    tmp_path: Path, array: np.ndarray, words: str
) -> None:
    np.savez(tmp_path / "a.npz", array)
    with pytest.raises(CorruptError, match=words):
        read_samples(tmp_path / "a.npz")


def test_the_grid_is_square_and_a_whole_enlargement(tmp_path: Path) -> None:
    write_samples(tmp_path / "a.png", GRAY, None, {"seed": 1})
    picture = Image.open(tmp_path / "a.png")
    assert picture.size == (
        4 * 66 + 2,
        3 * 66 + 2,
    )  # 10 pictures of 8x8, eight times as large, 2 pixels apart
    pixels = np.asarray(picture.convert("L"))
    for i in range(10):
        top, left = i // 4 * 66 + 2, i % 4 * 66 + 2
        np.testing.assert_array_equal(pixels[top : top + 64 : 8, left : left + 64 : 8], GRAY[i, ..., 0])
    assert json.loads(picture.info["gentool"]) == {"seed": 1}


def test_rows_of_one_class_carry_its_label(tmp_path: Path) -> None:
    white = np.full((9, 8, 8, 1), 255, np.uint8)
    write_samples(tmp_path / "by-class.png", white, np.repeat([0, 1, 2], 3))
    write_samples(tmp_path / "mixed.png", white, np.arange(9))
    margin = Image.open(tmp_path / "by-class.png").width - Image.open(tmp_path / "mixed.png").width
    assert margin > 0
    ink = np.asarray(Image.open(tmp_path / "by-class.png").convert("L"))[:, :margin] < 128
    assert all(ink[66 * r : 66 * (r + 1)].any() for r in range(3))


def test_a_scatter_plot_has_its_points_where_they_belong(tmp_path: Path) -> None:
    write_samples(tmp_path / "a.png", np.array([[1, 1], [-1, -1]], np.float32))
    pixels = np.asarray(Image.open(tmp_path / "a.png"))
    coloured = np.argwhere(pixels[..., 2].astype(int) - pixels[..., 0] > 50)
    assert (coloured[coloured[:, 0] < 384][:, 1] > 384).all()  # the upper point is the right one
    assert len(coloured) > 20
    with pytest.raises(UserError, match="2-d"):
        write_samples(tmp_path / "b.png", np.zeros((2, 3), np.float32))


@pytest.mark.parametrize("name", ["a.pdb", "a.sdf", "a.jpg"])
def test_unknown_suffixes_are_refused_before_work(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"\.h5, \.npz"):
        check_output(tmp_path / name, "image")


def test_a_folder_with_other_things_is_never_replaced_but_samples_are(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="holds other things"):
        write_samples(tmp_path / "mine", GRAY)
    write_samples(tmp_path / "out", GRAY)
    write_samples(tmp_path / "out", GRAY[:3])
    assert len(read_samples(tmp_path / "out").array) == 3


def test_a_run_folder_is_never_taken_for_samples_that_may_be_replaced(tmp_path: Path) -> None:
    """A run has a provenance.json too: -o RUN would have cost the model."""
    for name in ("provenance.json", "recipe.yaml", "model.safetensors"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(UserError, match="holds other things"):
        write_samples(tmp_path, GRAY)
    assert len(list(tmp_path.iterdir())) == 3


def test_samples_with_nan_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(GentoolError, match="1 of 50 samples"):
        write_samples(
            tmp_path / "a.npz", np.where(np.arange(50)[:, None] == 7, np.nan, VECTORS).astype(np.float32)
        )
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_is_a_clear_failure_in_every_format(tmp_path: Path) -> None:
    """In a process of its own: HDF5 can take the whole process down when its file fails."""
    code = """
import resource, signal, sys, numpy as np
from gentool.errors import GentoolError
from gentool.runs.samples import write_samples
images = np.random.default_rng(0).integers(0, 256, (2000, 16, 16, 3), np.uint8)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
for suffix in (".h5", ".npz", ".png"):
    try:
        write_samples(sys.argv[1] + "/a" + suffix, images)
    except GentoolError as error:
        print(error.message)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.splitlines() == ["cannot write: the file is larger than allowed there"] * 3
    assert done.returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_grids_are_for_the_eye(tmp_path: Path) -> None:
    write_samples(tmp_path / "a.png", GRAY)
    with pytest.raises(UserError, match="cannot be read back"):
        read_samples(tmp_path / "a.png")
    with pytest.raises(UserError, match="no such file"):
        read_samples(tmp_path / "none.h5")


def test_a_truncated_ply_is_corrupt(tmp_path: Path) -> None:
    write_samples(tmp_path / "a.ply", CLOUDS)
    (tmp_path / "a.ply").write_bytes((tmp_path / "a.ply").read_bytes()[:-5])
    with pytest.raises(CorruptError, match="vertices"):
        read_samples(tmp_path / "a.ply")
