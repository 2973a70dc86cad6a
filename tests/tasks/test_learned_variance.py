"""A run with learned variances, from its recipe to its samples, and what is refused on the way."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gentool import families
from gentool.diffusion.denoiser import Denoiser
from gentool.diffusion.variational import HybridLoss
from gentool.recipes.resolve import resolve
from gentool.tasks.model.load import load_run
from tests.tasks.runs import Call

SHORT = ("model.network.width=16", "data.batch_size=64", "trainer.max_steps=3")


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from gentool.cli.app import run

    folder = tmp_path_factory.mktemp("learned") / "run"
    assert run(["train", "edm/digits-hybrid-small", *SHORT, "--run-dir", str(folder), "-q"]) == 0
    return folder


def test_the_run_keeps_its_variances_and_samples_with_them(learned: Path, call: Call, tmp_path: Path) -> None:
    module = load_run(learned)[2]
    assert isinstance(module.model, Denoiser)
    assert isinstance(module.loss, HybridLoss)
    sigma = torch.tensor([0.5, 3.0])
    x0, v = module.model.with_variance(torch.zeros(2, 1, 8, 8), sigma, torch.tensor([0, 10]))
    assert x0.shape == v.shape == (2, 1, 8, 8)
    torch.testing.assert_close(
        x0, module.model(torch.zeros(2, 1, 8, 8), sigma, torch.tensor([0, 10])), rtol=0, atol=0
    )
    ended = call("sample", learned, "-n", "3", "--steps", "4", "-o", tmp_path / "s.npz", "--json")
    assert (ended.code, ended.json["solver"], ended.json["nfe"]) == (0, "ddpm-learned", 4)
    assert call("sample", learned, "-n", "3", "--solver", "ddim", "-o", tmp_path / "d.npz").code == 0


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (("--guidance", "cfg=2"), "which guidance changes; take ddpm"),
        (("sample.time_shift={window: 4, cutoff: 2}",), "which time_shift changes; take ddpm"),
    ],
)
def test_what_changes_predictions_alone_is_refused(
    learned: Path, call: Call, tmp_path: Path, asked: tuple[str, ...], message: str
) -> None:
    if asked[0].startswith("sample."):
        made = resolve("edm/digits-hybrid-small", asked, families.recipe_schema).recipe
        with pytest.raises(Exception, match="time_shift changes; take ddpm"):
            load_run(learned)[2].check_request(made.sample)
        return
    ended = call("sample", learned, *asked, "-o", tmp_path / "s.npz")
    assert ended.code == 2
    assert message in ended.err


def test_a_run_without_them_cannot_use_the_solver(call: Call, whole_run: Path, tmp_path: Path) -> None:
    ended = call("sample", whole_run, "--solver", "ddpm-learned", "-o", tmp_path / "s.npz")
    assert ended.code == 2
    assert "learned no variances: train one with model.loss.hybrid" in ended.err


def test_data_that_are_no_pictures_are_refused(call: Call) -> None:
    ended = call(
        "train", "edm/toy2d-small", "model.process={name: ddpm}", "model.loss={hybrid: 0.001}", "--dry-run"
    )
    assert ended.code == 2
    assert "model.loss.hybrid" in ended.err
    assert "pixels" in ended.err
