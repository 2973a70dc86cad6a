"""Named samplers of a recipe: a preset is this block with other keys, and is checked with the recipe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gentool import families
from gentool.errors import RecipeError, UserError
from gentool.recipes.resolve import Resolved, resolve_text
from gentool.runs.atomic import write_text
from gentool.runs.folder import RunFolder
from gentool.runs.samples import read_samples
from gentool.tasks.sample import sample
from tests.tasks.runs import Call

PRESETS = {
    "fid": {"steps": 3, "options": {"s_churn": 10.0, "s_noise": 1.01}},
    "acc": {"solver": "ddim", "steps": 4, "denoise": True},
}


def with_presets(presets: object) -> Resolved:
    block = {"solver": "edm", "steps": 5, "options": {"s_churn": 20.0}, "count": 2, "presets": presets}
    text = f"family: edm\ndata: {{name: digits}}\nmodel: {{network: {{name: film-mlp}}}}\nsample: {json.dumps(block)}\n"
    return resolve_text(text, "here", families.recipe_schema)


@pytest.fixture
def run(whole_run: Path, tmp_path: Path) -> Path:
    """A trained run whose recipe has presets."""
    there, here = RunFolder.open(whole_run), RunFolder(tmp_path / "run")
    here.create()
    for name in ("weights", "provenance"):
        source: Path = getattr(there, name)
        getattr(here, name).write_bytes(source.read_bytes())
    lines = there.recipe.read_text().splitlines()
    lines[lines.index("  presets: {}")] = f"  presets: {json.dumps(PRESETS)}"
    write_text(here.recipe, "\n".join(lines) + "\n")
    return here.path


def test_another_solver_takes_nothing_of_what_the_recipe_says_for_its_own(
    run: Path, tmp_path: Path, call: Call
) -> None:
    here = RunFolder(run)
    text = here.recipe.read_text()
    for old, new in (("solver: ", "solver: edm #"), ("options: {}", 'options: {"s_churn": 20.0}')):
        assert f"\n  {old}" in text
        text = text.replace(f"\n  {old}", f"\n  {new}", 1)
    write_text(here.recipe, text.replace("\n  grid_options: {}", '\n  grid_options: {"rho": 5.0}'))

    def manifest(*switches: str) -> dict[str, Any]:
        out = tmp_path / "s.npz"
        done = call("sample", run, "-n", 1, "--steps", 3, "-o", out, *switches)
        assert done.code == 0, done.err
        return dict(read_samples(out).provenance["manifest"])

    own, other = manifest(), manifest("--solver", "ddim")
    assert (own["solver"], own["options"]["s_churn"]) == ("edm", 20.0)
    assert (other["solver"], other["grid"], other["options"]["eta"]) == ("ddim", "power-t", 0.0)
    asked = manifest(
        "--solver", "ddim", "--grid", "karras", "--set", "grid_options.rho=5", "--option", "eta=0.5"
    )
    assert (asked["grid"], asked["options"]["eta"]) == ("karras", 0.5)
    call("sample", run, "--solver", "ddim", "--set", "grid_options.rho=5").refused(2, "unknown option 'rho'")
    call("sample", run, "--grid", "karras", "--set", "grid_options.rho=-1").refused(
        2, "sample.grid_options.rho"
    )


def test_a_preset_is_the_same_as_its_keys_said_one_by_one(run: Path, tmp_path: Path) -> None:
    named = sample(run, count=3, preset="fid", out=tmp_path / "a.npz")
    said = sample(run, count=3, settings=PRESETS["fid"], out=tmp_path / "b.npz")
    plain = sample(run, count=3, out=tmp_path / "c.npz")
    assert np.array_equal(named.images, said.images)
    assert not np.array_equal(named.images, plain.images)


def test_what_is_said_beside_a_preset_wins(run: Path, tmp_path: Path, call: Call) -> None:
    out = tmp_path / "s.npz"
    done = call("sample", run, "-n", 2, "--preset", "acc", "--steps", 6, "-o", out, "--json")
    assert done.code == 0, done.err
    assert (done.json["solver"], done.json["nfe"]) == ("ddim", 7)
    used = json.loads(read_samples(out).provenance["sample"])
    assert (used["solver"], used["steps"], used["denoise"], used["presets"]) == ("ddim", 6, True, {})


def test_a_preset_with_its_own_solver_takes_nothing_of_the_others_options() -> None:
    block = with_presets(PRESETS).recipe.sample
    assert block.preset("acc") == {
        "grid": None,
        "grid_options": {},
        "options": {},
        "afs": False,
        "denoise": True,
        "solver": "ddim",
        "steps": 4,
    }
    assert block.preset("fid") == PRESETS["fid"]


def test_an_unknown_preset_names_those_there_are(run: Path, whole_run: Path, call: Call) -> None:
    call("sample", run, "--preset", "fit").refused(2, "no preset 'fit'", "did you mean fid?", "fid, acc")
    call("sample", whole_run, "--preset", "fid").refused(2, "no preset 'fid'", "the recipe has none")
    with pytest.raises(UserError):
        with_presets({}).recipe.sample.preset("fid")


@pytest.mark.parametrize(
    ("preset", "words"),
    [
        ({"stepz": 3}, "a.stepz: unknown key; did you mean steps?"),
        ({"steps": 0}, "a.steps: Input should be greater than 0"),
        ({"solver": "heunn"}, "did you mean heun?"),
        ({"solver": "ddim", "options": {"s_churn": 1.0}}, "unknown option 's_churn' of solver ddim"),
        ({"presets": {}}, "a.presets: unknown key"),
    ],
)
def test_a_faulty_preset_is_refused_with_the_recipe(preset: dict[str, object], words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        with_presets({"a": preset})
    assert words in str(caught.value)
    assert "here:4" in str(caught.value)
    assert "sample.presets" in str(caught.value)


def test_presets_survive_the_resolved_text() -> None:
    first = with_presets(PRESETS)
    assert resolve_text(first.text, "here", families.recipe_schema).recipe == first.recipe
