"""`gentool slurm`: the scripts it prints, word for word, and what it refuses. tests/slurm runs them on a real Slurm."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gentool.cli.app import run
from gentool.errors import UserError
from gentool.tasks.slurm import Cluster, script

GOLDEN = Path(__file__).parent / "slurm"
CASES: dict[str, tuple[str, ...]] = {
    "one-job": ("quickstart", "trainer.accelerator=cpu"),
    "cluster": (
        *("edm/digits-small", "optimizer.lr=1e-4", "description=two words"),
        *(
            "--nodes",
            "2",
            "--devices",
            "4",
            "--time",
            "1-12:00:00",
            "--partition",
            "gpu",
            "--account",
            "physics",
        ),
        *("--mem", "64G", "--cpus", "8", "--grace", "300", "--sbatch", "qos=high", "--sbatch", "--exclusive"),
        *("--setup", "module load cuda", "--setup", "source .venv/bin/activate", "--run-dir", "my run"),
    ),
    "pipeline": ("quickstart", "--then", "sample,evaluate", "--devices", "2"),
    "array": ("quickstart", "seed=7", "--array", "4", "--then", "evaluate", "--run-dir", "seeds/run"),
}


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert run(["slurm", *arguments]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("name", CASES)
def test_the_script_is_the_golden_one(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A script that changed on purpose is looked at, tried by `make test-slurm`, and copied there."""
    assert printed(capsys, *CASES[name]) == (GOLDEN / f"{name}.sh").read_text()


@pytest.mark.parametrize("name", CASES)
def test_the_script_is_valid_shell(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, *CASES[name])
    inner = re.findall(r"<<'JOB'\n(.*?)^JOB$", text, re.M | re.S)
    for shell in (text, *inner):
        done = subprocess.run(["bash", "-n"], input=shell, text=True, capture_output=True)
        assert (done.returncode, done.stderr) == (0, "")


def test_json_holds_the_script_and_names_the_jobs(capsys: pytest.CaptureFixture[str]) -> None:
    document = json.loads(printed(capsys, *CASES["pipeline"], "--json"))
    assert document["jobs"] == ["train", "sample", "evaluate"]
    assert document["script"] == (GOLDEN / "pipeline.sh").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("quickstart", "trainer.max_stepps=3"), ("max_stepps", "did you mean max_steps")),
        (("quickstart", "--time", "2h"), ("--time '2h'", "2:00:00")),
        (("quickstart", "--time", "2"), ("--grace 120", "longer --time")),
        (("quickstart", "--time", "0-1", "--grace", "3600"), ("--grace 3600", "for ever")),
        (("quickstart", "--partition", "gpu fast"), ("--partition", "without blanks")),
        (("quickstart", "--sbatch", "qos=a\nb"), ("--sbatch", "without blanks")),
        (("quickstart", "--setup", "a\nb"), ("--setup", "one line")),
        (("quickstart", "--then", "evalute"), ("--then evalute", "did you mean evaluate")),
        (("quickstart", "--then", "sample,sample"), ("each command once",)),
        (("classifier/digits-small", "--then", "sample"), ("--then sample", "draws no samples")),
    ],
)
def test_what_is_wrong_is_refused(
    arguments: tuple[str, ...], words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["slurm", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    for word in words:
        assert word in err


@pytest.mark.parametrize(
    ("limit", "seconds"),
    [
        ("90", 5400),
        ("90:30", 5430),
        ("2:00:01", 7201),
        ("1-12", 129600),
        ("1-12:30", 131400),
        ("1-12:30:05", 131405),
    ],
)
def test_time_limits_are_read_as_slurm_reads_them(limit: str, seconds: int) -> None:
    """The formats of sbatch's manual page, --time."""
    script("quickstart", cluster=Cluster(time=limit, grace=seconds - 1))
    with pytest.raises(UserError, match=f"--grace {seconds}:"):
        script("quickstart", cluster=Cluster(time=limit, grace=seconds))


def test_printing_a_script_imports_no_torch() -> None:
    code = "import sys; from gentool.cli.app import run; run(['slurm', 'quickstart']); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
