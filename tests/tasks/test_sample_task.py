"""gentool sample: the same samples however the work is split, every switch, every output, every refusal."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gentool.diffusion.solvers.catalog import SOLVERS
from gentool.errors import UserError
from gentool.runs.samples import read_samples
from gentool.tasks.model.load import load_run
from gentool.tasks.sample import sample
from tests.tasks.runs import Call

STOCHASTIC = {"solver": "edm", "options": {"s_churn": 20.0}, "steps": 5}


def draw(run: Path, out: Path, **how: object) -> np.ndarray:
    settings = {**STOCHASTIC, **how.pop("settings", {})}  # type: ignore[dict-item]
    return sample(run, out=out / "s.h5", settings=settings, **{"count": 11, "seed": 3, **how}).images  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [1, 4, 64])
def test_samples_do_not_depend_on_the_batch_size(size: int, whole_run: Path, tmp_path: Path) -> None:
    whole = draw(whole_run, tmp_path, settings={"batch_size": 11}).astype(int)
    parts = draw(whole_run, tmp_path, settings={"batch_size": size}).astype(int)
    assert np.abs(whole - parts).max() <= 1  # a level, where rounding falls the other way


def test_samples_do_not_depend_on_how_many_are_asked_for(whole_run: Path, tmp_path: Path) -> None:
    many, few = draw(whole_run, tmp_path, count=11), draw(whole_run, tmp_path, count=4)
    assert np.abs(many[:4].astype(int) - few).max() <= 1


def test_two_processes_draw_what_one_draws(whole_run: Path, tmp_path: Path) -> None:
    one = draw(whole_run, tmp_path, settings={"batch_size": 3})
    two = draw(whole_run, tmp_path, settings={"batch_size": 3}, devices=2)
    assert np.array_equal(one, two)


def test_the_seed_fixes_the_samples(whole_run: Path, tmp_path: Path) -> None:
    first, again, other = (draw(whole_run, tmp_path, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert (first != other).mean() > 0.5


def test_labels_are_taken_in_turn(whole_run: Path, tmp_path: Path) -> None:
    made = {
        label: sample(whole_run, count=6, label=label, out=tmp_path / "s.npz")
        for label in (None, "7", "3, 5")
    }
    assert [made[label].labels.tolist() for label in made] == [  # type: ignore[union-attr]
        [0, 1, 2, 3, 4, 5],
        [7] * 6,
        [3, 5, 3, 5, 3, 5],
    ]
    assert read_samples(tmp_path / "s.npz").labels.tolist() == [3, 5, 3, 5, 3, 5]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("switches", "nfe"),
    [
        (["--solver", "dpmpp-2m", "--steps", "3"], 3),
        (["--solver", "edm", "--steps", "3", "--option", "s_churn=10", "--option", "s_noise=1.01"], 5),
        (["--solver", "ddim", "--steps", "4", "--option", "eta=0.5", "--grid", "karras"], 4),
        (["--solver", "euler", "--steps", "2", "--guidance", "cfg=2"], 4),
        (["--solver", "euler", "--steps", "2", "--guidance", "cfg=1"], 2),
        (["--solver", "euler", "--steps", "2", "--guidance", "apg=3", "--threshold", "static"], 4),
        (["--solver", "unipc", "--steps", "3", "--threshold", "dynamic"], 3),
    ],
)
def test_switches(switches: list[str], nfe: float, whole_run: Path, tmp_path: Path, call: Call) -> None:
    done = call("sample", whole_run, "-n", 2, "-o", tmp_path / "s.npz", "--seed", 5, "--json", *switches)
    assert done.code == 0, done.err
    found = done.json
    assert found.keys() >= {"path", "count", "nfe", "seconds", "solver", "seed"}
    assert (found["count"], found["nfe"], found["seed"], found["solver"]) == (2, nfe, 5, switches[1])
    used = json.loads(read_samples(tmp_path / "s.npz").provenance["sample"])
    assert used["solver"] == switches[1]
    assert used["steps"] == int(switches[3])


@pytest.mark.parametrize("name", SOLVERS.names())
def test_every_solver_draws_from_a_trained_run_or_says_why_not(
    name: str, whole_run: Path, tmp_path: Path
) -> None:
    if reason := load_run(whole_run)[2].usable_solvers()[name]:
        with pytest.raises(UserError, match=re.escape(reason.removeprefix("it "))):
            sample(whole_run, count=3, out=tmp_path / "s.npz", settings={"solver": name, "steps": 6})
        return
    drawn = sample(whole_run, count=3, out=tmp_path / "s.npz", settings={"solver": name, "steps": 6})
    assert drawn.images.shape == (3, 8, 8, 1)
    assert drawn.images.std() > 0
    assert drawn.nfe >= 6


@pytest.mark.parametrize(
    ("switches", "words"),
    [
        (["--solver", "dpmp-2m"], ["unknown solver", "did you mean dpm"]),
        (["--solver", "euler", "--option", "eta=1"], ["unknown option 'eta' of solver euler"]),
        (["--solver", "ddim", "--option", "eta"], ["expected KEY=VALUE"]),
        (["--solver", "ddim", "--option", "eta=much"], ["eta"]),
        (["--grid", "karas"], ["unknown grid", "did you mean karras"]),
        (["--guidance", "cgf=2"], ["unknown guidance", "did you mean cfg"]),
        (["--guidance", "cfg=lots"], ["expected NAME or NAME=SCALE"]),
        (["--guidance", "pag=2"], ["no self-attention"]),
        (["--guidance", "classifier=2"], ["classifier"]),
        (["--threshold", "statik"], ["expected one of none, static, dynamic", "did you mean static"]),
        (["--label", "10"], ["the classes are 0 to 9"]),
        (["--label", "cat"], ["--label 'cat'"]),
        (["--steps", "0"], ["--steps"]),
        (["--set", "steps=100001"], ["sample.steps", "of at most 100000"]),
        (["--steps", "100001"], ["--steps", "of at most 100000"]),
        (["--solver", "rk45", "--steps", "1", "--grid", "karras"], ["sample.steps", "take 2"]),
        (["-n", "0"], ["-n"]),
        (["--seed", "-1"], ["--seed"]),
        (["--seed", str(2**63)], ["--seed"]),
        (["-o", "samples.bmp"], ["cannot write samples as .bmp", ".npz"]),
        (["-o", "samples.ply"], ["kind image"]),
    ],
)
def test_wrong_switches_are_refused_before_any_work(
    switches: list[str],
    words: list[str],
    whole_run: Path,
    tmp_path: Path,
    call: Call,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("gentool.tasks.sampling.draw.draw_span", None)  # drawing would be a defect and exit 1
    call("sample", whole_run, *switches).refused(2, *words)
    assert list(tmp_path.iterdir()) == []


def test_samples_carry_what_the_solver_did(whole_run: Path, tmp_path: Path, call: Call) -> None:
    switches = ["--solver", "lms", "--steps", "3", "--grid", "karras", "-n", 2]
    done = call("sample", whole_run, *switches, "-o", tmp_path / "s.npz")
    assert "order 4 needs 4 steps: reduced to 3" in done.err
    manifest = read_samples(tmp_path / "s.npz").provenance["manifest"]
    assert (manifest["solver"], manifest["grid"], manifest["steps"]) == ("lms", "karras", 3)
    assert manifest["orders"] == "1 x 1, 2 x 1, 1 x 1"
    assert (manifest["sigma_max"], manifest["sigma_min"]) == (80.0, 0.002)


def test_a_solver_with_steps_of_its_own_says_so(whole_run: Path, tmp_path: Path, call: Call) -> None:
    done = call("sample", whole_run, "--solver", "rk45", "--steps", 5, "-n", 1, "-o", tmp_path / "s.npz")
    assert "rk45 chooses its own steps" in done.err


def test_a_run_is_not_replaced_by_its_samples(whole_run: Path, call: Call) -> None:
    before = sorted(whole_run.iterdir())
    call("sample", whole_run, "-n", 1, "-o", whole_run).refused(2, "holds other things")
    assert sorted(whole_run.iterdir()) == before


def test_errors_as_json(whole_run: Path, call: Call) -> None:
    done = call("sample", whole_run, "--solver", "nosuch", "--json")
    assert done.code == 2
    assert done.json["error"].keys() >= {"kind", "message", "where"}


@pytest.mark.parametrize("name", ["s.h5", "s.npz", "s", "deep/er/s.npz"])
def test_outputs_that_are_read_back(name: str, whole_run: Path, tmp_path: Path) -> None:
    drawn = sample(whole_run, count=4, out=tmp_path / name, settings={"steps": 2})
    read = read_samples(tmp_path / name)
    assert np.array_equal(read.array, drawn.images)
    assert read.labels is not None
    assert read.labels.tolist() == [0, 1, 2, 3]
    assert read.provenance["seed"] == 0
    assert read.provenance["family"] == "edm"
    assert "film-mlp" in read.provenance["recipe"]


def test_a_png_is_a_grid_for_the_eye(whole_run: Path, tmp_path: Path, call: Call) -> None:
    assert call("sample", whole_run, "-n", 9, "-o", tmp_path / "s.png", "-q").out.strip() == str(
        tmp_path / "s.png"
    )
    with Image.open(tmp_path / "s.png") as picture:
        assert min(picture.size) >= 3 * 64
        assert json.loads(picture.info["gentool"])["seed"] == 0


def test_without_an_output_the_samples_lie_in_the_run(whole_run: Path, tmp_path: Path, call: Call) -> None:
    import shutil

    run = shutil.copytree(whole_run, tmp_path / "run")
    first = call("sample", run, "-n", 2, "--steps", 2, "-q")
    assert Path(first.out.strip()).parent == run / "samples"
    assert read_samples(first.out.strip()).array.shape == (2, 8, 8, 1)


def test_sampling_takes_the_averaged_weights(whole_run: Path) -> None:
    """model.safetensors holds the EMA, which the newest checkpoint has beside the raw weights."""
    from gentool.runs import checkpoints

    state, _ = checkpoints.newest(whole_run / "checkpoints")
    assert state is not None
    _, _, module = load_run(whole_run)
    loaded = module.model.state_dict()
    assert all((loaded[name] == value).all() for name, value in state["ema"]["values"].items())
    raw = {name.removeprefix("model."): value for name, value in state["module"].items()}
    assert any((loaded[name] != raw[name]).any() for name in loaded)
