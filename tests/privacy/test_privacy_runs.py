"""`gentool privacy-account RUN`: what ledgers tell, together, and who is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gentool.cli.app import run
from gentool.privacy.ledger import Ledger
from gentool.privacy.mechanisms import Phase, Release, SampledGaussian
from gentool.privacy.plan import plan
from gentool.privacy.rdp import RDP
from gentool.recipes.schema import Privacy

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def made(name: str, taken: int = 40, settled: bool = True, fingerprint: str = "a", **block: Any) -> Path:
        """A run of 100 planned steps of which `taken` were, at 512 of 60000 records."""
        folder = tmp_path / name
        folder.mkdir()
        (folder / "recipe.yaml").write_text("family: edm\n")
        (folder / "provenance.json").write_text(json.dumps({"data_fingerprint": fingerprint}))
        made = plan(Privacy(**(block or {"noise_multiplier": 1.0}), delta=1e-6), 512, 100, 60000)
        ledger = Ledger.start(folder / "ledger.jsonl")
        ledger.adopt(made)
        ledger.reserve(made.release, 0, taken)
        if settled:
            ledger.settle(taken)
        return folder

    return made


def ask(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, Any, str]:
    code = run(["privacy-account", *map(str, words), "--json"])
    out, err = capsys.readouterr()
    return code, json.loads(out), err


def cost(*phases: tuple[float, float, int], delta: float = 1e-6) -> float:
    return RDP().epsilon([Phase(SampledGaussian(s, q), n) for s, q, n in phases], delta).epsilon


def test_a_run_costs_what_its_steps_cost(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make("a")
    code, told, err = ask(capsys, folder)
    assert (code, told["steps"], told["delta"], told["accountant"]) == (0, 40, 1e-6, "rdp")
    assert told["epsilon"] == cost((1.0, 512 / 60000, 40))
    assert (told["private"], told["noise_multiplier"], told["runs"]) == (True, 1.0, [str(folder)])
    assert "may not have been taken" not in err
    assert ask(capsys, folder, "--delta=1e-5")[1]["epsilon"] == cost((1.0, 512 / 60000, 40), delta=1e-5)


def test_runs_on_the_same_data_add_up(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = make("a"), make("b", 100, noise_multiplier=2.0)
    code, told, err = ask(capsys, one, two, "--phase=10,1,1")
    assert told["epsilon"] == pytest.approx(
        cost((1.0, 512 / 60000, 40), (2.0, 512 / 60000, 100), (10.0, 1.0, 1)), rel=1e-12
    )
    assert (code, told["noise_multiplier"], told["steps"]) == (0, None, 141)
    assert "different data" not in err
    assert "different data" in ask(capsys, one, make("c", fingerprint="b"))[2]


def test_a_killed_run_is_told_as_an_upper_bound(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    _, told, err = ask(capsys, make("a", settled=False))
    assert told["steps"] == 40
    assert "up to 40 of its steps may not have been taken" in err


@pytest.mark.parametrize(
    "block", [{"noise_multiplier": 1.0, "debug_seed": 3}, {"enabled": False}], ids=["debug seed", "no noise"]
)
def test_a_run_that_protects_nobody_has_no_epsilon(
    block: dict[str, Any], make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make("a", **block)
    code, told, _ = ask(capsys, folder)
    assert (code, told["epsilon"], told["private"]) == (0, None, False)
    _, both, _ = ask(capsys, make("b"), folder)
    assert both["epsilon"] is None
    assert run(["privacy-account", str(folder)]) == 0
    assert capsys.readouterr().out.startswith("NOT PRIVATE: ")


def test_steps_left_to_a_run(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    """What is left to it by its own plan: the target was found for 100 steps, and 40 are taken."""
    code, told, _ = ask(capsys, make("a", epsilon=3.0), "--target-epsilon=3")
    assert (code, told["found"], told["steps"]) == (0, "steps", 60)
    code, told, _ = ask(capsys, make("b", 100, epsilon=3.0), "--target-epsilon=2")
    assert (code, told["error"]["kind"]) == (3, "privacy-budget")


def test_a_run_as_what_was_spent_before(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--noise-multiplier=2", "--sample-rate=0.01", "--steps=50")
    _, told, _ = ask(capsys, make("a"), *words)
    assert told["epsilon"] == pytest.approx(cost((1.0, 512 / 60000, 40), (2.0, 0.01, 50)), rel=1e-12)


def test_a_plot_of_a_run(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, told, _ = ask(capsys, make("a", epsilon=3.0), f"--plot={tmp_path / 'p.png'}")
    assert (code, (tmp_path / "p.png").read_bytes()[:4]) == (0, b"\x89PNG")
    assert told["plot"] == str(tmp_path / "p.png")


def test_what_is_refused(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make("a")
    plain = make("plain")
    (plain / "ledger.jsonl").unlink()
    broken = make("broken")
    text = (broken / "ledger.jsonl").read_text()
    (broken / "ledger.jsonl").write_text(text.replace('"count":40', '"count":10'))
    for words, expected, message in (
        ([plain], 2, "without a privacy: block"),
        ([tmp_path / "none"], 2, "no such run folder"),
        ([tmp_path], 2, "not a run folder"),
        ([folder, folder], 2, "counted twice"),
        ([folder, shutil.copytree(folder, tmp_path / "copy")], 2, "counted twice"),
        ([broken], 4, "line 3"),
        ([folder, "--delta=2"], 2, "delta"),
    ):
        code, told, _ = ask(capsys, *words)
        assert code == expected
        assert message in f"{told['error']['where']} {told['error']['message']}"


def test_an_empty_ledger_has_spent_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "recipe.yaml").write_text("family: edm\n")
    Ledger.start(tmp_path / "ledger.jsonl").adopt(plan(Privacy(epsilon=1.0), 512, 100, 60000))
    code, told, _ = ask(capsys, tmp_path)
    assert (code, told["epsilon"], told["steps"]) == (0, 0.0, 0)


def test_neither_torch_nor_numpy_is_imported_for_a_run(make: Make) -> None:
    folder = make("a")
    ledger = Ledger.start(folder / "ledger.jsonl")
    ledger.record(Release("label-histogram", 10.0))
    code = (
        "import sys; from gentool.cli.app import run; "
        f"assert run(['privacy-account', {str(folder)!r}]) == 0; "
        "sys.exit(bool({'torch', 'numpy', 'lightning'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
