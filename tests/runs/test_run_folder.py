"""The run folder: what a killed training leaves behind is swept, and whether one is in use is told."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from gentool.errors import GentoolError, UserError
from gentool.runs import weights
from gentool.runs.atomic import temporary
from gentool.runs.folder import RunFolder


def test_sweep_takes_a_trainings_own_leftovers_and_nothing_else(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.create()
    own = [run.recipe, run.weights, run.provenance, run.metrics_csv, run.metrics_jsonl, run.card]
    own.append(run.checkpoints / "step-00000010.ckpt")
    others = [
        run.report,
        run.samples / "x.h5",
        run.path / "evaluation.json",
    ]  # `evaluate` may be writing them
    run.samples.mkdir()
    for path in [*own, *others]:
        path.write_text("whole")
        temporary(path).write_text("half")
    run.sweep()
    left = sorted(p.name for p in run.path.rglob(".*.tmp*"))
    assert [name.split(".")[1] for name in left] == ["evaluation", "report", "x"]
    assert all(path.read_text() == "whole" for path in [*own, *others])


def refuse(run: RunFolder, *files: str) -> None:
    with run.training():
        for name in files:
            (run.path / name).write_text("a line")
        raise UserError("no such data")


@pytest.mark.parametrize(
    "kept", ["ledger.jsonl", "model.safetensors", "metrics.jsonl", "checkpoints/step-1.ckpt"]
)
def test_a_refused_training_takes_back_its_folders_unless_something_was_learned(
    kept: str, tmp_path: Path
) -> None:
    run = RunFolder(tmp_path / "runs" / "name" / "1")
    with pytest.raises(UserError):
        refuse(run, "recipe.yaml", "provenance.json")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError):
        refuse(run, "recipe.yaml", kept)
    assert (run.path / kept).is_file()


def test_a_refused_training_leaves_a_folder_that_was_there(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        refuse(RunFolder(tmp_path))
    assert tmp_path.is_dir()


def test_a_look_at_the_lock_does_not_keep_a_training_out(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    with run.lock():
        assert run.in_use()
    assert not run.in_use()
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with run.lock():
            held.set()
            release.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(10)
    with pytest.raises(UserError, match="another process"), run.lock():
        pass
    threading.Timer(0.1, release.set).start()
    with run.lock():  # let go of within half a second
        assert release.is_set()
    holder.join()


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("Error while serializing: I/O error: No space left on device (os error 28)", "no space left"),
        ("Error while serializing: I/O error: Read-only file system (os error 30)", "read-only"),
        ("something else", "input/output error"),
    ],
)
def test_a_disk_that_refuses_the_weights_is_told_as_the_disks(
    reason: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """safetensors has an exception of its own, with the system's reason in its text."""

    def refuse(*_: object) -> None:
        raise SafetensorError(reason)

    path = tmp_path / "model.safetensors"
    path.write_text("the old one")
    monkeypatch.setattr(weights, "save_file", refuse)
    with pytest.raises(GentoolError, match=words):
        weights.save_weights(path, {"w": torch.ones(1)}, {})
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]
    assert path.read_text() == "the old one"
