"""The classifier family, and the samples it steers."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from gentool import families
from gentool.data import open_set, to_model
from gentool.diffusion.grids import make_grid
from gentool.diffusion.process import Process
from gentool.errors import RecipeError, UserError
from gentool.families.classifier.module import ClassifierModule
from gentool.noise import Noise
from gentool.recipes.resolve import resolve
from gentool.runs.samples import read_samples, write_samples
from gentool.runs.weights import fingerprint
from gentool.tasks.evaluate import evaluate
from gentool.tasks.model.build import build_module
from gentool.tasks.model.load import load_run
from gentool.tasks.sample import sample
from gentool.tasks.train import train
from gentool.training.augment import shifted
from gentool.training.drawable import check_guide
from gentool.training.drawing import Traits
from gentool.training.sampling import Guide
from tests.tasks.runs import TINY, Call

NOISY = ("classifier/digits-noisy-small", "model.network.channels=8", "trainer.max_steps=250")
CLEAN = ("classifier/digits-small", "model.network.channels=8", "trainer.max_steps=100")


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(NOISY[0], NOISY[1:], run_dir=tmp_path_factory.mktemp("noisy") / "run").run


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(CLEAN[0], CLEAN[1:], run_dir=tmp_path_factory.mktemp("clean") / "run").run


@pytest.fixture(scope="module", params=["unconditional", "conditional"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny diffusion run: its samples are poor, and a classifier moves them all the same."""
    conditional = str(request.param == "conditional").lower()
    folder = tmp_path_factory.mktemp("model") / "run"
    return train(TINY[0], [*TINY[1:], f"model.conditional={conditional}"], run_dir=folder).run


def fresh(name: str, *overrides: str) -> ClassifierModule:
    recipe = resolve(name, overrides, families.recipe_schema).recipe
    dataset = open_set(recipe.data, "train")
    module = build_module(recipe, dataset.spec)
    assert isinstance(module, ClassifierModule)
    module.fit_to_data(dataset)
    return module


def held_out(run: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """The held-out digits in [-1, 1], and their labels."""
    dataset = open_set(load_run(run)[1].recipe.data, "test")
    batch = dataset.take(range(len(dataset)))
    return to_model(batch.x), batch.label


# Training


def test_shifts_move_each_picture_by_whole_pixels_and_repeat_the_border() -> None:
    x = torch.randn(3, 2, 5, 6)
    moved = shifted(x, torch.tensor([[0, 0], [2, -1], [-1, 1]]))
    padded = F.pad(x, (2, 2, 2, 2), mode="replicate")
    assert torch.equal(moved[0], x[0])
    assert torch.equal(moved[1], padded[1, :, 0:5, 3:9])
    assert torch.equal(moved[2], padded[2, :, 3:8, 1:7])


@pytest.mark.parametrize("name", ["classifier/digits-small", "classifier/digits-noisy-small"])
def test_a_classifier_that_knows_nothing_costs_the_entropy_of_the_classes(name: str) -> None:
    module = fresh(name, "model.flip=true")
    torch.nn.init.zeros_(module.model.network.output.weight)
    torch.nn.init.zeros_(module.model.network.output.bias)
    loss = module.per_example_loss(open_set(module.recipe.data, "train").take(range(7)))
    assert loss.tolist() == pytest.approx([math.log(10)] * 7)


@pytest.mark.parametrize("sigma", [0.002, 0.5, 80.0])
def test_the_network_sees_unit_variance_at_every_noise_level(sigma: float) -> None:
    module = fresh("classifier/digits-noisy-small")
    seen = []
    module.model.network.input.register_forward_hook(lambda layer, given, out: seen.append(given[0]))
    x0 = to_model(open_set(module.recipe.data, "test").take(range(300)).x)
    module.model(x0 + sigma * torch.randn(x0.shape), torch.full((300,), sigma))
    assert seen[0].std() == pytest.approx(1, abs=0.03)


def test_held_out_digits_are_read_and_noise_makes_it_harder(clean: Path, noisy: Path) -> None:
    assert evaluate(str(clean)).metrics["accuracy"] > 0.85
    figures = evaluate(str(noisy)).metrics
    accuracies = [value for name, value in figures.items() if name.startswith("accuracy")]
    assert accuracies[0] > 0.85
    assert accuracies == sorted(accuracies, reverse=True)
    assert accuracies[-1] > 0.1


def test_log_p_goes_from_certainty_to_the_prior_over_the_whole_range(noisy: Path) -> None:
    """Where only noise is left the classifier must say so: ln 10 nats, and no direction to be steered in."""
    guide = load_run(noisy)[2].guide()
    assert (guide.sigma_min, guide.sigma_max) == (0.002, 80.0)
    x0, label = held_out(noisy)
    noise = Noise(0, range(len(x0)), x0.shape[1:]).normal("test")

    def nats(sigma: float) -> float:
        return -float(guide.log_prob(x0 + sigma * noise, torch.full((len(x0),), sigma), label).mean())

    assert nats(guide.sigma_min) < 0.3
    assert nats(guide.sigma_max) == pytest.approx(math.log(10), abs=0.1)

    one = torch.full((len(x0),), 1.0)
    every = torch.stack([guide.log_prob(x0, one, torch.full_like(label, k)) for k in range(10)])
    assert torch.allclose(every.exp().sum(0), torch.ones(len(x0)), atol=1e-5)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model.network.noise_conditioned=true"], "add model.noise"),
        (["model.noise={process: {name: vp}, times: {name: discrete}}"], "needs the ddpm process"),
        (
            ["model.network={name: cnn}", "model.noise={}"],
            "network cnn reads clean pictures only: take resnet",
        ),
        (
            ["model.network={name: wrn, depth: 10}", "privacy={epsilon: 10}"],
            "private training takes group",
        ),
        (["model.network={name: wrn, depth: 12}"], "depth must be 6 n + 4, such as 10 or 16, got 12"),
        (
            ["model.network={name: cnm}"],
            "expected one of resnet, logreg, mlp, cnn, wrn, got 'cnm'; did you mean cnn?",
        ),
    ],
)
def test_recipes_that_contradict_themselves_are_refused(overrides: list[str], words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        resolve("classifier/digits-small", overrides, families.recipe_schema)
    assert words in str(caught.value)


def test_data_that_cannot_be_learnt_are_refused() -> None:
    with pytest.raises(UserError, match="reads images; toy2d is vector data"):
        fresh("classifier/digits-small", "data={name: toy2d, batch_size: 8}")


# Evaluating


def test_evaluate_reports_accuracy_on_the_held_out_split(call: Call, clean: Path) -> None:
    ended = call("evaluate", clean, "--json", "-q")
    assert ended.code == 0, ended.err
    x0, label = held_out(clean)
    right = (load_run(clean)[2].model(x0).argmax(1) == label).double().mean()
    assert ended.json["metrics"]["accuracy"] == pytest.approx(float(right))
    assert ended.json["reference"] == "digits (held out)"
    assert (ended.json["count"], ended.json["features"]) == (len(x0), None)
    card = (clean / "README.md").read_text()
    assert "- accuracy: " in card
    assert "gentool sample" not in card


def test_evaluate_takes_some_metrics_and_some_examples(clean: Path) -> None:
    done = evaluate(str(clean), metrics=["accuracy"], count=50)
    assert list(done.metrics) == ["accuracy"]
    assert done.document()["count"] == 50


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--metric", "fid"], "has no fid"),
        (["--features", "pixels"], "this run draws none"),
        (["--reference", "toy2d"], "the model was trained on (1, 8, 8)"),
    ],
)
def test_evaluate_refuses_what_is_for_samples(
    arguments: list[str], words: str, call: Call, clean: Path
) -> None:
    call("evaluate", clean, *arguments, "-q").refused(2, words)


