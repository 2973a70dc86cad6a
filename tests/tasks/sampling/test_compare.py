"""gentool sample --compare: the same noise for all, the error to where the flow ends, one picture and one table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from gentool.errors import UserError
from gentool.runs.samples import read_samples
from gentool.tasks.model.load import load_run
from gentool.tasks.sampling.compare import FINE_STEPS, compare, each, end_of
from gentool.tasks.train import train
from gentool.training.sampling import SampleRequest
from tests.tasks.runs import Call


@pytest.fixture(scope="module")
def done(whole_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One comparison, whose parts the tests look at."""
    return compare(
        whole_run,
        ["ddim", "dpmpp-2m", "ddpm"],
        [4, 16],
        count=5,
        seed=3,
        out=tmp_path_factory.mktemp("compare") / "c.png",
        reference="digits",
        settings={"grid": "log-snr"},
    )


def test_a_row_for_each_solver_and_number_of_steps(done: Any) -> None:
    assert [(row.solver, row.steps, row.nfe) for row in done.rows] == [
        (name, steps, steps) for name in ("ddim", "dpmpp-2m", "ddpm") for steps in (4, 16)
    ]
    assert all(row.seconds > 0 and row.fid > 0 for row in done.rows)


def test_errors_fall_with_the_steps_and_random_solvers_have_none(done: Any) -> None:
    ddim, second, noisy = done.rows[:2], done.rows[2:4], done.rows[4:]
    for few, many in (ddim, second):
        assert 0 < many.error < few.error
    assert second[1].error < ddim[1].error
    assert [row.error for row in noisy] == [None, None]
    assert done.reference == f"edm, {FINE_STEPS} steps from the same noise"


def test_the_error_is_what_sampling_itself_gives(done: Any, whole_run: Path) -> None:
    module = load_run(whole_run)[2]
    labels = torch.arange(5)

    def drawn(**changes: Any) -> torch.Tensor:
        settings = module.recipe.sample.model_copy(update={"grid": "log-snr", **changes})
        with torch.no_grad():
            return module.draw(SampleRequest(3, range(5), labels, settings)).x.double()

    end = drawn(solver="edm", steps=FINE_STEPS)
    want = float((drawn(solver="ddim", steps=16) - end).square().mean().sqrt())
    assert done.rows[1].error == pytest.approx(want, rel=1e-4)


def test_the_picture_has_a_row_for_each(done: Any) -> None:
    with Image.open(done.picture) as picture:
        width, height = picture.size
    assert height == 6 * 66 + 2
    assert width >= 5 * 66 + 2


def test_the_table_beside_it_is_the_document(done: Any) -> None:
    assert done.table == done.picture.with_suffix(".json")
    assert json.loads(done.table.read_text()) == json.loads(json.dumps(done.document()))


def test_its_samples_are_those_of_sample(whole_run: Path, tmp_path: Path, call: Call) -> None:
    """The picture's first row is the grid of `gentool sample` with the same seed."""
    call("sample", whole_run, "--solver", "ddim", "--grid", "karras", "--steps", 3, "-n", 2, "--seed", 5, "-o",
         tmp_path / "s.npz", "-q")  # fmt: skip
    call("sample", whole_run, "--compare", "ddim", "--grid", "karras", "--steps", 3, "-n", 2, "--seed", 5, "-o",
         tmp_path / "c.png", "-q")  # fmt: skip
    samples = read_samples(tmp_path / "s.npz").array
    with Image.open(tmp_path / "c.png") as picture:
        page = np.asarray(picture.convert("L"))
    tiles = page[2:, page.shape[1] - 2 * 66 :][:64]
    for tile, sample in zip((tiles[:, :64], tiles[:, 66:130]), samples):
        assert np.array_equal(tile[::8, ::8], sample[..., 0])


