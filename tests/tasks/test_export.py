"""gentool export: what may leave the house, all of it and nothing else."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from gentool.errors import UserError
from gentool.privacy.ledger import Ledger
from gentool.privacy.plan import plan
from gentool.recipes.schema import Privacy
from gentool.runs.samples import read_samples
from gentool.tasks.export import export
from gentool.tasks.model.card import model_card
from gentool.tasks.model.load import stored_recipe
from tests.tasks.runs import Call

FILES = ["README.md", "model.safetensors", "provenance.json", "recipe.yaml"]


@pytest.fixture
def private_run(whole_run: Path, tmp_path: Path) -> Path:
    """The run as if it had been trained with privacy: with the block in its recipe, and a ledger."""
    return make_private(whole_run, tmp_path / "private", Privacy(epsilon=3.0))


def make_private(whole_run: Path, path: Path, privacy: Privacy) -> Path:
    shutil.copytree(whole_run, path)
    recipe = yaml.safe_load((path / "recipe.yaml").read_text())
    recipe["privacy"] = privacy.model_dump(mode="json")
    (path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    made = plan(privacy, 32, 60, 1438)
    ledger = Ledger.start(path / "ledger.jsonl")
    ledger.adopt(made)
    ledger.reserve(made.release, 0, 60)
    ledger.settle(60)
    return path


def test_a_private_run_leaves_with_weights_recipe_ledger_and_card_alone(
    private_run: Path, tmp_path: Path, call: Call
) -> None:
    out = tmp_path / "out"
    ended = call("export", private_run, "-o", out, "--json")
    assert ended.code == 0, ended.err
    assert ended.json["path"] == str(out)
    assert ended.json["private"] is True
    assert ended.json["epsilon"] == pytest.approx(3.0, rel=1e-5)
    assert sorted(os.listdir(out)) == sorted([*FILES, "ledger.jsonl"]) == ended.json["files"]
    for same in ("model.safetensors", "ledger.jsonl"):
        assert (out / same).read_bytes() == (private_run / same).read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["out", "private"]


def test_nothing_computed_from_private_data_goes_along(private_run: Path, tmp_path: Path) -> None:
    out = export(private_run, tmp_path / "out").path
    provenance = json.loads((private_run / "provenance.json").read_text())
    kept = json.loads((out / "provenance.json").read_text())
    assert set(kept) == {"gentool", "git", "versions", "python", "recipe", "steps", "data_spec"} & set(
        provenance
    )
    text = "".join((out / name).read_text() for name in os.listdir(out) if name != "model.safetensors")
    losses = [json.loads(line)["loss"] for line in (private_run / "metrics.jsonl").read_text().splitlines()]
    for figure in [*(f"{loss:.5g}" for loss in losses), provenance["data_fingerprint"]]:
        assert figure not in text
    assert "training loss" not in text


def test_the_card_states_the_guarantee_and_its_limits(private_run: Path, tmp_path: Path) -> None:
    card = " ".join((export(private_run, tmp_path / "out").path / "README.md").read_text().split())
    for words in (
        "epsilon 3.0000 at delta 1e-05",
        "RDP",
        "one record",
        "add or remove one record",
        "Poisson",
        "60 releases",
        "hyper-parameter tuning",
        "statistics of the data",
    ):
        assert words in card


def test_a_card_of_a_private_run_never_carries_figures(private_run: Path) -> None:
    resolved = stored_recipe_of(private_run)
    metrics = {"metrics": {"fid": 12.345}, "features": "pixels", "reference": "digits", "count": 3}
    card = model_card(resolved, {"data_fingerprint": "f" * 64}, [{"loss": 0.123456}], metrics)
    assert "12.345" not in card
    assert "0.12346" not in card
    assert "ffff" not in card


def stored_recipe_of(path: Path):  # type: ignore[no-untyped-def]
    from gentool.runs.folder import RunFolder

    return stored_recipe(RunFolder.open(path))


@pytest.mark.parametrize(
    "privacy", [Privacy(noise_multiplier=1.0, debug_seed=1), Privacy(enabled=False)], ids=["seed", "no noise"]
)
def test_a_run_that_protects_nobody_says_so(
    privacy: Privacy, whole_run: Path, tmp_path: Path, call: Call
) -> None:
    run = make_private(whole_run, tmp_path / "run", privacy)
    ended = call("export", run, "-o", tmp_path / "out", "--json")
    assert (ended.code, ended.json["private"], ended.json["epsilon"]) == (0, False, None)
    assert "NOT PRIVATE" in ended.err
    assert "NOT PRIVATE" in (tmp_path / "out" / "README.md").read_text()


def test_a_run_without_privacy_is_exported_and_says_so(whole_run: Path, tmp_path: Path, call: Call) -> None:
    ended = call("export", whole_run, "-o", tmp_path / "deep" / "out")
    assert ended.out == f"{tmp_path / 'deep' / 'out'}\n"
    assert "without differential privacy" in ended.err
    assert sorted(os.listdir(tmp_path / "deep" / "out")) == FILES
    card = (tmp_path / "deep" / "out" / "README.md").read_text()
    assert "Trained without differential privacy" in card
    assert "loss" not in card
    assert "data_fingerprint" in (tmp_path / "deep" / "out" / "provenance.json").read_text()
    call("privacy-account", tmp_path / "deep" / "out").refused(2, "without a privacy: block")


def test_the_export_is_a_run_to_sample_and_to_account_for(
    private_run: Path, tmp_path: Path, call: Call
) -> None:
    out = export(private_run, tmp_path / "out").path
    drawn = []
    for source in (private_run, out):
        file = tmp_path / f"{source.name}.npz"
        assert call("sample", source, "-n", "6", "-o", file, "--seed", "1", "-q").code == 0
        drawn.append(read_samples(file).array)
    assert np.array_equal(*drawn)
    told = [call("privacy-account", source, "--json").json for source in (private_run, out)]
    assert told[0]["epsilon"] == told[1]["epsilon"] == pytest.approx(3.0, rel=1e-5)


def test_an_export_can_be_exported_again(private_run: Path, tmp_path: Path) -> None:
    once = export(private_run, tmp_path / "once").path
    twice = export(once, tmp_path / "twice").path
    for name in os.listdir(once):
        assert (once / name).read_bytes() == (twice / name).read_bytes()


def test_what_is_refused_leaves_nothing_behind(private_run: Path, tmp_path: Path, call: Call) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "file").write_text("mine")
    call("export", private_run, "-o", taken).refused(2, "is there already")
    call("export", private_run, "-o", taken / "file").refused(2, "is there already")
    call("export", tmp_path / "none", "-o", tmp_path / "out").refused(2, "no such run folder")
    ledger = (private_run / "ledger.jsonl").read_text()
    (private_run / "ledger.jsonl").write_text(ledger.replace('"count":60', '"count":6'))
    call("export", private_run, "-o", tmp_path / "out").refused(4, "ledger.jsonl", "line 3")
    (private_run / "ledger.jsonl").unlink()
    call("export", private_run, "-o", tmp_path / "out").refused(2, "no ledger")
    (private_run / "model.safetensors").write_bytes(b"torn")
    call("export", private_run, "-o", tmp_path / "out").refused(4, "model.safetensors")
    (private_run / "model.safetensors").unlink()
    call("export", private_run, "-o", tmp_path / "out").refused(2, "no model.safetensors yet")
    assert sorted(os.listdir(tmp_path)) == ["private", "taken"]
    assert (taken / "file").read_text() == "mine"


def test_a_failure_half_way_leaves_no_folder(
    private_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> str:
        raise UserError("stop")

    monkeypatch.setattr("gentool.tasks.export.model_card", fail)
    with pytest.raises(UserError, match="stop"):
        export(private_run, tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == ["private"]
