"""gentool purify: every input and output, seeds and batches, and a clear refusal for each mistake."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from gentool import families
from gentool.data import make_config, open_set, to_model, to_uint8
from gentool.errors import UserError
from gentool.runs.samples import read_samples, write_samples
from gentool.tasks.model.load import load_run
from gentool.tasks.pictures.read import resized
from gentool.tasks.purification.purifier import Settings, build_purifier
from gentool.tasks.train import train
from tests.conformance.test_families import CASES, make
from tests.tasks.runs import TINY, Call

FAST = ("--steps", "3", "-q")


@pytest.fixture(scope="module")
def vp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny VP run with labels, dropped now and then."""
    folder = tmp_path_factory.mktemp("vp") / "run"
    return train(TINY[0], [*TINY[1:], "model.process.name=vp"], run_dir=folder).run


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    changes = ["model.network.channels=8", "trainer.max_steps=120"]
    return train("classifier/digits-small", changes, run_dir=tmp_path_factory.mktemp("cls") / "run").run


@pytest.fixture
def digits() -> np.ndarray:
    """(6, 8, 8, 1) uint8."""
    return open_set(make_config("digits", {}), "test").take(range(6)).x.permute(0, 2, 3, 1).numpy()


def test_a_data_set_by_name_with_a_classifier(vp: Path, classifier: Path, tmp_path: Path, call: Call) -> None:
    out = tmp_path / "clean.h5"
    done = call("purify", vp, "digits", "-n", 40, "--classifier", classifier, "-o", out, *FAST, "--json")
    assert done.code == 0, done.err
    found = done.json
    assert (found["path"], found["count"], found["method"], found["steps"]) == (str(out), 40, "sde", 3)
    assert found["sigma_star"] == pytest.approx(0.34018, abs=1e-5)
    assert found["t_star"] == pytest.approx(0.1)
    read = found["classifier"]
    assert read["changed"] == sum(a != b for a, b in zip(read["before"], read["after"]))
    assert 0.8 < read["accuracy_before"] <= 1
    labels = open_set(make_config("digits", {}), "test").take(range(40)).label
    assert read["accuracy_after"] == pytest.approx(np.mean(np.array(read["after"]) == labels.numpy()))
    kept = read_samples(out)
    assert kept.array.shape == (40, 8, 8, 1)
    assert kept.provenance["purify"]["method"] == "sde"
    assert Image.open(found["panel"]).width > 16 * 64


@pytest.mark.parametrize("method", ["vp-sde", "vp-ode", "ancestral", "ld-sde", "sde", "ode"])
def test_every_method(method: str, vp: Path, tmp_path: Path, digits: np.ndarray, call: Call) -> None:
    write_samples(tmp_path / "in.npz", digits)
    done = call(
        "purify", vp, tmp_path / "in.npz", "--method", method, "-o", tmp_path / "o.npz", *FAST, "--json"
    )
    assert done.code == 0, done.err
    assert 0 < done.json["moved"] < 1


@pytest.mark.parametrize("method", ["sde", "ode", "ancestral", "ld-sde"])
def test_an_edm_run_is_purified_in_its_own_time(
    method: str, whole_run: Path, tmp_path: Path, call: Call
) -> None:
    done = call(
        "purify", whole_run, "digits", "-n", 4, "--method", method, "-o", tmp_path / "o.h5", *FAST, "--json"
    )
    assert done.code == 0, done.err
    if method != "ld-sde":
        assert done.json["t_star"] == pytest.approx(0.34018, abs=1e-5)  # its time is the noise level


def test_the_task_is_the_purifier(vp: Path, tmp_path: Path, digits: np.ndarray, call: Call) -> None:
    """What the file holds is `Purifier` on the same pictures, rounded."""
    write_samples(tmp_path / "in.npz", digits)
    assert call("purify", vp, tmp_path / "in.npz", "--seed", 5, "-o", tmp_path / "o.npz", *FAST).code == 0
    purifier = build_purifier(load_run(vp)[2], Settings(steps=3))
    assert purifier.label == 10
    with torch.no_grad():
        x = purifier(to_model(torch.from_numpy(digits).permute(0, 3, 1, 2)), range(6), 5)
    expected = (x * 127.5 + 128).clamp(0, 255).permute(0, 2, 3, 1).numpy()
    assert np.abs(read_samples(tmp_path / "o.npz").array - expected).max() <= 1


