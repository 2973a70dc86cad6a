"""Every way to end: exit code, standard error, and one JSON document when asked for."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import typer

from gentool import errors
from gentool.cli.errors import guarded


def raising(error: BaseException) -> Callable[[], None]:
    def work() -> None:
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "code", "kind"),
    [
        (errors.GentoolError("no device"), 1, "failure"),
        (errors.UserError("no such run", "runs/x"), 2, "input"),
        (errors.RecipeError([errors.Problem("r.yaml:1:2", "a.b", "unknown key")]), 2, "recipe"),
        (errors.BudgetError("epsilon spent"), 3, "privacy-budget"),
        (errors.CorruptError("hash differs", "model.safetensors"), 4, "corrupt"),
        (errors.PreemptedError("saved"), 75, "preempted"),
        (errors.RunInterrupted("saved"), 130, "interrupted"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (typer.Abort(), 130, "interrupted"),
        (typer.BadParameter("not a number"), 2, "usage"),
        (OSError(errno.ENOSPC, "No space left on device", "runs/x"), 1, "failure"),
        (MemoryError(), 1, "failure"),
        (ZeroDivisionError("division by zero"), 1, "defect"),
        (FileNotFoundError(errno.ENOENT, "No such file", "x"), 1, "defect"),
        (BrokenPipeError(errno.EPIPE, "a worker's pipe, not standard output"), 1, "defect"),
        (typer.Exit(75), 75, None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value),
)
def test_every_end_has_its_code_and_kind(
    error: BaseException, code: int, kind: str | None, capfd: pytest.CaptureFixture[str]
) -> None:
    assert guarded(raising(error), as_json=False) == code
    out, err = capfd.readouterr()
    assert out == ""
    assert ("Traceback" in err) == (kind == "defect")
    assert ("defect of gentool" in err) == (kind == "defect")

    assert guarded(raising(error), as_json=True) == code
    out, err = capfd.readouterr()
    assert ("Traceback" in err) == (kind == "defect")
    if kind is not None:
        document = json.loads(out)
        assert list(document) == ["error"]
        assert document["error"]["kind"] == kind
        assert document["error"]["message"]
        assert "where" in document["error"]


def test_where_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    error = errors.UserError("no such run", "runs/x")
    guarded(raising(error), as_json=False)
    assert capfd.readouterr().err == "gentool: runs/x: no such run\n"
    guarded(raising(error), as_json=True)
    assert json.loads(capfd.readouterr().out)["error"]["where"] == "runs/x"


def run(arguments: list[str], **options: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "gentool", *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **options)  # type: ignore[call-overload, no-any-return]


def test_a_reader_that_went_away_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    process = run(["recipes", "list"], stdout=write)
    os.close(write)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (141, "")


def test_output_that_a_stream_cannot_encode_is_escaped() -> None:
    process = run(
        ["recipes", "validate", "größe.yaml"],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONIOENCODING": "ascii:strict"},
    )
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "gr\\xf6\\xdfe.yaml: no such recipe" in err


HEAVY = {"torch", "lightning", "numpy", "scipy", "sklearn", "torchmetrics", "h5py", "pandas"}
SCRIPT = """
import json, sys
sys.path[:0] = sys.argv[1:2]
if "toy" in sys.argv[2]:
    import recipe_toy
    from gentool import families
    families.recipe_schema = recipe_toy.schema_of
from gentool.cli.app import run
code = run(sys.argv[3:])
print(json.dumps([code, sorted({name.partition(".")[0] for name in sys.modules})]), file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("toy", "arguments", "also"),
    [
        ("", ["--help"], {"pydantic", "yaml"}),
        ("", ["--version"], {"pydantic", "yaml", "rich"}),
        ("", ["recipes", "--help"], {"yaml"}),
        ("", ["recipes", "list"], set()),
        ("", ["recipes", "validate", "quickstart"], {"PIL"}),
        ("", ["data", "list"], {"PIL"}),
        ("", ["recipes", "show", "edm/cifar10-paper", "--origins"], {"PIL"}),
        ("toy", ["recipes", "show", "r.yaml"], set()),
        ("toy", ["recipes", "validate", "r.yaml", "--json"], {"rich"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_light_commands_import_nothing_heavy(
    toy: str, arguments: list[str], also: set[str], tmp_path: object
) -> None:
    from pathlib import Path

    from recipe_toy import RECIPE

    folder = Path(str(tmp_path))
    (folder / "r.yaml").write_text(RECIPE)
    here = Path(__file__).parents[1]
    process = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(here / "recipes"), toy, *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(here.parent)},
        timeout=60,
        check=True,
    )
    code, modules = json.loads(process.stderr.splitlines()[-1])
    assert code == 0
    assert not (HEAVY | also) & set(modules)
