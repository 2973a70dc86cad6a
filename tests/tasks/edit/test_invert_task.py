"""gentool edit by inversion: real pictures restored, changed, kept apart from their edits, and refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gentool.runs.samples import read_samples
from gentool.tasks.train import train
from tests.tasks.runs import Call

FEW = ("--set", "steps=8", "-q", "--json")


def edit(call: Call, run: Path, source: Any, method: str, out: Path, *more: Any) -> Any:
    done = call("edit", run, source, "--method", method, "-o", out, *FEW, *more)
    assert done.code == 0, done.err
    return done.json


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A conditional model with label dropout, trained for seconds."""
    changes = [
        "trainer.max_steps=300",
        "model.network.width=32",
        "model.network.blocks=2",
        "data.batch_size=32",
    ]
    changes += ["model.conditional=true", "model.label_dropout=0.2"]
    return train("quickstart", changes, run_dir=tmp_path_factory.mktemp("labelled") / "run").run


def test_nothing_changed_gives_the_pictures_back(labelled: Path, tmp_path: Path, call: Call) -> None:
    """To the byte by ddpm-inversion whatever was skipped; by DDIM's, nearer with more steps."""
    for more in ((), ("--skip", 0), ("--from-label", 3), ("--scale", 2, "--from-scale", 2)):
        found = edit(call, labelled, "digits", "ddpm-inversion", tmp_path / "a.npz", "-n", 6, *more)
        assert found["reconstruction"] < 1e-6
        assert found["moved"] < 1e-6
    errors = []
    for steps in (10, 40):
        more = ("-n", 6, "--set", f"steps={steps}")
        found = edit(call, labelled, "digits", "ddim-inversion", tmp_path / "b.npz", *more)
        errors.append(found["reconstruction"])
        assert found["reconstruction"] == pytest.approx(found["moved"], rel=1e-3)
    assert errors[1] < errors[0] / 2
    assert errors[1] > 1e-5


def test_the_label_and_the_guidance_change_the_picture(labelled: Path, tmp_path: Path, call: Call) -> None:
    def moved(name: str, method: str, *more: Any) -> Any:
        return edit(call, labelled, "digits", method, tmp_path / name, "-n", 4, *more)

    plain = moved("a.h5", "ddpm-inversion", "--to-label", 3)
    assert plain["moved"] > 1e-3
    assert plain["reconstruction"] < 1e-6
    assert plain["nfe"] == 2 * (8 - 3)  # 36 % of eight steps are three
    assert moved("b.h5", "ddpm-inversion", "--to-label", 3, "--skip", 7)["moved"] < plain["moved"]
    assert moved("c.h5", "ddpm-inversion", "--scale", 3)["moved"] > 1e-4
    assert moved("d.h5", "ddim-inversion", "--to-label", "3,4", "--skip", 2)["moved"] > 1e-3
    assert read_samples(tmp_path / "a.h5").provenance["edit"]["to_label"] == "3"
    again = moved("e.h5", "ddpm-inversion", "--to-label", 3, "--batch-size", 3)
    assert again["moved"] == pytest.approx(plain["moved"], rel=1e-4)
    apart = read_samples(tmp_path / "e.h5").array.astype(int) - read_samples(tmp_path / "a.h5").array
    assert abs(apart).max() <= 1


