"""Runs of the family lion from the command line: two stages, resuming in either, samples, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from gentool.errors import UserError
from gentool.runs import checkpoints
from gentool.runs.samples import read_samples
from gentool.runs.weights import load_weights
from gentool.tasks.model.load import load_run
from gentool.tasks.train import train
from tests.families.lion_runs import recipe, spheres
from tests.tasks.runs import Call


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clouds, a recipe `plain.yaml` of four steps a stage and `told.yaml`, conditional."""
    made = tmp_path_factory.mktemp("lion")
    data = spheres(made / "spheres.npz")
    (made / "plain.yaml").write_text(recipe(data))
    (made / "told.yaml").write_text(recipe(data, ", conditional: true, mixed: true"))
    return made


@pytest.fixture(scope="module")
def whole(folder: Path) -> Path:
    """A conditional run; tests only read it."""
    return train(str(folder / "told.yaml"), run_dir=folder / "whole").run


# --- training ---


@pytest.mark.parametrize("stop", [2, 4, 6])
def test_a_stopped_run_goes_on_bit_for_bit_in_either_stage(
    stop: int, folder: Path, whole: Path, tmp_path: Path
) -> None:
    run, text = tmp_path / "run", str(folder / "told.yaml")
    train(text, [f"trainer.max_steps={stop}"], run_dir=run)
    train(text, run_dir=run, resume="auto")
    assert (run / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    ours, theirs = (checkpoints.newest(path / "checkpoints")[0] for path in (run, whole))
    assert ours is not None
    assert theirs is not None
    for a, b in zip(
        ours["optimizers"][0]["state"].values(), theirs["optimizers"][0]["state"].values(), strict=True
    ):
        assert torch.equal(a["exp_avg"], b["exp_avg"])


def test_each_stage_trains_its_own_weights(folder: Path, tmp_path: Path) -> None:
    text, states = str(folder / "plain.yaml"), []
    for steps in (3, 4, 8):
        run = train(text, [f"trainer.max_steps={steps}", "ema=null"], run_dir=tmp_path / f"{steps}").run
        states.append(load_weights(run / "model.safetensors")[0])
    before, border, after = states

    def differ(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], part: str) -> bool:
        return any(not torch.equal(a[k], b[k]) for k in a if k.startswith(part))

    assert differ(before, border, "autoencoder")
    assert not differ(before, border, "priors")
    assert not differ(border, after, "autoencoder")
    assert differ(border, after, "priors.style")
    assert differ(border, after, "priors.points")


def test_the_average_follows_the_priors_alone(folder: Path, tmp_path: Path) -> None:
    run = train(
        str(folder / "plain.yaml"), ["ema={rule: constant, decay: 0.5}"], run_dir=tmp_path / "run"
    ).run
    released, state = load_weights(run / "model.safetensors")[0], checkpoints.newest(run / "checkpoints")[0]
    assert state is not None
    for name, value in released.items():
        own = state["module"][f"model.{name}"]
        if name.startswith("autoencoder"):
            assert torch.equal(value, own)
        else:
            assert torch.equal(value, state["ema"]["values"][name.removeprefix("priors.")])
    assert any(
        not torch.equal(value, state["module"][f"model.{name}"])
        for name, value in released.items()
        if name.startswith("priors")
    )


def test_the_log_tells_how_the_autoencoder_does(whole: Path) -> None:
    rows = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4, 6, 8]
    for row in rows:
        assert row["points_std"] == pytest.approx(np.exp(-6), rel=0.05)
        assert 0 <= row["reconstruction_cd"] < 1e-3
        assert row["style_std"] == pytest.approx(1, abs=0.05)


def test_priors_without_steps_are_told_of(folder: Path, tmp_path: Path) -> None:
    said: list[str] = []
    train(str(folder / "plain.yaml"), ["trainer.max_steps=4"], run_dir=tmp_path / "run", say=said.append)
    assert any("no step is left for the priors" in line for line in said)


# --- sampling ---