def test_results_do_not_depend_on_the_batch(vp: Path, tmp_path: Path, call: Call) -> None:
    found = {}
    for size, seed in ((1, 0), (4, 0), (64, 0), (64, 1)):
        out = tmp_path / f"{size}-{seed}.npz"
        assert (
            call("purify", vp, "digits", "-n", 9, "--batch-size", size, "--seed", seed, "-o", out, *FAST).code
            == 0
        )
        found[size, seed] = read_samples(out).array.astype(int)
    assert np.abs(found[1, 0] - found[64, 0]).max() <= 1  # a level, where rounding falls the other way
    assert np.abs(found[4, 0] - found[64, 0]).max() <= 1
    assert (found[64, 1] != found[64, 0]).mean() > 0.3


def test_one_picture_comes_back_as_one(
    vp: Path, classifier: Path, tmp_path: Path, digits: np.ndarray, call: Call
) -> None:
    Image.fromarray(digits[0, ..., 0]).save(tmp_path / "in.png")
    done = call(
        "purify", vp, tmp_path / "in.png", "-o", tmp_path / "o.png", "--classifier", classifier, "--steps", 3
    )
    assert done.code == 0, done.err
    assert np.asarray(Image.open(tmp_path / "o.png")).shape == (8, 8)
    assert "read as" in done.err
    assert done.out.strip() == str(tmp_path / "o.png")


