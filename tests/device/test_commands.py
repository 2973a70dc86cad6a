"""The command line on a machine with the make-believe accelerator: training by Lightning, and what comes after."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from gentool.runs.weights import load_weights
from tests.conformance.test_families import CASES
from tests.device.machine import far_machine
from tests.tasks.runs import Call

SHORT = ("trainer.log_every=1", "trainer.checkpoint_every=2", "data.batch_size=8")
TRAINED = ("edm vp", "dpdm edm", "ddgan points", "classifier cnn")
"""One of a kind: a denoiser, a private one, two optimisers, a classifier."""


@pytest.fixture
def machine() -> Iterator[torch.device]:
    with far_machine() as far:
        yield far


def recipe(case: str, folder: Path) -> Path:
    family, text = CASES[case]
    path = folder / "recipe.yaml"
    path.write_text(f"family: {family}\n{text}\n")
    return path


@pytest.mark.parametrize("case", TRAINED)
def test_a_run_is_trained_resumed_and_used_there(
    case: str, tmp_path: Path, call: Call, machine: torch.device
) -> None:
    source, run = recipe(case, tmp_path), tmp_path / "run"
    for steps, resume in ((2, ()), (4, ("--resume", "auto", "--allow-change"))):
        until = f"trainer.max_steps={steps}"
        done = call("train", source, *SHORT, until, "--run-dir", run, *resume, "-q")
        assert done.code == 0, done.err
    lives = json.loads((run / "provenance.json").read_text())["lives"]
    assert [life["device"] for life in lives] == [str(machine)] * 2
    assert all(value.device.type == "cpu" for value in load_weights(run / "model.safetensors")[0].values())
    verb = ("evaluate", run) if "classifier" in case else ("sample", run, "-n", "2", "-o", tmp_path / "x.npz")
    assert (done := call(*verb, "-q")).code == 0, done.err


def test_a_run_is_judged_inverted_and_purified_there(
    tmp_path: Path, call: Call, machine: torch.device
) -> None:
    source, run, out = recipe("edm vp", tmp_path), tmp_path / "run", tmp_path / "out.npz"
    again = tmp_path / "again.npz"
    assert call("train", source, *SHORT, "trainer.max_steps=1", "--run-dir", run, "-q").code == 0
    for command in (
        ("evaluate", run, "-n", "24", "--features", "pixels", "--metric", "fid"),
        ("sample", run, "-n", "2", "--compare", "ddim,heun", "--steps", "2"),
        ("purify", run, "digits", "-n", "2", "--steps", "2", "-o", out),
        ("edit", run, "digits", "--method", "ddim-inversion", "-n", "2", "--set", "steps=2", "-o", again),
    ):
        ended = call(*command, "-q")
        assert ended.code == 0, ended.err
