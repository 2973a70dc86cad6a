"""Property: `gentool data` answers with results alone, one JSON document under --json, and exit code 4 for
damage."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from data_files import picture
from typer.testing import CliRunner, Result

from gentool.cli.data import app
from gentool.errors import UserError


def call(*words: object, code: int = 0) -> Result:
    result = CliRunner().invoke(app, list(map(str, words)))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def test_list_says_what_is_here(mnist: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENTOOL_DATA", str(mnist))
    rows = {row["name"]: row for row in json.loads(call("list", "--json").stdout)["data"]}
    assert {name: row["present"] for name, row in rows.items()} == {
        "digits": True,
        "mnist": True,
        "stacked-mnist": True,
        "fashion-mnist": False,
        "cifar10": False,
        "images": None,
        "hdf5": None,
        "npz": None,
        "toy2d": True,
        "shapes": True,
        "mnist-clouds": True,
        "meshes": None,
        "modelnet": None,
        "shapenet15k": None,
        "shapenet-vol": None,
    }
    assert len(call("list").stdout.splitlines()) == len(rows)


def test_inspect_gives_the_moments(mnist: Path) -> None:
    found = json.loads(call("inspect", "mnist", f"root={mnist}", "--json").stdout)
    from data_files import MNIST_X

    pixels = MNIST_X / 127.5 - 1
    assert found["shape"] == [1, 28, 28]
    assert found["count"] == 40
    assert found["classes"] == {str(k): 4 for k in range(10)}
    assert found["mean"] == pytest.approx([pixels.mean()], abs=1e-6)
    assert found["std"] == pytest.approx([pixels.std()], abs=1e-6)
    assert found["sigma_data"] == pytest.approx(pixels.std(), abs=1e-6)
    assert len(found["fingerprint"]) == 64
    assert "28 x 28" in call("inspect", "mnist", f"root={mnist}").stdout


def test_pack_then_inspect(tmp_path: Path) -> None:
    for i in range(6):
        picture(tmp_path / "s" / "ab"[i % 2] / f"{i}.png", size=(10, 8), seed=i)
    made = json.loads(call("pack", tmp_path / "s", "size=4", "-o", tmp_path / "a.h5", "--json").stdout)
    assert made["count"] == 6
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["samples"].shape == (6, 4, 4, 3)
        assert file["labels"][()].tolist() == [0, 0, 0, 1, 1, 1]
    found = json.loads(call("inspect", tmp_path / "a.h5", "--json").stdout)
    assert set(found["classes"]) == {"a", "b"}


def test_pack_refuses_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    picture(tmp_path / "s" / "a.png")
    with pytest.raises(UserError, match="a part of the path is a file"):
        call("pack", tmp_path / "s", "-o", tmp_path / "s" / "a.png" / "x.h5")


def test_a_thousand_classes_fit_on_a_screen(tmp_path: Path) -> None:
    for i in range(25):
        picture(tmp_path / "s" / f"class{i:02}" / "0.png", size=(4, 4), seed=i)
    shown = call("inspect", tmp_path / "s", "size=4").stdout
    assert "class19: 1" in shown
    assert "class20" not in shown
    assert "... 5 more" in shown


def test_check_names_every_fault_and_exits_with_4(tmp_path: Path) -> None:
    for i in range(5):
        picture(tmp_path / "s" / f"{i}.png", seed=i)
    assert json.loads(call("check", tmp_path / "s", "--json").stdout)["faults"] == []
    for i in (1, 3):
        path = tmp_path / "s" / f"{i}.png"
        path.write_bytes(path.read_bytes()[:-30])
    faults = json.loads(call("check", tmp_path / "s", "--json", code=4).stdout)["faults"]
    assert [Path(fault["where"]).name for fault in faults] == ["1.png", "3.png"]
    assert "truncated" in call("check", tmp_path / "s", code=4).stdout
    np.savez(tmp_path / "a.npz", np.full((3, 2), np.inf, np.float32))
    assert "row 0 holds NaN or infinity" in call("check", tmp_path / "a.npz", code=4).stdout


def test_user_errors_pass_to_the_shell(tmp_path: Path) -> None:
    for words in (
        ["inspect", "mnits"],
        ["inspect", "digits", "--split", "dev"],
        ["fetch", "digits"],
        ["fetch", "x"],
    ):
        with pytest.raises(UserError):
            call(*words)
