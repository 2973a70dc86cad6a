"""Property: options are strict, listing needs no torch, and a new set is a class and a line."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from data_files import picture

from gentool import data
from gentool.data.config import _OWN, CONFIGS, _load, parse_source
from gentool.errors import UserError
from gentool.registry import Registry


def test_names_registry_and_classes_agree() -> None:
    for name, config in CONFIGS.items():
        assert config.model_fields["name"].default == name
        assert config.what
        assert config.origin
        for key, field in config.model_fields.items():
            assert field.description, f"{name}.{key} has no description"


def test_options_and_formats_need_no_torch() -> None:
    code = (
        "import sys, gentool.data, gentool.data.config, gentool.cli.data as c; "
        "list(gentool.data.config.parse_source('digits').faults()); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_all_faults_come_at_once_with_the_nearest_name() -> None:
    with pytest.raises(UserError) as caught:
        data.make_config("mnist", {"sise": 3, "pad": "x", "limit": 0})
    text = str(caught.value)
    assert "sise: unknown option; did you mean size?" in text
    assert "pad: Input should be a valid integer" in text
    assert "limit: Input should be greater than 0" in text
    with pytest.raises(UserError, match="did you mean digits"):
        data.make_config("digit", {})


def test_a_source_is_a_name_or_a_path(tmp_path: Path) -> None:
    picture(tmp_path / "s" / "a.png")
    for name in ("a.h5", "a.npz", "a.zip", "a.tar.gz", "a.pdf"):
        (tmp_path / name).write_bytes(b"")
    found = {n: parse_source(str(tmp_path / n)).name for n in ("s", "a.h5", "a.npz", "a.zip", "a.tar.gz")}
    assert found == {"s": "images", "a.h5": "hdf5", "a.npz": "npz", "a.zip": "images", "a.tar.gz": "images"}
    config = parse_source("digits", ["size=16", "classes=[3, '4']", "held_out=5e-1", "filter=box"])
    assert config.classes == (3, "4")
    assert config.held_out == 0.5
    for source, options, words in (
        (str(tmp_path / "a.pdf"), [], "expected a folder"),
        ("digit", [], "did you mean digits"),
        ("digits", ["size"], "expected KEY=VALUE"),
        ("digits", ["size=["], "not valid YAML"),
        ("digits", ["size=010"], "is ambiguous"),
        ("digits", ["size=16", "limit=.nan"], "must be finite"),
        ("digits", ["size=2020-01-01"], "size: "),
    ):
        with pytest.raises(UserError, match=words):
            parse_source(source, options)


def test_options_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        data.make_config("digits", {}).batch_size = 3


def test_a_third_partys_set_comes_by_entry_point_and_a_broken_one_harms_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    points = [
        EntryPoint("theirs", "gentool.data.sets.toy2d:Toy2dConfig", "gentool.data"),
        EntryPoint("broken", "no_such_package:Config", "gentool.data"),
    ]
    monkeypatch.setattr(
        "gentool.registry.entry_points", lambda group: points if group == "gentool.data" else []
    )
    with pytest.warns(
        UserWarning, match="'broken' of another package cannot be imported: ModuleNotFoundError"
    ):
        found = _load(Registry("data set", _OWN, group="gentool.data"))
    assert set(found) == {*_OWN, "theirs"}