def test_a_model_of_fewer_points_than_the_data_hold_is_judged_and_edits_with_its_own(
    folder: Path, tmp_path: Path, call: Call
) -> None:
    """Training chooses 8 of 24 points; samples, references and edited shapes of the data set have 8."""
    run = train(str(folder / "plain.yaml"), ["model.points=8"], run_dir=tmp_path / "run").run
    done = call("evaluate", run, "--json")
    assert done.code == 0, done.err
    assert done.json["metrics"].keys() == {"1-nna-cd", "mmd-cd", "cov-cd"}
    assert "held against as many first ones" in done.err
    assert read_samples(done.json["samples"]).array.shape == (4, 8, 3)
    out = tmp_path / "x.h5"
    done = call("edit", run, "npz", "--method", "interpolate", "--frames", 3, "--set", "steps=2", "-o", out)
    assert done.code == 0, done.err
    assert read_samples(out).array.shape == (3, 8, 3)


@pytest.mark.parametrize("name", ["x.ply", "x.npz", "x.h5"])
def test_samples_are_clouds_in_every_format(name: str, whole: Path, tmp_path: Path, call: Call) -> None:
    done = call("sample", whole, "-n", 3, "--guidance", "cfg=2.0", "-o", tmp_path / name, "--json")
    assert done.code == 0, done.err
    document = json.loads(done.out)
    assert document["nfe"] == 12  # three steps, two latents, two predictions
    found = read_samples(tmp_path / name)
    assert found.array.shape == (3, 24, 3)
    assert found.array.dtype == np.float32
    assert found.labels is not None
    assert found.labels.tolist() == [0, 1, 0]


@pytest.mark.parametrize("solver", ["ddpm", "dpmpp-2m", "edm", "unipc", "dpm-adaptive"])
def test_any_solver_of_predictions_samples_both_latents(
    solver: str, whole: Path, tmp_path: Path, call: Call
) -> None:
    chosen = ["--set", "grid=log-snr", "--set", "options={}", "--steps", 2]
    done = call("sample", whole, "-n", 2, "--solver", solver, *chosen, "-o", tmp_path / "x.h5", "--json")
    assert done.code == 0, done.err
    assert np.isfinite(read_samples(tmp_path / "x.h5").array).all()


