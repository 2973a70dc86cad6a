"""The examples of CONTRIBUTING.md, installed as the package that it describes, do what it shows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from doc_pages import ROOT, console, named_files
from doc_shell import Ended, Shell

from gentool.data.mixture import Mixture

TEXT = (ROOT / "CONTRIBUTING.md").read_text()
FILES = named_files(TEXT)
PROJECT = tomllib.loads(FILES["pyproject.toml"])["project"]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the examples, with the metadata that pip would write from their pyproject.toml."""
    folder = tmp_path_factory.mktemp("extra")
    for name, content in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)
    about = folder / f"{PROJECT['name'].replace('-', '_')}-{PROJECT['version']}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {PROJECT['name']}\nVersion: {PROJECT['version']}\n"
    )
    groups = PROJECT["entry-points"].items()
    lines = [
        line
        for group, points in groups
        for line in (f"[{group}]", *(f"{k} = {v}" for k, v in points.items()))
    ]
    (about / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def shell(package: Path) -> Shell:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(package)]),
        "GENTOOL_CACHE": str(package / "cache"),
    }

    def gentool(arguments: Sequence[str], folder: Path) -> Ended:
        """In a process of its own, which finds the package's entry points as an installed one's."""
        command = [sys.executable, "-m", "gentool", *arguments]
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    return Shell(package, gentool, shrunk=True)  # figures of a training depend on the machine


def test_each_kind_of_plug_in_has_an_example() -> None:
    assert set(PROJECT["entry-points"]) == {
        f"gentool.{kind}" for kind in ("families", "solvers", "data", "metrics")
    }


@pytest.mark.parametrize("kind", ["families", "solvers", "data"])
def test_what_is_named_is_listed(shell: Shell, package: Path, kind: str) -> None:
    ended = shell.gentool([kind, "list", "--json"], package)
    assert ended.code == 0, ended
    (rows,) = json.loads(ended.out).values()
    assert set(PROJECT["entry-points"][f"gentool.{kind}"]) <= {row["name"] for row in rows}


def test_listing_what_the_package_adds_costs_no_torch(package: Path) -> None:
    """The rule that CONTRIBUTING states holds for its own examples."""
    script = (
        "import sys; from gentool import families; from gentool.data.config import CONFIGS; "
        "from gentool.diffusion.solvers.catalog import SOLVERS; from gentool.metrics.catalog import METRICS; "
        "SOLVERS.get('midpoint'), METRICS.get('energy'), families.recipe_schema('vae'), CONFIGS['bars']; "
        "sys.exit('torch' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(package)])}
    assert subprocess.run([sys.executable, "-c", script], env=environment).returncode == 0


def test_the_session_at_the_end_happens(shell: Shell) -> None:
    for command in console(TEXT):
        ended = shell.run(command)
        assert ended.code == 0, f"{command.text}\n{ended}"


def test_the_examples_pass_the_linters(package: Path) -> None:
    ruff = [sys.executable, "-m", "ruff"]
    config = ["--config", str(ROOT / "pyproject.toml"), "--config", "src = ['.']"]
    config += ["--config", "lint.isort.known-first-party = ['gentool']", "extra"]
    for command in ([*ruff, "check", *config], [*ruff, "format", "--check", *config]):
        done = subprocess.run(command, cwd=package, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_midpoint_rule_has_the_order_that_it_claims(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On two Gaussians, whose denoiser is known: half the step, a quarter of the error."""
    from gentool.diffusion import processes
    from gentool.diffusion.config import EdmProcess
    from gentool.diffusion.grids import make_grid
    from gentool.diffusion.solvers.core import State
    from gentool.noise import Noise

    monkeypatch.syspath_prepend(str(package))
    from extra.midpoint import Midpoint  # type: ignore[import-not-found]

    process = processes.build(EdmProcess())
    data = Mixture(np.array([[-1.0], [1.0]]), np.array([0.3, 0.5]), np.array([0.4, 0.6]))

    def end(steps: int) -> float:
        grid = make_grid("karras", steps, process)
        plan, state = Midpoint().prepare(grid, process), State(torch.tensor([[12.0]], dtype=torch.float64))
        for i in range(steps):
            state = plan.step(
                state, i, lambda x, s: torch.from_numpy(data.denoise(x.numpy(), s)), Noise(0, [0], (1,))
            )
        return float(state.x)

    coarse, middle, fine = (end(steps) for steps in (250, 500, 1000))
    assert (coarse - middle) / (middle - fine) == pytest.approx(4, rel=0.1)
