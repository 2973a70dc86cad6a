"""gentool edit --method lace, from the training of its parts to its figures."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from gentool.errors import UserError
from gentool.families.lace.control import Target
from gentool.runs.folder import RunFolder
from gentool.runs.samples import read_samples
from gentool.runs.weights import fingerprint, load_weights, save_weights
from gentool.tasks.edit.lace_scores import changed, edit_strengths, relative_strengths
from gentool.tasks.evaluate import evaluate
from gentool.tasks.model.load import load_run
from gentool.tasks.sample import sample
from gentool.tasks.train import train
from tests.tasks.runs import Call


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A generator of the transport loss, which learns in seconds, a labeller, a judge, and LACE on them."""
    folder = tmp_path_factory.mktemp("lace")
    small = ["model.network.channels=8", "trainer.max_steps=150"]
    base = ["model.conditional=false", "trainer.max_steps=300", "model.network.width=64"]
    found = {
        "generator": train("dp-sinkhorn/digits-small", base, run_dir=folder / "generator").run,
        "labeller": train("classifier/digits-small", small, run_dir=folder / "labeller").run,
        "judge": train("classifier/digits-small", [*small, "seed=1"], run_dir=folder / "judge").run,
    }
    said: list[str] = []
    changes = [f"base={found['generator']}", f"model.attributes.digit.run={found['labeller']}"]
    changes += ["model.latents=3000", "trainer.max_steps=400"]
    found["lace"] = train("lace/digits-small", changes, run_dir=folder / "lace", say=said.append).run
    assert any(line.startswith("digit: 0: ") for line in said)
    return found


def lace(call: Call, runs: dict[str, Path], out: Path, *more: Any, judge: str | None = "judge") -> Any:
    known = () if judge is None else ("--classifier", runs[judge])
    done = call("edit", runs["lace"], "--method", "lace", "-o", out, "-q", "--json", *known, *more)
    assert done.code == 0, done.err
    return done.json


def test_the_classifiers_read_latents_they_never_saw(runs: dict[str, Path]) -> None:
    figures = evaluate(str(runs["lace"])).metrics
    assert figures["accuracy-digit"] > 0.5
    assert figures["error-slant"] < 0.2
    assert figures["accuracy-thick"] > 0.8


def test_formulas_become_true(runs: dict[str, Path], tmp_path: Path, call: Call) -> None:
    found = lace(call, runs, tmp_path / "a.npz", "--formula", "digit=0 and not thick", "-n", 24)
    assert found["accuracy"]["after"] > max(0.8, found["accuracy"]["before"] + 0.4)
    assert found["formulas"] == ["digit=0 and not thick=1"]
    assert found["failed"] == []
    assert found["nfe"] > 5
    assert found["des"] is None
    assert {"before", "after"} == set(found["frechet"]) == set(found["norm"]) == set(found["plausibility"])
    assert 0.5 < found["plausibility"]["before"] < 1.5
    with Image.open(found["panel"]) as panel:
        assert panel.height > 3 * 64
    slant = lace(call, runs, tmp_path / "s.npz", "--formula", "slant=0.8", "-n", 40, judge=None)
    assert slant["accuracy"]["after"] > slant["accuracy"]["before"] + 0.1  # a measure judges itself
    assert slant["frechet"] is None


def test_edits_start_from_the_generators_own_samples(
    runs: dict[str, Path], tmp_path: Path, call: Call
) -> None:
    """Held with all force, sample i is sample i of the generator; nor does the batch matter."""
    drawn = sample(runs["generator"], count=6, seed=5, out=tmp_path / "drawn.npz").images
    fixed = ("--formula", "digit=3", "-n", 6, "--seed", 5)
    lace(call, runs, tmp_path / "held.npz", *fixed, "--anchor", 50, "--tolerance", 0.01)
    held = read_samples(tmp_path / "held.npz").array.astype(int)
    assert abs(held - drawn).mean() < 1
    free = lace(call, runs, tmp_path / "free.npz", *fixed)
    assert abs(read_samples(tmp_path / "free.npz").array.astype(int) - drawn).mean() > 5
    parts = lace(call, runs, tmp_path / "parts.npz", *fixed, "--batch-size", 4)
    assert parts["accuracy"] == free["accuracy"]
    apart = read_samples(tmp_path / "parts.npz").array.astype(int) - read_samples(tmp_path / "free.npz").array
    assert abs(apart).max() <= 3