def test_a_picture_comes_back_as_a_picture_with_its_panel(labelled: Path, tmp_path: Path, call: Call) -> None:
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8) * 3
    Image.fromarray(pixels).save(tmp_path / "in.png")
    found = edit(call, labelled, tmp_path / "in.png", "ddpm-inversion", tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as picture:
        assert abs(np.asarray(picture).astype(int) - pixels).max() <= 1
    with Image.open(found["panel"]) as panel:
        assert panel.height > 3 * 64  # before, after, difference
    before = (tmp_path / "in.png").read_bytes()
    done = call(
        "edit", labelled, tmp_path / "in.png", "--method", "ddpm-inversion", "-o", tmp_path / "in.png", *FEW
    )
    done.refused(2, "INPUT itself")
    assert (tmp_path / "in.png").read_bytes() == before


@pytest.mark.parametrize(
    ("switches", "words"),
    [
        (["--skip", "8"], ["--skip", "0 to 7 of the 8 steps"]),
        (["--to-label", "12"], ["--label '12'", "0 to 9"]),
        (["--set", "solver=ddim"], ["--set", "steps, grid, grid_options, threshold alone, not 'solver'"]),
        (["--set", "grid=nosuch"], ["nosuch"]),
        (["--iterations", "3"], ["--iterations", "ddpm-inversion does not read it; it is for steer"]),
        (["--sample", "0"], ["--sample"]),
    ],
)
def test_mistakes(switches: list[str], words: list[str], labelled: Path, call: Call) -> None:
    call("edit", labelled, "digits", "--method", "ddpm-inversion", *FEW, *switches).refused(2, *words)


def test_what_cannot_be_inverted(labelled: Path, tmp_path: Path, call: Call) -> None:
    call("edit", labelled, "--method", "ddim-inversion", "-q").refused(2, "edits pictures", "after RUN")
    call("edit", labelled, "digits", "--method", "ddimm-inversion").refused(2, "did you mean ddim-inversion")
    call("edit", labelled, "digits", "--method", "steer", "--label", 1, "--classifier", labelled).refused(
        2, "not a picture", "digits"
    )
    call("edit", labelled, "--method", "steer").refused(2, "--classifier", "steer needs it")
    changes = ["trainer.max_steps=1", "data.limit=64", "data.batch_size=8"]
    for recipe, method, word in (
        ("classifier/digits-small", "ddim-inversion", "no denoiser to invert"),
        ("cld/digits-small", "ddim-inversion", "velocity"),
        ("pfgmpp/digits-small", "ddpm-inversion", "adds no Gaussian noise"),
    ):
        run = train(recipe, changes, run_dir=tmp_path / recipe).run
        call("edit", run, "digits", "--method", method, "-n", 2, *FEW).refused(2, word)


def test_unlabelled_pictures_of_a_model_that_always_had_labels(tmp_path: Path, call: Call) -> None:
    changes = [
        "trainer.max_steps=1",
        "model.network.width=16",
        "model.conditional=true",
        "model.label_dropout=0.0",
    ]
    run = train("quickstart", changes, run_dir=tmp_path / "run").run
    np.savez(tmp_path / "in.npz", arr_0=np.zeros((2, 8, 8, 1), np.uint8))
    fixed = ("edit", run, tmp_path / "in.npz", "--method", "ddpm-inversion", "-o", tmp_path / "o.npz", *FEW)
    call(*fixed).refused(2, "--from-label", "label_dropout: 0")
    call(*fixed, "--scale", 2, "--from-label", 1).refused(2, "never saw the null label")
    assert call(*fixed, "--from-label", 1, "--to-label", 2).code == 0


def test_an_edit_never_overwrites_what_it_reads(labelled: Path, tmp_path: Path, call: Call) -> None:
    """Neither the file nor one of a folder's, by the edit itself, its panel, or another name of the same file."""
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8) * 3
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(pixels).save(folder / name)
    Image.fromarray(pixels).save(tmp_path / "x-panel.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "x-panel.png")
    np.savez(tmp_path / "in.npz", arr_0=pixels[None, ..., None])
    for source, out, words in (
        (folder, folder / "b.png", "which is read"),
        (tmp_path / "x-panel.png", tmp_path / "x.png", "is INPUT itself"),
        (tmp_path / "x-panel.png", tmp_path / "link.png", "is INPUT itself"),
        (tmp_path / "in.npz", tmp_path / "in.npz", "is INPUT itself"),
    ):
        kept = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        for method in ("ddpm-inversion", "ddim-inversion"):
            call("edit", labelled, source, "--method", method, "-o", out, *FEW).refused(2, words)
        assert {path: path.read_bytes() for path in kept} == kept
    assert call("edit", labelled, folder, "--method", "ddpm-inversion", "-o", folder / "c.h5", *FEW).code == 0


def test_pictures_of_another_size_want_a_word(labelled: Path, tmp_path: Path, call: Call) -> None:
    """Size and channels are not changed unasked; asked for, the edit comes back in the picture's own size."""
    Image.fromarray(np.zeros((12, 10), np.uint8)).save(tmp_path / "wide.png")
    fixed = (
        "edit",
        labelled,
        tmp_path / "wide.png",
        "--method",
        "ddpm-inversion",
        "-o",
        tmp_path / "o.png",
        *FEW,
    )
    call(*fixed).refused(2, "--resize")
    assert call(*fixed, "--resize").code == 0
    with Image.open(tmp_path / "o.png") as picture:
        assert picture.size == (10, 12)


def test_a_run_without_a_head_cannot_encode_by_one(labelled: Path, call: Call) -> None:
    done = call(
        "edit", labelled, "digits", "--method", "ddim-inversion", "--set", "solver=genie", "-n", 1, *FEW
    )
    done.refused(2, "--set", "no head")
