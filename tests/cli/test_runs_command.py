"""`gentool runs`: what run folders hold and how far they are."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gentool.cli.app import run
from gentool.runs.folder import RunFolder
from tests.tasks.runs import TINY, gentool

PRIVATE = (
    "edm/digits-dp-small",
    "trainer.max_steps=4",
    "trainer.checkpoint_every=2",
    "model.network.width=16",
    "privacy.noise_multiplicity=1",
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run, and a private one; tests read them or work on copies."""
    root = tmp_path_factory.mktemp("several") / "runs"
    for name, words in (("quickstart/one", TINY), ("edm/digits-dp-small/two", PRIVATE)):
        done = gentool("train", *words, "--run-dir", root / name, "-q")
        assert done.returncode == 0, done.stderr
    return root


def told(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> Any:
    capsys.readouterr()
    assert run(["runs", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_list_finds_runs_at_any_depth(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    private, plain = told(capsys, "list", runs)["runs"]
    assert (plain["run"], plain["recipe"]) == (str(runs / "quickstart/one"), "quickstart")
    assert (plain["state"], plain["step"], plain["max_steps"]) == ("complete", 60, 60)
    rows = (runs / "quickstart/one/metrics.jsonl").read_text().splitlines()
    assert plain["loss"] == json.loads(rows[-1])["loss"]
    assert plain["epsilon"] is None
    assert (private["recipe"], private["state"]) == ("edm/digits-dp-small", "complete")


def test_epsilon_is_the_ledgers(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = runs / "edm/digits-dp-small/two"
    told_here = told(capsys, "show", path)["epsilon"]
    assert run(["privacy-account", str(path), "--json"]) == 0
    assert told_here == json.loads(capsys.readouterr().out)["epsilon"] > 0


def test_a_run_inside_another_is_not_listed(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The base that a distilled run keeps is a run folder too."""
    shutil.copytree(runs / "quickstart/one", tmp_path / "a")
    shutil.copytree(runs / "quickstart/one", tmp_path / "a" / "base")
    assert [row["run"] for row in told(capsys, "list", tmp_path)["runs"]] == [str(tmp_path / "a")]


def test_a_run_that_lost_its_last_checkpoint_is_stopped_at_the_one_before(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(runs / "quickstart/one", tmp_path / "a")
    (copy / "checkpoints/step-00000060.json").unlink()
    shown = told(capsys, "show", copy)
    assert (shown["state"], shown["step"]) == ("stopped", 50)
    assert [c["step"] for c in shown["checkpoints"]] == [50]


def test_a_run_that_is_held_is_training(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(runs / "quickstart/one", tmp_path / "a")
    with RunFolder(copy).lock():
        assert told(capsys, "show", copy)["state"] == "training"
    assert told(capsys, "show", copy)["state"] == "complete"


@pytest.mark.parametrize("damaged", ["recipe.yaml", "provenance.json", "checkpoints/step-00000060.json"])
def test_a_damaged_run_is_told_with_the_file_and_hides_no_other(
    damaged: str, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        shutil.copytree(runs / "quickstart/one", tmp_path / name)
    (tmp_path / "a" / damaged).write_text("{")
    assert run(["runs", "list", str(tmp_path)]) == 0
    shown = capsys.readouterr()
    assert [line.split()[2] for line in shown.out.splitlines()[1:]] == ["damaged", "complete"]
    assert damaged in shown.err


def test_show_for_people_names_lives_and_samples(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(runs / "quickstart/one", tmp_path / "a")
    (copy / "samples").mkdir()
    (copy / "samples/x.h5").write_bytes(b"")
    assert run(["runs", "show", str(copy)]) == 0
    out = capsys.readouterr().out
    assert "complete" in out
    assert "60 of 60" in out
    assert "samples/x.h5" in out
    assert "0 to 60" in out


@pytest.mark.parametrize("command", ["list", "show"])
def test_no_such_folder(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["runs", command, str(tmp_path / "none")]) == 2
    assert "no such" in capsys.readouterr().err


def test_listing_imports_no_torch(runs: Path) -> None:
    code = (
        "import sys; from gentool.cli.app import run; "
        f"run(['runs', 'list', {str(runs)!r}]); sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
