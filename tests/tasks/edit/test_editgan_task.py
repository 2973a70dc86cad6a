"""gentool edit --method editgan, from the training of its parts on."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from gentool.families.editgan.labels import read_label_map, write_label_map
from gentool.tasks.train import train
from tests.tasks.runs import Call

INVERT, STEPS = ("--invert-steps", 2), ("--iterations", 8)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A generator of one step, and painted labels: left paper, right ink, and a class that is nowhere."""
    folder = tmp_path_factory.mktemp("editgan")
    thin = ["model.network={latent: 8, style: 8, layers: 1, channel_base: 64, channel_max: 8}"]
    thin += ["model.discriminator={channel_base: 64, channel_max: 8}", "trainer.max_steps=1"]
    generator = train("stylegan2/digits8-small", thin, run_dir=folder / "generator").run
    (folder / "masks").mkdir()
    halves = torch.zeros(8, 8, dtype=torch.long)
    halves[:, 4:] = 1
    for i in range(4):
        write_label_map(folder / "masks" / f"{i}.png", halves, 3)
    changes = [f"base={generator}", "model.heads=2", "model.encoder.channels=4", "trainer.max_steps=40"]
    masks = folder / "masks"
    changes += [f"model.labels={{source: masks, path: '{masks}', classes: [paper, ink, other]}}"]
    changes += ["model.hidden=[16, 8]", "optimizer.lr=0.02", "model.encoder.samples=4", "data.batch_size=4"]
    said: list[str] = []
    run = train("editgan/digits8-small", changes, run_dir=folder / "run", say=said.append).run
    assert any("4 labelled samples; the published figure" in line for line in said)
    assert any("other is in no labelled picture" in line for line in said)
    picture = np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)
    Image.fromarray(picture).save(folder / "photo.png")
    return {"generator": generator, "run": run, "photo": folder / "photo.png"}


def edited(call: Call, made: dict[str, Path], *more: Any) -> Any:
    done = call("edit", made["run"], *more, "-q", "--json")
    assert done.code == 0, done.err
    return done.json


def repainted(call: Call, made: dict[str, Path], count: int, out: Path, vector: Path) -> Any:
    """Samples whose ink is to become paper, and the vector kept of that."""
    wish = ("--relabel", "ink=paper", "-n", count, "--save-vector", vector)
    return edited(call, made, *wish, *STEPS, "-o", out)


def test_samples_relabelled_a_vector_kept_applied_and_refused(
    made: dict[str, Path], tmp_path: Path, call: Call
) -> None:
    vector = tmp_path / "v.safetensors"
    found = repainted(call, made, 3, tmp_path / "a.npz", vector)
    assert (found["count"], found["edited"], found["psnr"]) == (3, 3, None)
    assert found["method"] == "editgan"
    assert len(found["moved_by_layer"]) == 4
    assert load_file(vector)["delta"].shape == (4, 8)
    assert Path(found["panel"]).is_file()
    fixed = ("--vector", vector, "-n", 2)
    still = edited(call, made, *fixed, "--scale", 0, "-o", tmp_path / "b.npz")
    assert still["edited"] == 0
    assert still["changed_inside"] == still["changed_outside"] == 0
    one = edited(call, made, *fixed, "-o", tmp_path / "c.npz")
    two = edited(call, made, *fixed, "--scale", 2, "--refine", 0, "-o", tmp_path / "d.npz")
    assert two["moved_by_layer"] == pytest.approx([2 * n for n in one["moved_by_layer"]], rel=1e-4)
    call("edit", made["run"], "--vector", made["photo"], "-q").refused(4, "safetensors")
    part = edited(call, made, *fixed, "--layers", "0,2-3", "-o", tmp_path / "e.npz")
    assert part["layers"] == [0, 2, 3]
    assert part["moved_by_layer"] == [0 if i == 1 else n for i, n in enumerate(one["moved_by_layer"])]
    part = edited(
        call, made, "--relabel", "ink=paper", "-n", 2, *STEPS, "--layers", "1", "-o", tmp_path / "f.npz"
    )
    assert [n > 0 for n in part["moved_by_layer"]] == [False, True, False, False]
    for text, words in (("4", "layers 0 to 3, not 4"), ("1-", "0-3,6"), ("2-1", "0-3,6"), ("a", "0-3,6")):
        call("edit", made["run"], *fixed, "--layers", text, "-q").refused(2, "--layers", words)


