"""A private run that starts from another: what that one released counts, and goes along with it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from gentool.privacy.ledger import Ledger
from gentool.privacy.mechanisms import Phase
from gentool.runs.samples import read_samples
from gentool.tasks.train import train
from tests.tasks.private_runs import TINY
from tests.tasks.runs import Call

BASE = (*TINY, "trainer.max_steps=4", "privacy.epsilon=3")
HEAD = ("genie/digits-small", "data.batch_size=32", "data.limit=200", "trainer.clip_norm=null")
HEAD += ("trainer.max_steps=3", "model.head.channels=8")
PRIVACY = "epsilon: 5, records: 200, delta: 1.0e-4"


def head(base: Path, more: str = "", *changes: str) -> tuple[str, ...]:
    return (*HEAD, f"base={base}", f"privacy={{{PRIVACY}{more}}}", *changes)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(BASE[0], BASE[1:], run_dir=tmp_path_factory.mktemp("base") / "run").run


@pytest.fixture(scope="module")
def unprotected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(BASE[0], (*BASE[1:], "privacy=null"), run_dir=tmp_path_factory.mktemp("base") / "run").run


@pytest.fixture(scope="module")
def run(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe, *changes = head(base)
    return train(recipe, changes, run_dir=tmp_path_factory.mktemp("head") / "run").run


def steps_of(run: Path) -> list[tuple[float, int]]:
    return [(phase.mechanism.noise_multiplier, phase.steps) for phase in phases_of(run)]


def phases_of(run: Path) -> tuple[Phase, ...]:
    return Ledger.open(run / "ledger.jsonl").phases()


def test_what_the_base_released_counts_towards_the_target(base: Path, run: Path, call: Call) -> None:
    assert phases_of(run)[0] == phases_of(base)[0]
    assert [count for _, count in steps_of(run)] == [4, 3]
    told = {
        name: call("privacy-account", path, "--json").json for name, path in (("base", base), ("run", run))
    }
    assert told["base"]["epsilon"] == pytest.approx(3, rel=1e-5)
    assert told["run"]["epsilon"] == pytest.approx(5, rel=1e-5)
    planned = call("train", *head(base), "--dry-run", "--json").json
    assert planned["epsilon"] == told["run"]["epsilon"]
    assert planned["privacy"]["noise_multiplier"] == steps_of(run)[1][0]


def test_it_is_counted_once_whatever_happens(run: Path, tmp_path: Path, call: Call) -> None:
    """Gone on with, and begun again after a kill between the two lines that say what was released before."""
    copy = shutil.copytree(run, tmp_path / "run")
    ledger = Ledger.start(copy / "ledger.jsonl")
    ledger.inherit(Ledger.open(copy / "base" / "ledger.jsonl"))
    assert phases_of(copy) == phases_of(run)
    part = Ledger.start(tmp_path / "part")
    (release, count) = ledger.stretches[0].release, ledger.stretches[0].count
    part.record(release, count - 1, Ledger.open(copy / "base" / "ledger.jsonl").id)
    part.record(release, 1)  # of something else, which is the same kind of release
    part.inherit(Ledger.open(copy / "base" / "ledger.jsonl"))
    assert part.steps == count + 1
    call("privacy-account", copy / "base", copy).refused(2, "counted twice")
    call("privacy-account", copy, copy / "base").refused(2, "counted twice")


def test_a_base_that_protects_nobody_is_refused_unless_its_data_are_public(
    unprotected: Path, base: Path, tmp_path: Path, call: Call
) -> None:
    for how in ("--dry-run", "-q"):
        ended = call("train", *head(unprotected), how, "--run-dir", tmp_path / "no")
        ended.refused(2, "base:", "protects nobody", "privacy.pretrained: public")
    public = head(unprotected, ", pretrained: public", "trainer.max_steps=1")
    ended = call("train", *public, "--run-dir", tmp_path / "public", "--json")
    assert ended.code == 0, ended.err
    assert ended.json["epsilon"] == pytest.approx(5, rel=1e-5)
    assert [count for _, count in steps_of(tmp_path / "public")] == [1]
    assert "learned from public data" in (tmp_path / "public" / "README.md").read_text()


def test_pretrained_says_nothing_of_a_run_that_starts_from_none(call: Call) -> None:
    ended = call("train", *TINY, "privacy.pretrained=public", "--dry-run")
    ended.refused(2, "privacy.pretrained", "starts from none")


def test_the_base_is_exported_along_and_its_ledger_too(run: Path, tmp_path: Path, call: Call) -> None:
    ended = call("export", run, "-o", tmp_path / "out", "--json")
    assert ended.code == 0, ended.err
    kept = ["ledger.jsonl", "model.safetensors", "provenance.json", "recipe.yaml"]
    assert ended.json["files"] == ["README.md", *(f"base/{name}" for name in kept), *kept]
    assert sorted(os.listdir(tmp_path / "out" / "base")) == kept
    assert "data_fingerprint" not in json.loads((tmp_path / "out" / "base" / "provenance.json").read_text())
    drawn = []
    for source in (run, tmp_path / "out"):
        assert call("sample", source, "-n", 3, "--steps", 3, "-o", tmp_path / "s.npz", "-q").code == 0
        drawn.append(read_samples(tmp_path / "s.npz").array)
    np.testing.assert_array_equal(*drawn)
    recipe, *changes = (*HEAD, "trainer.max_steps=1", f"base={run / 'base'}")
    plain = train(recipe, changes, run_dir=tmp_path / "plain").run
    assert call("export", plain, "-o", tmp_path / "of private", "--json").json["private"] is False
    for part in ("", "base"):  # a guess at the private data could be checked against it
        provenance = json.loads((tmp_path / "of private" / part / "provenance.json").read_text())
        assert "data_fingerprint" not in provenance
    shutil.rmtree(tmp_path / "out" / "base")
    call("export", tmp_path / "out", "-o", tmp_path / "again").refused(4, "base")
    assert not (tmp_path / "again").exists()