def test_a_folder_and_its_labels(
    vp: Path, classifier: Path, tmp_path: Path, digits: np.ndarray, call: Call
) -> None:
    for k in range(6):
        (tmp_path / "in" / str(k % 2)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(digits[k, ..., 0]).save(tmp_path / "in" / str(k % 2) / f"{k}.png")
    done = call(
        "purify", vp, tmp_path / "in", "-o", tmp_path / "out", "--classifier", classifier, *FAST, "--json"
    )
    assert done.code == 0, done.err
    assert done.json["count"] == 6
    assert "accuracy_before" in done.json["classifier"]
    assert len(list((tmp_path / "out").glob("*.png"))) == 6


def test_sixteen_bits_floats_and_alpha_are_read(
    vp: Path, tmp_path: Path, digits: np.ndarray, call: Call
) -> None:
    """The same pictures however they are stored: the same result."""
    assert call("purify", vp, _npz(tmp_path, digits), "-o", tmp_path / "u8.npz", *FAST).code == 0
    reference = read_samples(tmp_path / "u8.npz").array.astype(int)
    for name, array in (("float", digits / np.float32(255)), ("deep", digits.astype(np.uint16) * 257)):
        done = call("purify", vp, _npz(tmp_path, array), "-o", tmp_path / f"{name}.npz", "--steps", 3)
        assert done.code == 0, done.err
        assert np.abs(read_samples(tmp_path / f"{name}.npz").array - reference).max() <= 1
        assert ("16-bit" in done.err) == (name == "deep")
    Image.fromarray(digits[0, ..., 0].astype(np.uint16) * 257).save(tmp_path / "deep.png")
    done = call("purify", vp, tmp_path / "deep.png", "-o", tmp_path / "deep-out.png", "--steps", 3)
    assert "16-bit" in done.err
    assert (
        np.abs(np.asarray(Image.open(tmp_path / "deep-out.png")).astype(int) - reference[0, ..., 0]).max()
        <= 1
    )
    Image.fromarray(np.dstack([digits[0, ..., 0], np.full((8, 8), 255, np.uint8)]), "LA").save(
        tmp_path / "la.png"
    )
    done = call("purify", vp, tmp_path / "la.png", "-o", tmp_path / "la-out.png", "--steps", 3)
    assert done.code == 0, done.err
    assert "transparency" in done.err


def test_resized_there_and_back(vp: Path, tmp_path: Path, digits: np.ndarray, call: Call) -> None:
    """A picture whose every pixel stands twice is the small one to the model, and is enlarged again afterwards."""
    array = digits.repeat(2, axis=1).repeat(2, axis=2)
    done = call("purify", vp, _npz(tmp_path, array), "--resize", "-o", tmp_path / "o.npz", *FAST)
    assert done.code == 0, done.err
    purifier = build_purifier(load_run(vp)[2], Settings(steps=3))
    with torch.no_grad():
        small = purifier(to_model(torch.from_numpy(digits).permute(0, 3, 1, 2)), range(6), 0)
    found = torch.from_numpy(read_samples(tmp_path / "o.npz").array).permute(0, 3, 1, 2)
    torch.testing.assert_close(found.int(), to_uint8(resized(small, (16, 16))).int(), rtol=0, atol=1)


def _npz(folder: Path, array: np.ndarray) -> Path:
    np.savez(folder / "in.npz", arr_0=array)
    return folder / "in.npz"


@pytest.mark.parametrize(
    ("switches", "words"),
    [
        (["--t-star", "10"], ["(1e-05, 1]", "did you mean --t-star 0.1"]),
        (["--t-star", "100"], ["did you mean --t-star 0.1"]),
        (["--t-star", "75"], ["did you mean --t-star 0.075"]),
        (["--t-star", "0"], ["--t-star", "(1e-05, 1]"]),
        (["--t-star", "-0.1"], ["--t-star"]),
        (["--sigma-star", "1e6"], ["--sigma-star", "process vp"]),
        (["--t-star", "0.1", "--sigma-star", "0.3"], ["not both"]),
        (["--method", "vp-sdee"], ["unknown method", "did you mean vp-sde"]),
        (["--method", "ld-sde", "--sigma-star", "0.3"], ["ld-sde has no jump"]),
        (["--method", "ld-sde", "--t-star", "10"], ["did you mean --t-star 0.1"]),
        (["--label", "eleven"], ["--label 'eleven'", "0 to 9"]),
        (["--label", "1,2"], ["one class at most"]),
        (["--classifier", "nowhere"], ["no such run folder"]),
        (["-o", "clean.gif"], ["cannot write samples as .gif"]),
    ],
)
def test_wrong_settings_are_refused(switches: list[str], words: list[str], vp: Path, call: Call) -> None:
    call("purify", vp, "digits", "-n", "2", *FAST, *switches).refused(2, *words)


def test_mild_and_severe_levels_are_warned_of(vp: Path, tmp_path: Path, call: Call) -> None:
    for t, word in (("0.03", "less noise"), ("0.4", "more noise"), ("0.1", "")):
        done = call("purify", vp, "digits", "-n", 2, "--t-star", t, "--steps", 2, "-o", tmp_path / "o.npz")
        assert done.code == 0, done.err
        assert ("warning" in done.err) == bool(word)
        assert word in done.err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: x / 127.5 - 1, ["[0, 1]", "they look like pixels in [-1, 1]"]),
        (lambda x: x.astype(np.float32), ["they look like pixels in 0..255"]),
        (lambda x: np.where(x == x[2, 3, 3], np.nan, x / 255), ["holds NaN"]),
        (lambda x: x.astype(np.int64), ["int64"]),
        (lambda x: x.repeat(3, axis=3), ["has colour", "gray"]),
        (lambda x: x[:, :4], ["8x4 pixels", "trained on 8x8", "--resize"]),
        (lambda x: x.transpose(0, 3, 1, 2), ["channels last"]),
        (lambda x: x[:0], ["expected pictures"]),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    change: Callable[[np.ndarray], np.ndarray],
    words: list[str],
    vp: Path,
    tmp_path: Path,
    digits: Any,
    call: Call,
) -> None:
    ended = call("purify", vp, _npz(tmp_path, change(digits)), "-o", tmp_path / "o.npz", *FAST)
    ended.refused(4 if "holds NaN" in words else 2, "in.npz", *words)