def test_a_vector_at_several_scales_is_one_panel_and_a_file_each_or_a_batch(
    made: dict[str, Path], tmp_path: Path, call: Call
) -> None:
    vector = tmp_path / "v.safetensors"
    repainted(call, made, 2, tmp_path / "a.npz", vector)
    fixed = ("--vector", vector, "--refine", 2)
    one = [
        edited(call, made, *fixed, "-n", 2, "--scale", s, "-o", tmp_path / f"{s}.npz") for s in ("-1", "2")
    ]
    both = edited(call, made, *fixed, "-n", 2, "--scale", "-1,2", "-o", tmp_path / "both.npz")
    assert both["scale"] == [each["scale"] for each in both["scales"]] == [-1, 2]
    for alone, each in zip(one, both["scales"]):
        assert each.items() >= {key: alone[key] for key in ("moved_by_layer", "changed_outside")}.items()
    pictures = np.load(tmp_path / "both.npz")["arr_0"]
    assert np.array_equal(pictures, np.concatenate([np.load(each["path"])["arr_0"] for each in one]))
    photo = (made["photo"], *fixed, "--invert-steps", 2)
    done = call("edit", made["run"], *photo, "--scale", "0,1.5", "-o", tmp_path / "out.png", "-q")
    paths = [tmp_path / f"out-scale{scale}.png" for scale in ("0", "1.5")]
    assert done.out.split() == [str(path) for path in paths]
    assert all(Image.open(path).size == (8, 8) for path in paths)
    assert not (tmp_path / "out.png").exists()
    rows = Image.open(tmp_path / "out-panel.png").size[1] // 64
    assert rows == 5  # before, inverted, two scales, difference
    copy = tmp_path / "in-scale1.5.png"
    copy.write_bytes(made["photo"].read_bytes())
    call("edit", made["run"], copy, *fixed, "--scale", "0,1.5", "-o", tmp_path / "in.png", "-q").refused(
        2, "is INPUT itself"
    )
    for text in ("1,", "nan", "a", "1,inf"):
        call("edit", made["run"], "--vector", vector, "--scale", text, "-q").refused(
            2, "--scale", "0.5,1,1.5"
        )
    call("edit", made["run"], "--vector", vector, "--scale", "1,1.0", "-q").refused(2, "--scale", "twice")


def test_a_photos_codes_are_kept_edited_again_and_learnt_from(
    made: dict[str, Path], tmp_path: Path, call: Call
) -> None:
    """What is inverted once need not be again, and its repainted label map teaches the next run's heads."""
    folder = tmp_path / "labelled"
    fixed = ("--invert-steps", 2, "--save-codes", folder)
    seen = edited(call, made, made["photo"], *fixed, "-o", tmp_path / "seen.png")
    assert seen["saved_codes"] == str(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["photo.png", "photo.safetensors"]
    assert (folder / "photo.png").read_bytes() == Path(seen["labels"]).read_bytes()
    call("edit", made["run"], made["photo"], *fixed, "-q", "-o", tmp_path / "x.png").refused(
        2, "photo.safetensors", "may have been repainted"
    )
    codes = folder / "photo.safetensors"
    again = edited(call, made, codes, "--method", "editgan", "-o", tmp_path / "again.png")
    assert again["psnr"] is None
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "seen.png").read_bytes()
    edited(call, made, "-n", 2, "--save-codes", tmp_path / "two", "-o", tmp_path / "two.npz")
    assert len(list((tmp_path / "two").glob("samples-0000?.safetensors"))) == 2
    labels = torch.zeros(8, 8, dtype=torch.long)
    labels[:, 4:] = 1
    write_label_map(folder / "photo.png", labels, 2)
    changes = [
        f"base={made['generator']}",
        "model.heads=2",
        "model.encoder.channels=4",
        "trainer.max_steps=2",
    ]
    changes += [f"model.labels={{source: masks, path: '{folder}', classes: [paper, ink]}}", "model.stop=val"]
    said: list[str] = []
    run = train("editgan/digits8-small", changes, run_dir=tmp_path / "run", say=said.append).run
    assert any("paper: 32, ink: 32" in line for line in said)
    usual = load_file(run / "model.safetensors")["usual"]
    assert float(usual) > 0  # what an inversion is measured by