def test_edits_one_after_the_other(runs: dict[str, Path], tmp_path: Path, call: Call) -> None:
    edits = ("--formula", "digit=0", "--formula", "slant=0.7", "--formula", "thick=0")
    found = lace(call, runs, tmp_path / "e.h5", *edits, "-n", 6, "--tolerance", 0.01)
    assert len(found["des"]) == 3
    assert [len(row) for row in found["accuracy_of"].values()] == [4, 4, 4]
    table = list(found["accuracy_of"].values())
    assert found["des"] == pytest.approx(edit_strengths(table))
    assert found["des_relative"] == pytest.approx(relative_strengths(table))
    # `thick` measures what `thickness` does: edited last, and until then not asked for
    assert [set(drift) for drift in found["drift"]] == [
        {"slant", "thickness", "thick"},
        {"thickness", "thick"},
        set(),
    ]
    assert all(0 <= value <= 1 for drift in found["drift"] for value in drift.values())
    with Image.open(found["panel"]) as panel:
        assert panel.height > 5 * 64  # before, two between, after, difference


def test_edit_strength_is_the_change_less_the_largest_other() -> None:
    assert edit_strengths([[0.1, 0.9, 0.8], [0.5, 0.4, 0.9]]) == pytest.approx([0.8 - 0.1, 0.5 - 0.1])
    assert edit_strengths([[0.25, 1.0]]) == [0.75]
    assert relative_strengths([[0.1, 0.9, 0.8], [0.5, 0.4, 0.9]]) == pytest.approx([8 - 0.2, 1.25 - 1 / 9])
    assert relative_strengths([[0.0, 0.9, 0.8], [0.5, 0.4, 0.9]]) == [None, pytest.approx(1.25 - 1 / 9)]


def test_drift_is_how_far_readings_are_apart() -> None:
    """It does not cancel, as changes of accuracy do."""
    assert changed(torch.tensor([0.1, 0.9]), torch.tensor([0.3, 0.7])) == pytest.approx(0.2)
    assert changed(torch.tensor([1, 2, 3, 4]), torch.tensor([1, 2, 4, 3])) == 0.5


@pytest.mark.parametrize("sampler", ["langevin", "rejection", "rejection-ode"])
def test_other_samplers(sampler: str, runs: dict[str, Path], tmp_path: Path, call: Call) -> None:
    found = lace(call, runs, tmp_path / "o.npz", "--formula", "digit=0", "--sampler", sampler, "-n", 30)
    assert found["accuracy"]["after"] > found["accuracy"]["before"] + 0.3
    assert found["sampler"] == sampler


def test_a_collapsing_norm_and_a_contradiction_are_told(
    runs: dict[str, Path], tmp_path: Path, call: Call
) -> None:
    fixed = ("edit", runs["lace"], "--method", "lace", "-n", 8, "-o", tmp_path / "c.npz")
    done = call(*fixed, "--formula", "thick=0", "--sampler", "langevin")
    assert "mean norm fell" in done.err
    done = call(*fixed, "--formula", "digit=1 and digit=2")
    assert done.code == 0
    assert "digit=1 and digit=2 cannot both be" in done.err
    assert "nobody judges digit" in done.err


def test_constants_by_name(runs: dict[str, Path], tmp_path: Path, call: Call) -> None:
    """Each changes what comes out."""
    said = ("--formula", "digit=0 or digit=3", "--formula", "not thick", "-n", 3)
    plain = lace(call, runs, tmp_path / "plain.npz", *said)
    whole = np.load(plain["path"])["arr_0"]
    for change in ("gamma=1", "push=5", "led_by=last", "logit_temperature=4", "reweight=true"):
        other = lace(call, runs, tmp_path / f"{change}.npz", *said, "--set", change)
        assert not np.array_equal(np.load(other["path"])["arr_0"], whole), change
    refused = call("edit", runs["lace"], "--method", "lace", *said, "--set", "truncation=0.5", "-q")
    refused.refused(2, "has no truncation")  # this generator is dp-sinkhorn's


