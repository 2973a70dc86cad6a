"""gentool evaluate: a run or a samples file, the report it writes, and what it refuses before it draws."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from gentool.data import make_config, open_set
from gentool.runs.folder import RunFolder
from gentool.runs.samples import write_samples
from gentool.tasks.evaluate import evaluate, unlabelled
from gentool.tasks.evaluation.likelihood import bits_per_dim
from gentool.tasks.model.load import load_run, stored_recipe
from gentool.tasks.sample import sample
from tests.tasks.runs import Call

CHEAP = ("--features", "pixels", "--metric", "fid", "--metric", "precision-recall")


@pytest.fixture
def run(whole_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of the test's own, with a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return shutil.copytree(whole_run, tmp_path / "run", ignore=shutil.ignore_patterns("samples"))


def digits(count: int, split: str = "test") -> tuple[np.ndarray, np.ndarray]:
    batch = open_set(make_config("digits", {}), split).take(range(count))  # type: ignore[arg-type]
    return batch.x.permute(0, 2, 3, 1).numpy(), batch.label.numpy()


def test_a_run_is_judged_and_keeps_its_figures(run: Path, call: Call) -> None:
    done = call("evaluate", run, *CHEAP, "-n", 40, "--json")
    assert done.code == 0, done.err
    found = done.json
    assert found.keys() >= {"metrics", "features", "reference", "count"}
    assert found["metrics"].keys() == {"fid", "precision", "recall"}
    assert all(math.isfinite(value) for value in found["metrics"].values())
    assert (found["features"], found["reference"], found["count"]) == ("pixels", "digits", 40)
    page = Path(found["report"])
    assert page == run / "report.html"
    text = page.read_text()
    assert "<script" not in text
    for word in ("fid", "pixels", "digits", "film-mlp"):
        assert word in text
    assert json.loads((run / "evaluation.json").read_text())["metrics"] == found["metrics"]
    assert "features `pixels`, reference `digits`, 40 samples" in (run / "README.md").read_text()


def test_labels_are_asked_of_an_unconditional_run_before_it_draws(run: Path) -> None:
    """Unless a classifier guides it: then the samples have that classifier's labels."""
    resolved = stored_recipe(RunFolder.open(run))
    assert not unlabelled(resolved, {})
    model = resolved.recipe.model.model_copy(update={"conditional": False})
    plain = dataclasses.replace(resolved, recipe=resolved.recipe.model_copy(update={"model": model}))
    assert unlabelled(plain, {})
    assert not unlabelled(plain, {"guidance": {"classifier": {"run": "judge"}}})


def test_the_runs_samples_are_judged_as_the_run_is(run: Path, tmp_path: Path) -> None:
    """A samples file carries the recipe: neither the reference nor the metrics need to be said again."""
    by_run = evaluate(str(run), metrics=("fid",), features="pixels", count=30, seed=4)
    file = sample(run, count=30, seed=4, out=tmp_path / "s.npz").path
    by_file = evaluate(str(file), metrics=("fid",), features="pixels")
    assert by_file.metrics == pytest.approx(by_run.metrics, rel=1e-3)
    assert by_file.document()["reference"] == "digits"


def test_report_goes_where_it_is_told_and_the_table_to_standard_output(
    run: Path, tmp_path: Path, call: Call
) -> None:
    file = sample(run, count=20, out=tmp_path / "s.h5").path
    done = call("evaluate", file, *CHEAP, "--report", tmp_path / "page.html")
    assert done.code == 0, done.err
    assert (tmp_path / "page.html").is_file()
    rows = [line.split() for line in done.out.splitlines()]
    assert rows[0] == ["METRIC", "VALUE"]
    assert [row[0] for row in rows[1:]] == ["fid", "precision", "recall"]
    assert "digits, 1438 examples; 20 samples" in done.err


def test_files_of_other_tools_need_a_reference(run: Path, tmp_path: Path, call: Call) -> None:
    images, labels = digits(100)
    path = write_samples(tmp_path / "other.npz", images, labels)
    call("evaluate", path, *CHEAP).refused(2, "--reference")
    real = call("evaluate", path, *CHEAP, "--reference", "digits", "--json").json["metrics"]
    drawn = call("evaluate", run, *CHEAP, "-n", 100, "--json").json["metrics"]
    assert real["fid"] < drawn["fid"]  # sixty steps of training make no digits
    assert real["precision"] > 0.8