def test_a_photo_is_seen_repainted_and_left_alone(made: dict[str, Path], tmp_path: Path, call: Call) -> None:
    before = made["photo"].read_bytes()
    fixed = (made["photo"], *INVERT, *STEPS)
    seen = edited(call, made, made["photo"], *INVERT, "--method", "editgan", "-o", tmp_path / "seen.png")
    assert seen["edited"] == 0
    labels = read_label_map(Path(seen["labels"]), 3)
    same = call("edit", made["run"], *fixed, "--mask", seen["labels"], "-o", tmp_path / "same.png")
    assert same.code == 0
    assert "nothing to do" in same.err
    labels[3, 3] = 1 - labels[3, 3].clamp(max=1)
    write_label_map(tmp_path / "mask.png", labels, 3)
    done = edited(
        call,
        made,
        *fixed,
        "--mask",
        tmp_path / "mask.png",
        "--paste",
        "-o",
        tmp_path / "out.png",
        "--widen",
        1,
    )
    assert done["edited"] == 1
    assert done["psnr"] is not None
    photo, out = (np.asarray(Image.open(path)).astype(int) for path in (made["photo"], tmp_path / "out.png"))
    still = np.ones((8, 8), bool)
    still[2:5, 2:5] = False  # what was painted, and a pixel around
    assert (abs(photo - out)[still] <= 1).all()
    assert (photo != out).any()
    call("edit", made["run"], *fixed, "--mask", tmp_path / "mask.png", "-o", made["photo"], "-q").refused(
        2, "is INPUT itself"
    )
    assert made["photo"].read_bytes() == before
    mask = (tmp_path / "mask.png").read_bytes()
    (tmp_path / "m-labels.png").write_bytes(mask)
    for out in ("mask.png", "m.png"):  # the picture, or the label map that is written beside it
        painted = "m-labels.png" if out == "m.png" else out
        call("edit", made["run"], *fixed, "--mask", tmp_path / painted, "-o", tmp_path / out, "-q").refused(
            2, "is INPUT itself"
        )
        assert (tmp_path / painted).read_bytes() == mask


def test_a_photo_is_projected_from_the_mean_with_noise_of_its_own(
    made: dict[str, Path], tmp_path: Path, call: Call
) -> None:
    fixed = (made["photo"], "--method", "editgan")
    start = edited(call, made, *fixed, "--invert-from", "mean", "--invert-steps", 0, "-o", tmp_path / "a.png")
    near = edited(call, made, *fixed, "--invert-from", "mean", "--invert-steps", 60, "-o", tmp_path / "b.png")
    assert near["psnr"] > start["psnr"]
    noisy = (*fixed, "--invert-noise", 100, "--invert-steps", 20)
    out = tmp_path / "c.npz"
    done = edited(call, made, *noisy, "--relabel", "ink=paper", "--iterations", 3, "-o", out)
    assert (done["edited"], done["invert_noise"]) == (1, 100)


def test_mistakes(made: dict[str, Path], tmp_path: Path, call: Call) -> None:
    photo, run = made["photo"], made["run"]
    for name, pixels in {
        "nine": np.full((8, 8), 9, np.uint8),
        "unseen": np.full((8, 8), 2, np.uint8),
        "wide": np.zeros((4, 8), np.uint8),
    }.items():
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    fixed = ("edit", run, photo, "-q", "-o", tmp_path / "x.png")
    call(*fixed, "--mask", tmp_path / "nine.png").refused(2, "value 9 (64 pixels) is no class", "nine.png")
    call(*fixed, "--mask", tmp_path / "unseen.png").refused(2, "other was in no labelled picture")
    call(*fixed, "--mask", tmp_path / "wide.png").refused(2, "another aspect")
    call(*fixed, "--relabel", "ink=water").refused(2, "--relabel", "paper, ink, other")
    call(*fixed, "--relabel", "ink").refused(2, "--relabel", "expected two classes")
    call(*fixed, "--relabel", "ink=paper", "--mask", tmp_path / "nine.png").refused(2, "one edit at a time")
    call(*fixed, "--relabel", "ink=paper", "--refine", 3).refused(2, "--refine", "is for --vector")
    call(*fixed, "--relabel", "ink=paper", "--region", "all").refused(2, "--region", "painted or classes")
    call(*fixed, "--relabel", "ink=paper", "--invert-from", "zero").refused(
        2, "--invert-from", "encoder or mean"
    )
    call(*fixed, "--relabel", "ink=paper", "--widen", -1).refused(2, "--widen", "negative")
    call(*fixed, "--relabel", "ink=paper", "--invert-noise", -1).refused(2, "--invert-noise", "negative")
    call(*fixed, "--relabel", "ink=paper", "--label", 3).refused(2, "editgan does not read it")
    call(*fixed, "--save-vector", tmp_path / "v", "--method", "editgan").refused(2, "an edit to learn from")
    call(*fixed, "--vector", tmp_path / "nothing").refused(2, "is no file")
    call(*fixed).refused(2, "--method", "is missing")
    call("edit", run, "-n", 2, "-q", "--mask", tmp_path / "nine.png").refused(2, "of one picture")
    call("edit", made["generator"], photo, "-q", "--relabel", "ink=paper").refused(2, "no label heads")
    call("sample", run, "-q").refused(2, "draws no samples of its own")