# Judging


@pytest.mark.parametrize("kind", ["clean", "noisy"])
def test_the_users_classifier_judges_samples_and_the_result_says_which(
    kind: str, call: Call, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """On real digits its label accuracy is its own accuracy on them."""
    run = request.getfixturevalue(kind)
    unseen = open_set(load_run(run)[1].recipe.data, "test")
    real = unseen.take(range(len(unseen)))
    file = write_samples(tmp_path / "real.npz", real.x.permute(0, 2, 3, 1).numpy(), real.label.numpy())
    how = ["--reference", "digits", "--metric", "label-accuracy", "--metric", "fid", "--classifier", run]
    ended = call("evaluate", file, *how, "--json", "-q")
    assert ended.code == 0, ended.err
    own = evaluate(str(run), metrics=["accuracy"]).metrics["accuracy"]
    assert ended.json["metrics"]["label-accuracy"] == pytest.approx(own)
    digest = fingerprint(run / "model.safetensors")
    assert ended.json["features"] == f"classifier:{digest[:12]}"
    for part in (run.name, digest, "on digits (held out)"):
        assert part in ended.json["extractor"]


def test_judges_that_cannot_judge_are_refused(call: Call, model: Path, clean: Path, tmp_path: Path) -> None:
    asked = ["evaluate", model, "-n", "4", "--metric", "fid", "--classifier"]
    call(*asked, model).refused(2, "family edm is no classifier")
    call(*asked, tmp_path / "nowhere").refused(2, "nowhere")
    call(*asked, clean, "--features", "pixels").refused(2, "with pixels nothing would ask it")
    call("evaluate", clean, "--classifier", clean).refused(2, "--classifier is for samples")
    other = train(
        CLEAN[0], [*CLEAN[1:], "data.classes=[0, 1]", "trainer.max_steps=2"], run_dir=tmp_path / "two"
    ).run
    call(*asked, other).refused(2, "reads 1x8x8 in 2 classes (0, 1); digits has 1x8x8 in 10 classes")


# Guiding


def test_guided_samples_are_likelier_of_the_classes_asked_for(
    model: Path, noisy: Path, tmp_path: Path
) -> None:
    guide = load_run(noisy)[2].guide()

    def mean_log_prob(scale: float) -> float:
        how = {"guidance": {"classifier": {"scale": scale}}}
        made = sample(model, count=40, out=tmp_path / "s.h5", classifier=noisy, settings=how)
        assert made.labels is not None
        assert made.labels.tolist() == [*range(10)] * 4
        x = to_model(torch.from_numpy(made.images).permute(0, 3, 1, 2))
        sigma = torch.full((40,), guide.sigma_min)
        return float(guide.log_prob(x, sigma, torch.from_numpy(made.labels)).mean())

    assert mean_log_prob(0.0) + 0.5 < mean_log_prob(3.0)


def test_scale_zero_leaves_the_model_alone(model: Path, noisy: Path, tmp_path: Path) -> None:
    plain = sample(model, count=4, out=tmp_path / "a.h5")
    how = {"guidance": {"classifier": {"scale": 0}}}
    guided = sample(model, count=4, out=tmp_path / "b.h5", classifier=noisy, settings=how)
    assert np.array_equal(plain.images, guided.images)
    assert plain.nfe == guided.nfe


@pytest.mark.parametrize("model", ["unconditional"], indirect=True)
def test_the_command_line_guides_however_the_work_is_split(
    call: Call, model: Path, noisy: Path, tmp_path: Path
) -> None:
    how = ["-n", "6", "--label", "3,7", "--guidance", "classifier=2", "--steps", "5", "--batch-size", "3"]
    made = []
    for devices in ("1", "2"):
        out = tmp_path / f"{devices}.h5"
        ended = call(
            "sample", model, *how, "--classifier", noisy, "--devices", devices, "-o", out, "-q", "--json"
        )
        assert ended.code == 0, ended.err
        made.append(read_samples(out))
    assert np.array_equal(made[0].array, made[1].array)
    assert made[0].labels is not None
    assert made[0].labels.tolist() == [3, 7] * 3
    assert made[0].provenance["classifier"] == noisy.name
    assert made[0].provenance["classifier_sha256"] != made[0].provenance["model_sha256"]


def test_a_classifier_draws_no_samples(call: Call, clean: Path) -> None:
    call("sample", clean).refused(2, "draws no samples: use it with --guidance classifier=2 --classifier RUN")


def test_what_cannot_guide_is_refused(
    call: Call, model: Path, clean: Path, noisy: Path, tmp_path: Path
) -> None:
    guided = ["sample", model, "--guidance", "classifier=2"]
    call(*guided).refused(2, "no classifier given", "--classifier RUN")
    call(*guided, "--classifier", clean).refused(2, "trained on clean pictures", "model.noise")
    call(*guided, "--classifier", model).refused(2, "family edm is no classifier")
    call(*guided, "--classifier", tmp_path / "nowhere").refused(2, "nowhere")
    call("sample", model, "--classifier", noisy).refused(2, "no guidance rule asks it")
    call(*guided, "--classifier", noisy, "--label", "ten").refused(2, "the classes are 0 to 9")


def test_a_guide_must_know_the_states_and_classes_of_the_model(noisy: Path) -> None:
    guide = load_run(noisy)[2].guide()
    grid = make_grid("karras", 10, edm_process())
    traits = Traits(shape=(1, 8, 8), classes=10, label_dropout=0.1, images=True)
    check_guide(guide, grid, traits)
    check_guide(replace(guide, class_names=("a", "b")), grid, replace(traits, classes=0))
    narrow: list[tuple[Guide, str]] = [
        (replace(guide, shape=(1, 28, 28)), "reads samples of shape 1x28x28, this model makes 1x8x8"),
        (replace(guide, class_names=("a", "b")), "knows 2 classes, this model was trained on 10"),
        (replace(guide, sigma_max=10.0), "sigma from 0.002 to 10, and sampling passes from 80 to 0.002"),
        (replace(guide, sigma_min=0.02), "sigma from 0.02 to 80"),
    ]
    for other, words in narrow:
        with pytest.raises(UserError, match=words):
            check_guide(other, grid, traits)


def edm_process() -> Process:
    from gentool.diffusion import processes
    from gentool.diffusion.config import EdmProcess

    return processes.build(EdmProcess())


@pytest.mark.slow
def test_the_recipe_reads_digits_as_well_as_it_says(tmp_path: Path) -> None:
    run = train("classifier/digits-small", run_dir=tmp_path / "run").run
    assert evaluate(str(run)).metrics["accuracy"] >= 0.97


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_guidance_makes_an_unconditional_model_draw_the_digits_asked_for(tmp_path: Path) -> None:
    """Label accuracy by the judge of the real digits: chance without guidance, nearly always with it."""
    shorter = ["model.conditional=false", "trainer.max_steps=1500"]
    model = train("quickstart", shorter, run_dir=tmp_path / "model").run
    classifier = train("classifier/digits-noisy-small", run_dir=tmp_path / "classifier").run

    def label_accuracy(scale: float) -> float:
        out = tmp_path / f"{scale}.h5"
        how = {"guidance": {"classifier": {"scale": scale}}}
        sample(model, count=200, out=out, classifier=classifier, settings=how)
        return evaluate(str(out), metrics=["label-accuracy"]).metrics["label-accuracy"]

    assert label_accuracy(0.0) < 0.2
    assert label_accuracy(4.0) > 0.8