@pytest.mark.parametrize(
    ("switches", "words"),
    [
        (["--formula", "digit=12"], ["formula, column 7", "0 to 9"]),
        (["--formula", "(digit=1"], ["column 1", "never closed", "^"]),
        (["--formula", "digit=1", "--sampler", "odee"], ["--sampler", "ode, langevin, pc, rejection"]),
        (["--formula", "not thick", "--sampler", "rejection"], ["not is a push"]),
        (["--formula", "not thick", "--sampler", "rejection-ode"], ["not is a push"]),
        (["--formula", "digit=1", "--tolerance", "0"], ["must be above 0"]),
        (["--formula", "digit=1", "--set", "steps=3"], ["--set steps", "ode does not read it", "langevin"]),
        (["--formula", "digit=1", "--temperature", "1"], ["--temperature", "ode does not read it"]),
        (["--formula", "digit=1", "--sampler", "pc", "--tolerance", "1"], ["--tolerance", "it is for ode"]),
        (["--formula", "digit=1", "--set", "gama=3"], ["gama", "did you mean gamma?"]),
        (["--formula", "digit=1", "--set", "gamma=0"], ["gamma", "above 0"]),
        (["--formula", "digit=1", "--set", "led_by=some"], ["led_by", "all", "last"]),
        (
            ["--formula", "digit=1", "--sampler", "rejection", "--set", "code_temperature=true"],
            ["--set code_temperature", "densities"],
        ),
        (["--formula", "digit=1", "--layers", "digit=0-3"], ["--layers", "no layers"]),
        (["--formula", "digit=1", "--layers", "0-3"], ["--layers", "digit=0-3"]),
        (["--formula", "digit=1", "--layers", "digit=3-1"], ["--layers", "0-3,6"]),
        (["--formula", "digit=1", "--condition", "3"], ["--condition", "has no classes"]),
        (["--formula", "digit=1", "--formula", "slant=2"], ["formula, column 7", "a number from 0 to 1"]),
        ([], ["--formula", "lace needs it"]),
    ],
)
def test_mistakes(switches: list[str], words: list[str], runs: dict[str, Path], call: Call) -> None:
    call("edit", runs["lace"], "--method", "lace", "-n", 2, "-q", *switches).refused(2, *words)


def test_what_cannot_be_led_or_judged(runs: dict[str, Path], tmp_path: Path, call: Call) -> None:
    fixed = ("--method", "lace", "--formula", "digit=1", "-n", 4, "-q")
    call("edit", runs["generator"], *fixed).refused(2, "no classifiers of attributes")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.png")
    call("edit", runs["lace"], tmp_path / "a.png", *fixed).refused(2, "inverted to a latent first")
    call("edit", runs["lace"], *fixed, "--classifier", runs["labeller"]).refused(2, "labels of digit itself")
    found = lace(
        call, runs, tmp_path / "x.npz", "--formula", "digit=1", "--allow-same-judge", judge="labeller"
    )
    assert found["judge"] == "labeller"
    call("sample", runs["lace"], "-q").refused(2, "draws no samples of its own")
    changes = [f"base={runs['generator']}", "trainer.max_steps=1"]
    call("train", "lace/digits-small", *changes, "--run-dir", tmp_path / "r", "-q").refused(
        2, "classifier/digits-small"
    )


def test_the_run_keeps_its_generator_and_knows_it(runs: dict[str, Path]) -> None:
    module = load_run(runs["lace"])[2]
    assert (runs["lace"] / "base" / "model.safetensors").is_file()
    assert set(module.model.digests()) == {"digit"}  # type: ignore[attr-defined]


def test_a_generator_that_is_not_its_own_is_refused(
    runs: dict[str, Path], tmp_path: Path, call: Call
) -> None:
    """The classifiers know the latents of one generator: beside another's weights the run is not opened."""
    shutil.copytree(runs["lace"], tmp_path / "run")
    weights = tmp_path / "run" / "base" / "model.safetensors"
    tensors, metadata = load_weights(weights)
    save_weights(weights, {name: value + 1 for name, value in tensors.items()}, metadata)
    fixed = ("edit", tmp_path / "run", "--method", "lace", "--formula", "digit=1", "-n", 2, "-q")
    call(*fixed).refused(4, "base")


def broken(runs: dict[str, Path], folder: Path) -> Path:
    """The lace run, its classifiers of digits without numbers."""
    shutil.copytree(runs["lace"], folder)
    tensors, metadata = load_weights(folder / "model.safetensors")
    tensors["heads.digit.weight"][:] = torch.nan
    save_weights(folder / "model.safetensors", tensors, metadata)
    return folder


