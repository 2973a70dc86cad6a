"""gentool edit --method steer: the score rises, the noise stays in its bound, and refusals say why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from gentool.errors import UserError
from gentool.runs.samples import read_samples
from gentool.tasks.edit.steer import Steering, climb
from gentool.tasks.sample import sample
from gentool.tasks.train import train
from tests.tasks.runs import Call

FEW = ("--set", "steps=4", "--set", "solver=ddim", "-q")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    changes = ["model.network.channels=8", "trainer.max_steps=120"]
    return train("classifier/digits-small", changes, run_dir=tmp_path_factory.mktemp("cls") / "run").run


def steer(call: Call, run: Path, classifier: Path, out: Path, *more: Any) -> Any:
    fixed = ("--method", "steer", "--classifier", classifier, "--label", 3, "--sample", 5, "-o", out)
    done = call("edit", run, *fixed, *FEW, "--json", *more)
    assert done.code == 0, done.err
    return done.json


def test_the_score_rises_for_every_sample(
    whole_run: Path, classifier: Path, tmp_path: Path, call: Call
) -> None:
    found = steer(call, whole_run, classifier, tmp_path / "s.h5")
    before, after = found["log_prob"]["before"], found["log_prob"]["after"]
    assert all(b > a for a, b in zip(before, after))
    assert sum(after) > sum(before) + 1
    assert found["gradient"] == {"method": "exact-replay(keep=sqrt)", "self_test_error": 0.0}
    assert Path(found["panel"]).is_file()
    assert read_samples(tmp_path / "s.h5").provenance["edit"]["label"] == 3


def test_it_starts_from_what_sampling_draws(
    whole_run: Path, classifier: Path, tmp_path: Path, call: Call
) -> None:
    """With hardly a move, the pictures are `gentool sample`'s own of the same seed."""
    steer(call, whole_run, classifier, tmp_path / "s.npz", "--rate", 1e-9, "--iterations", 1, "--seed", 4)
    drawn = sample(
        whole_run, count=5, seed=4, out=tmp_path / "t.npz", settings={"solver": "ddim", "steps": 4}
    )
    apart = read_samples(tmp_path / "s.npz").array.astype(int) - drawn.images
    assert abs(apart).max() <= 1


@pytest.mark.parametrize("keep", ["all", "log", "3"])
def test_what_is_kept_changes_nothing(
    keep: str, whole_run: Path, classifier: Path, tmp_path: Path, call: Call
) -> None:
    """Nor does the batch."""
    how = ("--iterations", 2)
    reference = steer(call, whole_run, classifier, tmp_path / "a.npz", *how)
    found = steer(call, whole_run, classifier, tmp_path / "b.npz", *how, "--keep", keep, "--batch-size", 2)
    assert found["log_prob"]["after"] == pytest.approx(reference["log_prob"]["after"], rel=1e-3)


def test_the_bound_holds_around_the_start() -> None:
    """Not around wherever the search has come to: a copy of the start is kept."""
    z = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    moved = climb(lambda z: z, lambda x: 5 * x.sum(1), z, Steering(30, rate=0.2, bound=0.1))
    assert torch.allclose((moved - z).abs().max(), torch.tensor(0.1))
    assert torch.allclose(moved, z + 0.1)  # the closed form of a linear score


def test_a_score_that_knows_nothing_of_the_noise_is_refused() -> None:
    z = torch.ones(2, 3)
    for sampler in (torch.zeros_like, lambda z: 0 * z):
        with pytest.raises(UserError, match="identically zero"):
            climb(sampler, lambda x: x.sum(1), z, Steering(2))


@pytest.mark.parametrize(
    ("switches", "words"),
    [
        (["--method", "steeer"], ["unknown method", "did you mean steer"]),
        (["--label", "12"], ["--label '12'", "0 to 9"]),
        (["--label", "1,2"], ["one class"]),
        (["--set", "solver=rk45"], ["chooses its own steps"]),
        (["--keep", "some"], ["--keep", "all, sqrt, log"]),
        (["--keep", "1"], ["at least 2"]),
        (["--rate", "0"], ["must be positive"]),
        (["--bound", "-1"], ["must be positive"]),
        (["--condition", "99"], ["0 to 9"]),
    ],
)
def test_mistakes(
    switches: list[str], words: list[str], whole_run: Path, classifier: Path, call: Call
) -> None:
    fixed = {"--method": "steer", "--label": "3", "--classifier": str(classifier)}
    pairs = [*fixed.items(), *zip(switches[::2], switches[1::2])]
    given = [part for name, value in pairs for part in (name, value)]
    call("edit", whole_run, *given, "--sample", 2, "--set", "steps=3", "-q").refused(2, *words)


def test_runs_that_cannot_be_steered(whole_run: Path, classifier: Path, call: Call) -> None:
    fixed = ("--method", "steer", "--label", 3, "-q")
    call("edit", classifier, *fixed, "--classifier", classifier).refused(2, "steer a diffusion run")
    call("edit", whole_run, *fixed, "--classifier", whole_run).refused(2, "no classifier")