def test_gray_for_a_colour_model_needs_a_word() -> None:
    from gentool.errors import UserError
    from gentool.tasks.pictures.read import fit_shape

    x = torch.rand(2, 1, 8, 8)
    with pytest.raises(UserError, match="--repeat-channels"):
        fit_shape(x, (3, 8, 8), "in")
    assert torch.equal(fit_shape(x, (3, 8, 8), "in", repeat_channels=True), x.expand(-1, 3, -1, -1))


def test_inputs_that_are_not_there_or_no_pictures(vp: Path, tmp_path: Path, call: Call) -> None:
    call("purify", vp, "digitz", *FAST).refused(2, "did you mean digits")
    call("purify", vp, "toy2d", *FAST).refused(2, "toy2d", "vector")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    call("purify", vp, tmp_path / "broken.png", *FAST).refused(4, "broken.png")
    (tmp_path / "notes.txt").write_text("no picture")
    call("purify", vp, tmp_path / "notes.txt", *FAST).refused(2, "notes.txt")


def test_the_input_is_not_overwritten(vp: Path, tmp_path: Path, digits: np.ndarray, call: Call) -> None:
    Image.fromarray(digits[0, ..., 0]).save(tmp_path / "in.png")
    call("purify", vp, tmp_path / "in.png", "-o", tmp_path / "in.png", *FAST).refused(2, "INPUT itself")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "in.png")), digits[0, ..., 0])


def test_runs_that_cannot_purify(vp: Path, classifier: Path, whole_run: Path, call: Call) -> None:
    call("purify", classifier, "digits", *FAST).refused(2, "family classifier", "no denoiser")
    call("purify", whole_run, "digits", "--method", "vp-sde", *FAST).refused(
        2, "variance-preserving", "edm", "sde"
    )
    call("purify", vp, "digits", "--classifier", vp, *FAST).refused(2, "no classifier")


REASONS = {
    "cld": "adds it to their velocities",
    "pfgmpp": "Gaussian noise, which the family pfgmpp does not remove",
    "genie": "give the run it stands on",
    "lace": "latents alone",
    "editgan": "latents alone",
    "stylegan2": "latents alone",
    "ddgan": "latents alone",
    "dp-sinkhorn dcgan": "latents alone",
    "lion": "is of points data",
    "sap": "is of points data",
    "classifier": "it can be --classifier",
    "a-vit": "it can be --classifier",
    "edm points": "makes vector data",
}


@pytest.mark.parametrize(("case", "reason"), REASONS.items())
def test_families_of_no_single_denoiser_are_refused_in_a_line(case: str, reason: str) -> None:
    with pytest.raises(UserError) as caught:
        build_purifier(make(case), Settings())
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_family_is_refused_or_purifies() -> None:
    """The cases above, and edm and dpdm: a new family has to say which it is."""
    for case in ("edm vp", "dpdm edm"):
        assert build_purifier(make(case), Settings()).nfe > 0
    assert {CASES[case][0] for case in REASONS} | {"dpdm"} == set(families.FAMILIES)


def test_a_model_that_always_knew_the_label_needs_one(tmp_path: Path, call: Call) -> None:
    changes = ["trainer.max_steps=1", "model.label_dropout=0"]
    run = train(TINY[0], [*TINY[1:], *changes], run_dir=tmp_path / "run").run
    call("purify", run, "digits", "-n", 2, *FAST).refused(2, "label_dropout", "--label")
    assert call("purify", run, "digits", "-n", 2, "--label", 3, "-o", tmp_path / "o.npz", *FAST).code == 0


def test_a_toy_of_vectors_is_refused(tmp_path: Path, call: Call) -> None:
    run = train("edm/toy2d-small", ["trainer.max_steps=1"], run_dir=tmp_path / "run").run
    call("purify", run, "digits", *FAST).refused(2, "pictures", "vector")


def test_what_was_asked_differently_replaces_nothing(vp: Path, tmp_path: Path, call: Call) -> None:
    run = shutil.copytree(vp, tmp_path / "run")
    asked = ((), ("--sigma-star", "0.3"), ("-n", "3"), ("--train",), ("--seed", "1"), ())
    made = [call("purify", run, "digits", "-n", "2", *FAST, *more).out.strip() for more in asked]
    assert all(made)
    assert len(set(made)) == len(asked) - 1