def test_latents_that_cannot_be_led_are_given_up_and_the_others_are_not(
    runs: dict[str, Path], tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixed = ("--method", "lace", "-q", "--formula", "digit=1", "-n")
    done = call("edit", broken(runs, tmp_path / "run"), *fixed, 3)
    done.refused(1, "not one latent could be led")
    plain = Target.__call__

    def partly(self: Target, z: Tensor) -> Tensor:
        value = plain(self, z)
        return torch.where(torch.arange(len(value)) == 1, torch.nan, value)

    drawn = sample(runs["generator"], count=4, out=tmp_path / "drawn.npz").images
    lace(call, runs, tmp_path / "free.npz", "--formula", "digit=1", "-n", 4)
    monkeypatch.setattr(Target, "__call__", partly)
    found = lace(call, runs, tmp_path / "x.npz", "--formula", "digit=1", "-n", 4)
    assert found["failed"] == [1]
    edited, free = (read_samples(tmp_path / f"{name}.npz").array.astype(int) for name in ("x", "free"))
    assert abs(edited[1] - drawn[1]).max() <= 1  # as it was
    assert abs(edited[[0, 2, 3]] - free[[0, 2, 3]]).max() <= 3


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(runs: dict[str, Path], tmp_path: Path) -> None:
    """The table of labels is made again, the same."""
    changes = [f"base={runs['generator']}", "model.attributes={slant: {source: measure, measure: slant}}"]
    changes += ["model.latents=500", "data.batch_size=64", "trainer.checkpoint_every=10"]
    whole = train("lace/digits-small", [*changes, "trainer.max_steps=20"], run_dir=tmp_path / "whole")
    train("lace/digits-small", [*changes, "trainer.max_steps=10"], run_dir=tmp_path / "parts")
    parts = train(
        "lace/digits-small",
        [*changes, "trainer.max_steps=20"],
        run_dir=tmp_path / "parts",
        resume="auto",
        allow_change=True,
    )
    ends = [load_run(done.run)[2].model.state_dict() for done in (whole, parts)]
    assert parts.steps == 20
    assert all((value == ends[1][name]).all() for name, value in ends[0].items())


def test_the_run_keeps_its_labellers_and_needs_them_nowhere_else(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    """Two attributes of one labeller: a copy. Moved, and the labeller deleted, it is resumed and judged as before."""
    own = tmp_path / "labeller"
    shutil.copytree(runs["labeller"], own)
    read = f"{{source: classifier, run: {own}}}"
    changes = [f"base={runs['generator']}", f"model.attributes={{digit: {read}, again: {read}}}"]
    changes += ["model.latents=300", "data.batch_size=64", "trainer.checkpoint_every=4"]

    def to(steps: int, name: str, resume: str | None = None) -> Path:
        asked = [*changes, f"trainer.max_steps={steps}"]
        return train(
            "lace/digits-small", asked, run_dir=tmp_path / name, resume=resume, allow_change=True
        ).run

    whole = to(8, "whole")
    before = evaluate(str(whole)).metrics
    part = to(4, "part")
    copy = RunFolder(part / "labeller-digit")
    assert [path.name for path in part.glob("labeller-*")] == ["labeller-digit"]
    assert RunFolder(part).read_provenance()["labeller-digit"]["sha256"] == fingerprint(copy.weights)
    with open(own / "model.safetensors", "ab") as file:
        file.write(b" ")
    with pytest.raises(UserError, match="not those this run began with") as refused:
        to(8, "part", "auto")
    assert refused.value.where == "model.attributes.digit.run"
    shutil.rmtree(own)
    part.rename(tmp_path / "moved")
    ends = [load_run(run)[2].model.state_dict() for run in (whole, to(8, "moved", "auto"))]
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
    assert evaluate(str(tmp_path / "moved")).metrics == before


def test_an_edit_of_some_layers_alone(tmp_path: Path, call: Call) -> None:
    """The latents are led alike; the picture takes them up in those layers, and keeps the sample's in the others."""
    thin = ["model.network={latent: 8, style: 8, layers: 1, channel_base: 64, channel_max: 8}"]
    thin += ["model.discriminator={channel_base: 64, channel_max: 8}", "trainer.max_steps=1"]
    base = train("stylegan2/digits8-small", thin, run_dir=tmp_path / "generator").run
    changes = [f"base={base}", "model.attributes={slant: {source: measure, measure: slant}}"]
    changes += ["model.latents=200", "trainer.max_steps=20", "optimizer.warmup=0"]
    run = train("lace/digits-small", changes, run_dir=tmp_path / "lace").run
    found = {}
    for name, layers in {
        "all": (),
        "none": ("--layers", "slant=0"),
        "same": ("--layers", "slant=0-3"),
    }.items():
        out = tmp_path / f"{name}.h5"
        done = call(
            "edit", run, "--method", "lace", "--formula", "slant=1", "-n", 3, "-o", out, "--json", *layers
        )
        assert done.code == 0, done.err
        found[name] = read_samples(out)
    assert np.array_equal(found["all"].array, found["same"].array)
    assert not np.array_equal(found["all"].array, found["none"].array)
    assert found["none"].provenance["edit"]["layers"] == {"slant": [0]}
