"""The family of critically-damped Langevin diffusion, from its recipe to its samples and its likelihood."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gentool import families
from gentool.data import open_set
from gentool.errors import CorruptError, RecipeError, UserError
from gentool.recipes.resolve import resolve, resolve_text
from gentool.runs.samples import read_samples
from gentool.runs.weights import load_weights, save_weights
from gentool.tasks.evaluation.likelihood import bits_per_dim
from gentool.tasks.model.build import build_module
from gentool.tasks.model.load import load_run
from gentool.tasks.sample import sample
from gentool.tasks.train import train
from tests.tasks.runs import TINY, Call

TOY = "family: cld\ndata: {name: toy2d, count: 400}\n"
MLP = "network: {name: film-mlp, width: 16, blocks: 1}"
SMALL = (
    "model.network.width=32",
    "model.network.blocks=1",
    "trainer.max_steps=20",
    "trainer.checkpoint_every=10",
    "data.limit=200",
    "sample.steps=6",
    "sample.count=4",
)


def recipe(text: str, sample: str = "{}") -> Any:
    return resolve_text(
        f"{TOY}model: {{{MLP}, {text}}}\nsample: {sample}\n", "toy.yaml", families.recipe_schema
    ).recipe


def said(text: str, data: str = TOY) -> list[str]:
    """What the user hears before training."""
    made = resolve_text(f"{data}model: {{{MLP}, {text}}}\n", "toy.yaml", families.recipe_schema).recipe
    dataset, heard = open_set(made.data, "train"), []
    module = build_module(made, dataset.spec)
    module.say = heard.append
    module.fit_to_data(dataset)
    return heard


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train("cld/digits-small", SMALL, run_dir=tmp_path_factory.mktemp("cld") / "run").run


@pytest.fixture(scope="module")
def edm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(TINY[0], TINY[1:], run_dir=tmp_path_factory.mktemp("edm") / "run").run


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("process: {m_inv: 0.0}", "m_inv: expected a number above 0"),
        ("process: {gamma: -0.1}", "gamma: expected a number of at least 0"),
        ("process: {gamma: 0.0}", "no initial velocity to integrate out: take loss.objective dsm"),
        (
            "process: {gamma: 0.0, numerical_eps: 0.0}, loss: {objective: dsm}",
            "gamma = 0 needs numerical_eps > 0",
        ),
        ("process: {Gamma: 2.0}", "Gamma cannot be set: damping is critical"),
        ("process: {beta0: 0.0}", "nothing would diffuse"),
        ("process: {train_t_min: 0.01}", r"train_t_min \(0.01\) must not exceed t_min \(0.001\)"),
    ],
)
def test_processes_that_are_none_are_refused(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=rf"(?s)toy.yaml:\d+:\d+.*{message}"):
        recipe(text)


def test_a_velocity_at_rest_is_allowed_with_denoising_score_matching() -> None:
    made = recipe("process: {gamma: 0.0}, loss: {objective: dsm}")
    assert made.model.process.gamma == 0


def test_the_recipe_defaults_to_the_familys_own_sampler() -> None:
    assert recipe("").sample.solver == "sscs"
    assert recipe("", "{steps: 7}").sample.solver == "sscs"
    assert resolve("edm/toy2d-small", (), families.recipe_schema).recipe.sample.solver == "dpmpp-2m"


def test_solvers_that_do_not_fit_are_refused_at_their_line_both_ways() -> None:
    with pytest.raises(
        RecipeError, match=r"toy.yaml:\d+:\d+ sample.solver: ddim steps states of data alone.*sscs"
    ):
        recipe("", "{solver: ddim}")
    with pytest.raises(RecipeError, match=r"sample.solver: sscs steps states of data and velocity.*ddim"):
        resolve("edm/toy2d-small", ["sample.solver=sscs"], families.recipe_schema)


def test_solvers_that_do_not_fit_a_run_are_refused_both_ways(digits: Path, edm: Path, call: Call) -> None:
    for run, solver, there_are in ((digits, "ddim", "sscs"), (edm, "sscs", "ddim")):
        ended = call("sample", run, "--solver", solver)
        assert ended.code == 2
        assert f"{solver} steps states of" in ended.err
        assert there_are in ended.err.partition("there are:")[2]


def test_beta_too_small_and_data_far_from_the_equilibrium_are_said() -> None:
    assert said("") == []
    assert "a share of 0.41" in " ".join(said("process: {beta0: 1.0}"))
    far = "family: cld\ndata: {name: toy2d, layout: own, means: [[40.0, 40.0], [42.0, 38.0]], count: 400}\n"
    assert "mean 40 and standard deviation" in said("", far)[0]


def test_a_trained_run_samples_with_every_solver_that_fits(digits: Path, tmp_path: Path) -> None:
    nfe = {}
    for solver in ("sscs", "euler-maruyama", "euler", "heun", "rk45"):
        done = sample(digits, settings={"solver": solver, "steps": 5}, out=tmp_path / f"{solver}.h5")
        nfe[solver] = done.nfe
        assert done.images.shape == (4, 8, 8, 1)
        assert read_samples(done.path).provenance["family"] == "cld"
    assert nfe["sscs"] == 4  # the quadratic grid ends at 0, and the step to it asks for no score
    assert nfe["euler-maruyama"] == 5
    assert nfe["heun"] == 10
    assert nfe["rk45"] > 7


def test_sample_i_of_a_seed_is_the_same_in_every_batch(digits: Path, tmp_path: Path) -> None:
    whole, parts = (
        sample(digits, settings={"batch_size": size}, out=tmp_path / f"{size}.h5").images for size in (4, 3)
    )
    assert np.abs(whole.astype(int) - parts.astype(int)).max() <= 1


def test_guidance_and_the_denoised_end_work_as_on_every_denoiser(digits: Path, tmp_path: Path) -> None:
    plain = sample(digits, label="3", settings={"grid_options": {"final": "t-min"}}, out=tmp_path / "a.h5")
    guided = sample(
        digits,
        label="3",
        settings={
            "grid_options": {"final": "t-min"},
            "guidance": {"cfg": {"scale": 3.0}},
            "denoise": True,
            "threshold": "static",
        },
        out=tmp_path / "b.h5",
    )
    assert guided.nfe == 2 * (plain.nfe + 1)
    assert not np.array_equal(plain.images, guided.images)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"afs": True}, "states of data alone"),
        ({"time_shift": {"window": 10}}, "states of data alone"),
        ({"steps": 1}, "take at least 2 steps"),
        ({"denoise": True}, "ends at sigma = 0"),
        ({"solver": "rk45", "options": {"nu": 1.0}}, "unknown option 'nu'"),
    ],
)
def test_requests_that_would_be_ignored_are_refused(
    digits: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises((UserError, RecipeError), match=message):
        sample(digits, settings=settings)


def test_bits_per_dim_is_reported_as_the_bound_that_it_is(digits: Path) -> None:
    module = load_run(digits)[2]
    bits, details = bits_per_dim(module, count=2)
    assert details["kind"] == "upper bound"
    assert bits > 0


def test_a_run_goes_on_to_the_weights_of_an_uninterrupted_one(digits: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train("cld/digits-small", [*SMALL, "trainer.max_steps=10"], run_dir=run)
    train("cld/digits-small", SMALL, run_dir=run, resume="auto", allow_change=True)
    ours, theirs = (load_weights(path / "model.safetensors")[0] for path in (run, digits))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_weights_of_a_network_without_velocity_are_refused(digits: Path, tmp_path: Path) -> None:
    """A C-channel checkpoint in the place of one with 2 C: an error that names the layer, not half a model."""
    run = tmp_path / "run"
    shutil.copytree(digits, run)
    tensors = dict(load_weights(run / "model.safetensors")[0])
    name = "network.input.weight"
    tensors[name] = tensors[name][:, : tensors[name].shape[1] // 2].contiguous()
    save_weights(run / "model.safetensors", tensors, {"family": "cld"})
    with pytest.raises(CorruptError, match=name):
        load_run(run)