def test_what_an_edit_would_ignore_is_refused(made: dict[str, Path], tmp_path: Path, call: Call) -> None:
    run, vector, kept = made["run"], tmp_path / "v.safetensors", tmp_path / "kept"
    fixed = ("-n", 1, *STEPS, "-o", tmp_path / "a.npz", "--save-vector", vector, "--save-codes", kept)
    edited(call, made, "--relabel", "ink=paper", *fixed)
    codes = kept / "samples-00000.safetensors"
    of_photos = [("--invert-steps", 0), ("--invert-from", "mean"), ("--invert-noise", 1), ("--train",)]
    for option in [*of_photos, ("--resize",), ("--repeat-channels",)]:
        quiet = ("--relabel", "ink=paper", *option, "-q", "-o", tmp_path / "x.npz")
        call("edit", run, *quiet).refused(2, option[0], "samples are edited, and nothing is inverted")
        call("edit", run, codes, *quiet).refused(2, option[0], codes.name, "nothing is inverted")
    call("edit", run, "--vector", vector, *STEPS, "-q").refused(2, "--iterations", "--refine")
    call("edit", run, "--save-codes", tmp_path / "k", *STEPS, "-q").refused(2, "--iterations", "--mask")
    for option in (("--paste",), ("--widen", 1), ("--region", "classes"), ("--layers", "0")):
        call("edit", run, made["photo"], "--method", "editgan", *option, "-q").refused(
            2, option[0], "no edit"
        )
    bare = ("edit", run, "--vector", vector, "-n", 1, "-o", tmp_path / "b.npz")
    call(*bare, "-q", "--classifier", run).refused(2, "--classifier", "no pictures are compared")
    done = call(*bare)
    assert done.code == 0
    assert "compared by pixels" not in done.err
    assert not (tmp_path / "x.npz").exists()
    assert not (tmp_path / "k").exists()


def test_the_run_keeps_what_compares_pictures(made: dict[str, Path], tmp_path: Path, call: Call) -> None:
    """Moved, and the classifier deleted, it is resumed and edits as before; without its copy it asks for another."""
    small = ["trainer.max_steps=1", "model.network.channels=8"]
    own = train("classifier/digits-small", small, run_dir=tmp_path / "own").run
    changes = [f"base={made['generator']}", f"model.perceptual={own}", "model.heads=2", "model.labelled=4"]
    changes += ["model.encoder.channels=4", "data.batch_size=4", "encoder_optimizer.schedule=constant"]

    def to(steps: int, name: str, resume: str | None = None) -> Path:
        asked = [*changes, f"trainer.max_steps={steps}"]
        return train(
            "editgan/digits8-small", asked, run_dir=tmp_path / name, resume=resume, allow_change=True
        ).run

    whole, part = to(4, "whole"), to(2, "part")
    fixed = (made["photo"], *INVERT, "--method", "editgan", "-o")
    named = edited(call, {**made, "run": whole}, *fixed, tmp_path / "a.npz", "--classifier", own)
    other = tmp_path / "other"
    shutil.copytree(own, other)
    shutil.rmtree(own)
    part.rename(tmp_path / "moved")
    part = to(4, "moved", "auto")
    ends = [load_file(run / "model.safetensors") for run in (whole, part)]
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
    found = edited(call, {**made, "run": part}, *fixed, tmp_path / "b.npz")
    assert found["psnr"] == named["psnr"]
    assert np.array_equal(*(np.load(tmp_path / f"{name}.npz")["arr_0"] for name in "ab"))
    shutil.rmtree(part / "perceptual")
    call("edit", part, *fixed, tmp_path / "c.npz", "-q").refused(2, str(own), "--classifier names another")
    again = edited(call, {**made, "run": part}, *fixed, tmp_path / "c.npz", "--classifier", other)
    assert again["psnr"] == named["psnr"]
    call("edit", part, *fixed, tmp_path / "d.npz", "-q", "--classifier", made["generator"]).refused(
        2, "--classifier", "has no maps", "stylegan2"
    )