def test_labels_of_samples_reach_the_judges(run: Path, tmp_path: Path) -> None:
    images, labels = digits(200)
    right = write_samples(tmp_path / "right.npz", images, labels)
    wrong = write_samples(tmp_path / "wrong.npz", images, (labels + 1) % 10)
    found = [
        evaluate(str(path), reference="digits", metrics=("label-accuracy",)).metrics["label-accuracy"]
        for path in (right, wrong)
    ]
    assert found[0] > 0.95
    assert found[1] < 0.1


def test_bits_per_dimension_of_a_run(run: Path, call: Call) -> None:
    """Alone it draws nothing; it is a mean with its error, and does not depend on how the images are batched."""
    found = call("evaluate", run, "--metric", "bits-per-dim", "--json").json
    assert found["samples"] is None
    assert found["metrics"].keys() == {"bits-per-dim"}
    detail = found["details"]["bits-per-dim"]
    assert detail["split"] == "test"
    assert detail["standard_error"] > 0
    module = load_run(run)[2]
    few, _ = bits_per_dim(module, count=4)
    whole = [bits_per_dim(module, count=k)[0] * k for k in (3, 4)]
    assert few == pytest.approx(whole[1] / 4, rel=1e-6)
    assert 0 < few < 20


def test_evaluation_is_repeatable(run: Path) -> None:
    first, again = (
        evaluate(str(run), metrics=("fid", "kid"), features="pixels", count=30).metrics for _ in "ab"
    )
    assert first == again


@pytest.mark.parametrize(
    ("switches", "words"),
    [
        (["--metric", "fdi"], ["unknown metric 'fdi'", "did you mean fid"]),
        (["--features", "pixles"], ["unknown feature extractor", "did you mean pixels"]),
        (["--features", "pixels", "--metric", "label-accuracy"], ["label-accuracy needs classes"]),
        (["--reference", "digitz"], ["neither a data set", "did you mean digits"]),
        (["-n", "1"], ["-n"]),
        (["--features", "inception", "--metric", "fid"], ["needs a weights file", "GENTOOL_INCEPTION"]),
        (["--features", "values", "--metric", "fid"], ["is for vectors"]),
        (["--reference", "digits pad=16"], ["figures between them mean nothing"]),
        (["--report", "report.pdf"], ["--report", "expected a .html file"]),
    ],
)
def test_refusals_come_before_any_sample_is_drawn(
    switches: list[str], words: list[str], run: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gentool.tasks.sampling.draw.draw_span", None)
    monkeypatch.delenv("GENTOOL_INCEPTION", raising=False)
    call("evaluate", run, *switches).refused(2, *words)
    assert not (run / "samples").exists()


def test_targets_that_cannot_be_judged(run: Path, tmp_path: Path, call: Call) -> None:
    images, _ = digits(10)
    call("evaluate", tmp_path / "nosuch").refused(2, "no such run folder or samples file")
    picture = write_samples(tmp_path / "grid.png", images)
    call("evaluate", picture).refused(2, "cannot be read back")
    path = write_samples(tmp_path / "some.npz", images)
    call("evaluate", path, "--reference", "digits", "-n", 11, *CHEAP).refused(2, "the file holds 10 samples")
    call("evaluate", path, "--reference", "digits", "--metric", "bits-per-dim").refused(
        2, "give the run folder"
    )
    cloud = write_samples(tmp_path / "cloud.npz", np.zeros((10, 5, 3), np.float32))
    call("evaluate", cloud, "--reference", "digits", *CHEAP).refused(2, "clouds of 5 points")
    cut = tmp_path / "cut.npz"
    cut.write_bytes(path.read_bytes()[:-200])
    call("evaluate", cut, "--reference", "digits", *CHEAP).refused(4, "cut.npz")


def test_vectors_are_judged_by_their_values(tmp_path: Path, call: Call) -> None:
    """The recipe of the plane names metrics and features that fit it."""
    run = tmp_path / "run"
    small = ("data.count=500", "trainer.max_steps=5", "sample.count=100", "evaluate.count=100")
    assert call("train", "edm/toy2d-small", *small, "--run-dir", run).code == 0
    done = call("evaluate", run, "--json")
    assert done.code == 0, done.err
    assert all(math.isfinite(value) for value in done.json["metrics"].values())
    assert done.json["count"] == 100