def test_one_step_is_possible(whole: Path, tmp_path: Path, call: Call) -> None:
    """The published spacing divides by the steps less one."""
    done = call("sample", whole, "-n", 2, "--steps", 1, "-o", tmp_path / "x.h5", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["nfe"] == 2


def test_the_batch_changes_no_sample(whole: Path, tmp_path: Path, call: Call) -> None:
    for size in (1, 4):
        call("sample", whole, "-n", 4, "--batch-size", size, "-o", tmp_path / f"{size}.h5", "-q")
    one, four = (read_samples(tmp_path / f"{size}.h5").array for size in (1, 4))
    np.testing.assert_allclose(one, four, atol=1e-4)


# --- vectors ---


def vectors(path: Path, rows: int, dim: int = 3) -> Path:
    np.savez(path, arr_0=np.random.default_rng(0).normal(size=(rows, dim)).astype(np.float32))
    return path


def test_priors_are_told_vectors_in_turn(folder: Path, tmp_path: Path, call: Call) -> None:
    """36 clouds train, a tenth is held out; samples take the rows of their own file by their index."""
    table = vectors(tmp_path / "train.npz", 36)
    text = tmp_path / "v.yaml"
    text.write_text(
        recipe(folder / "spheres.npz", f", vectors: {{path: {table}, dim: 3}}, label_dropout: 0.5")
    )
    run = train(str(text), ["optimizer.lr=0.05", "optimizer.warmup=0"], run_dir=tmp_path / "run").run
    refused = call("sample", run, "-n", 2, "-o", tmp_path / "x.h5")
    assert refused.code == 2
    assert "sample.vectors: these priors are told a vector" in refused.err
    two = vectors(tmp_path / "two.npz", 2)
    done = call(
        "sample", run, "-n", 3, "--set", f"vectors={two}", "--guidance", "cfg=3", "-o", tmp_path / "x.h5"
    )
    assert done.code == 0, done.err
    again = call("sample", run, "-n", 3, "--set", f"vectors={table}", "-o", tmp_path / "y.h5")
    assert again.code == 0, again.err
    x, y = (read_samples(tmp_path / f"{name}.h5").array for name in "xy")
    assert np.abs(x - y).max() > 1e-4


@pytest.mark.parametrize(
    ("rows", "dim", "said"), [(35, 3, "35 rows; expected 36"), (36, 4, "expected rows of 3 floats")]
)
def test_a_wrong_table_of_vectors(rows: int, dim: int, said: str, folder: Path, tmp_path: Path) -> None:
    table = vectors(tmp_path / "train.npz", rows, dim)
    text = tmp_path / "v.yaml"
    text.write_text(recipe(folder / "spheres.npz", f", vectors: {{path: {table}, dim: 3}}"))
    with pytest.raises(UserError, match=said):
        train(str(text), run_dir=tmp_path / "run")


def test_a_vector_that_is_not_finite(folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "t.npz"
    np.savez(table, arr_0=np.full((36, 3), np.nan, np.float32))
    text = tmp_path / "v.yaml"
    text.write_text(recipe(folder / "spheres.npz", f", vectors: {{path: {table}, dim: 3}}"))
    with pytest.raises(UserError, match="row 0 holds NaN"):
        train(str(text), run_dir=tmp_path / "run")


# --- sentences ---


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe of priors that are told sentences, stopped in the second stage and gone on with in a run beside it."""
    made = tmp_path_factory.mktemp("described")
    text = recipe(made, ", text: true, label_dropout: 0.5").replace(
        f"{{name: npz, path: {made}, batch_size: 8}}", "{name: shapes, points: 24, count: 6, batch_size: 8}"
    )
    (made / "text.yaml").write_text(text + "optimizer: {name: adam, lr: 0.05}\n")
    train(str(made / "text.yaml"), ["trainer.max_steps=6"], run_dir=made / "run")
    train(str(made / "text.yaml"), run_dir=made / "run", resume="auto")
    return made


def test_a_run_that_is_told_sentences_goes_on_bit_for_bit(described: Path, tmp_path: Path) -> None:
    train(str(described / "text.yaml"), run_dir=tmp_path / "whole")
    ours, theirs = (path / "model.safetensors" for path in (described / "run", tmp_path / "whole"))
    assert ours.read_bytes() == theirs.read_bytes()


def test_samples_follow_the_sentences_in_turn(described: Path, tmp_path: Path, call: Call) -> None:
    def drawn(*words: str) -> np.ndarray:
        done = call("sample", described / "run", "-n", 3, *words, "-o", tmp_path / "x.h5")
        assert done.code == 0, done.err
        return read_samples(tmp_path / "x.h5").array

    both = drawn("--set", "text=a chair with two arms; airplane")
    chairs, airplanes = drawn("--set", "text=two arms and chair"), drawn("--set", "text=airplane")
    np.testing.assert_array_equal(both[[0, 2]], chairs[[0, 2]])
    np.testing.assert_array_equal(both[1], airplanes[1])
    assert np.abs(chairs - airplanes).max() > 1e-4
    assert np.abs(chairs - drawn()).max() > 1e-4  # told nothing
    assert np.abs(chairs - drawn("--set", "text=chair, two arms", "--guidance", "cfg=3")).max() > 1e-4


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--set", "text=a chair with wheels"), "sample.text: unknown phrase 'wheels'"),
        (("--set", "text=chair; "), "says nothing"),
        (("--guidance", "cfg=3"), "guidance has nothing to lead to"),
        (("--set", "vectors=x.npz"), "the priors see no vectors"),
    ],
)
def test_what_cannot_be_said(
    options: tuple[str, ...], said: str, described: Path, tmp_path: Path, call: Call
) -> None:
    done = call("sample", described / "run", "-n", 2, *options, "-o", tmp_path / "x.h5")
    assert done.code == 2, done.err
    assert said in done.err


# --- fine-tuned encoders ---


def test_only_the_encoders_are_fine_tuned(folder: Path, tmp_path: Path) -> None:
    start = train(str(folder / "plain.yaml"), run_dir=tmp_path / "start").run
    text = tmp_path / "g.yaml"
    more = f", guided: {{start: {start}, input: {{name: voxels, size: 0.5}}}}"
    text.write_text(recipe(folder / "spheres.npz", more))
    run = train(str(text), run_dir=tmp_path / "run").run
    old, new = (load_weights(path / "model.safetensors")[0] for path in (start, run))
    for name, value in new.items():
        frozen = name.startswith(("priors", "autoencoder.decoder"))
        if frozen:
            assert torch.equal(value, old[name]), name
    for part in ("autoencoder.encoder", "autoencoder.style_encoder"):
        assert any(not torch.equal(new[name], old[name]) for name in new if name.startswith(part))
    # and stopped in the middle it goes on, without the run it began with
    half = train(str(text), ["trainer.max_steps=3"], run_dir=tmp_path / "half").run
    (start / "model.safetensors").unlink()
    train(str(text), run_dir=half, resume="auto")
    assert (half / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()


# --- what is refused ---


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (("model.vae.encoder.head=12",), "multiple of 8"),
        (("model.style=9",), "model.style"),
        (("privacy={epsilon: 10}",), "two stages train different"),
        (("trainer.strategy=fsdp",), "take|use ddp"),
        (("optimizer.name=adamw",), "both stages share one rule"),
        (("optimizer.name=sgd", "vae_optimizer.name=sgd"), "adam or adamw"),
        (("sample.vectors=x.npz",), "the priors see no vectors"),
        (("sample.text=chair",), "the priors see no sentences"),
        (("model.text=true",), "the examples of npz have no sentences"),
        (("model.text=true", "model.conditional=true"), "exclude each other"),
        (("sample.solver=sscs",), "no velocity"),
        (("model.conditional=true", "model.vectors={path: x.npz, dim: 3}"), "exclude each other"),
        (("model.guided={start: x, input: {name: fog}}",), "fog"),
        (("data={name: digits}",), "models clouds of points; digits is image data"),
        (("model.guided={start: nowhere}",), "no such run folder"),
        (("model.vectors={path: nowhere.npz, dim: 3}",), "no such file"),
    ],
)
def test_bad_settings_end_in_one_clear_error(
    changes: tuple[str, ...], said: str, folder: Path, tmp_path: Path, call: Call
) -> None:
    done = call("train", folder / "plain.yaml", *changes, "--run-dir", tmp_path / "run")
    assert done.code == 2, done.err
    assert "Traceback" not in done.err
    import re

    assert re.search(said, done.err), done.err


def test_a_start_of_other_networks_or_another_family(
    folder: Path, whole: Path, tmp_path: Path, call: Call
) -> None:
    text = tmp_path / "g.yaml"
    text.write_text(recipe(folder / "spheres.npz", f", guided: {{start: {whole}}}"))
    done = call("train", text, "--run-dir", tmp_path / "run")
    assert done.code == 2
    assert "has other networks than this recipe" in done.err


def test_labels_are_asked_for_where_there_are_none(tmp_path: Path, call: Call) -> None:
    data = spheres(tmp_path / "s.npz")
    np.savez(data, arr_0=np.load(data)["arr_0"])
    text = tmp_path / "c.yaml"
    text.write_text(recipe(data, ", conditional: true"))
    done = call("train", text, "--run-dir", tmp_path / "run")
    assert done.code == 2
    assert "model.conditional" in done.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--solver", "ttm2", "--set", "options={}"), "discrete levels alone"),
        (("--guidance", "pag"), "no self-attention"),
        (("--set", "threshold=static"), "for images"),
        (("--set", "vectors=x.npz"), "the priors see no vectors"),
    ],
)
def test_bad_requests_end_in_one_clear_error(
    options: tuple[str, ...], said: str, whole: Path, tmp_path: Path, call: Call
) -> None:
    done = call("sample", whole, "-n", 2, *options, "-o", tmp_path / "x.h5")
    assert done.code == 2, done.err
    assert said in done.err


def test_guidance_without_labels_is_refused(folder: Path, tmp_path: Path, call: Call) -> None:
    run = train(str(folder / "plain.yaml"), ["trainer.max_steps=1"], run_dir=tmp_path / "run").run
    done = call("sample", run, "-n", 2, "--guidance", "cfg=2", "-o", tmp_path / "x.h5")
    assert done.code == 2
    assert "trained without labels" in done.err
    _, _, module = load_run(run)
    assert module.sampling_means() == {"data", "time", "adaptive"}