def test_the_command_prints_the_table(whole_run: Path, tmp_path: Path, call: Call) -> None:
    asked = (
        "sample",
        whole_run,
        "--compare",
        "ddim, edm",
        "--steps",
        "2,3",
        "-n",
        2,
        "-o",
        tmp_path / "c.png",
    )
    shown = call(*asked).out.splitlines()
    assert shown[0].split() == ["SOLVER", "STEPS", "NFE", "SECONDS", "ERROR"]
    assert [line.split()[:3] for line in shown[1:]] == [
        ["ddim", "2", "2"], ["ddim", "3", "3"], ["edm", "2", "3"], ["edm", "3", "5"],
    ]  # fmt: skip
    document = call(*asked, "--json").json
    assert [row["nfe"] for row in document["rows"]] == [2, 3, 3, 5]
    assert Path(document["picture"]).is_file()
    assert Path(document["table"]).is_file()


def test_points_have_a_table_and_no_picture(tmp_path: Path) -> None:
    small = ("model.network.width=16", "trainer.max_steps=1", "data.count=64", "data.batch_size=8")
    run = train("edm/toy2d-small", small, run_dir=tmp_path / "run").run
    done = compare(run, ["ddim"], [2], count=3)
    assert done.picture is None
    assert done.table.parent == run / "samples"
    assert done.rows[0].error is not None


def test_states_with_a_velocity_are_held_against_a_solver_of_theirs(tmp_path: Path) -> None:
    small = ("model.network.width=16", "trainer.max_steps=1", "data.count=64", "data.batch_size=8")
    run = train("cld/toy2d-small", small, run_dir=tmp_path / "run").run
    done = compare(run, ["sscs", "heun"], [2, 20], count=3)
    assert done.reference == f"heun, {FINE_STEPS} steps from the same noise"
    assert [row.error is None for row in done.rows] == [True, True, False, False]
    assert done.rows[3].error < done.rows[2].error  # type: ignore[operator]
    with pytest.raises(UserError, match="ddim: it steps states of data alone"):
        compare(run, ["ddim"], [2])


def test_the_recipes_own_solver_keeps_the_recipes_settings(whole_run: Path) -> None:
    chosen = load_run(whole_run, ["sample.options={s_churn: 10}", "sample.grid_options={rho: 5}"])[
        2
    ].recipe.sample
    own, other = each(chosen, "edm", 5, set()), each(chosen, "ddim", 5, set())
    assert (own.options, own.grid_options) == ({"s_churn": 10}, {"rho": 5})
    assert (other.options, other.grid_options, other.grid) == ({}, {}, None)
    assert each(chosen, "ddim", 5, {"grid_options"}).grid_options == {"rho": 5}
    assert (end_of(own), end_of(other)) == ("zero", "t-min")
    assert end_of(other.model_copy(update={"denoise": True})) == "zero"


@pytest.mark.parametrize(
    ("switches", "words"),
    [
        (["--compare", "ddim,dmp-2m"], ["unknown solver 'dmp-2m'", "did you mean dpm"]),
        (["--compare", "ddim,genie"], ["genie: this run has no head"]),
        (["--compare", "ddim", "--steps", "5,0"], ["--steps", "above 0"]),
        (["--compare", "ddim", "--steps", "5,x"], ["--steps"]),
        (["--compare", "ddim", "--solver", "edm"], ["--compare"]),
        (["--compare", "ddim", "--preset", "fid"], ["--compare", "a preset is of one solver"]),
        (["--compare", "ddim", "--option", "eta=1"], ["--compare"]),
        (["--compare", "ddim", "--devices", "2"], ["--compare"]),
        (["--compare", "ddim", "-o", "c.npz"], ["name a .png"]),
        (["--compare", "ddim", "--reference", "nowhere"], ["nowhere"]),
        (["--compare", "ddim", "--classifier", "x"], ["--classifier"]),
        (["--compare", "ddim", "--grid", "karas"], ["did you mean karras"]),
        (["--steps", "5,10"], ["several numbers are for --compare"]),
        (["--reference", "digits"], ["is for --compare"]),
    ],
)
def test_what_is_refused(
    switches: list[str], words: list[str], whole_run: Path, tmp_path: Path, call: Call, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("gentool.tasks.sampling.compare.Artist", None)  # drawing would be a defect and exit 1
    steps = [] if "--steps" in switches else ["--steps", "2"]
    call("sample", whole_run, *switches, *steps).refused(2, *words)
    assert list(tmp_path.iterdir()) == []
