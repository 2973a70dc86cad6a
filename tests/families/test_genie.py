"""GENIE: what the head learns and how it samples, the base it stands on, and what is refused."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gentool import families, networks
from gentool.data import DataSpec, open_set
from gentool.diffusion.config import VpProcess
from gentool.diffusion.derivative import DerivativeHead
from gentool.diffusion.processes import Cosine, Flow, Vp, build
from gentool.diffusion.solvers.catalog import SOLVERS
from gentool.errors import CorruptError, UserError
from gentool.families.genie.module import GenieModule, VpUniform
from gentool.networks.base import Features
from gentool.networks.config import Head
from gentool.networks.head import build_head
from gentool.noise import Noise
from gentool.recipes.resolve import resolve, resolve_text
from gentool.recipes.schema import Sample
from gentool.runs.weights import load_weights, save_weights
from gentool.tasks.model.build import build_module
from gentool.tasks.model.load import load_run
from gentool.tasks.sample import sample
from gentool.tasks.train import train
from gentool.training.sampling import SampleRequest
from tests.tasks.runs import Call, Ended

QUICK = ("trainer.log_every=20", "data.batch_size=64", "optimizer.warmup=5")
BASE = ("edm/digits-vp-small", "model.network={name: film-mlp, width: 64, blocks: 2, dropout: 0.1}", *QUICK)
BASE += ("model.precond={name: edm}", "trainer.max_steps=300", "optimizer.lr=3.0e-3")
HEAD = ("genie/digits-small", "trainer.max_steps=300", "model.head.channels=64", *QUICK)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small trained diffusion run; tests only read it."""
    return train(BASE[0], BASE[1:], run_dir=tmp_path_factory.mktemp("base") / "run").run


@pytest.fixture(scope="module")
def head(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A head distilled from it."""
    return train(HEAD[0], (*HEAD[1:], f"base={base}"), run_dir=tmp_path_factory.mktemp("head") / "run").run


@pytest.fixture
def run(head: Path, tmp_path: Path) -> Path:
    return shutil.copytree(head, tmp_path / "run")


def untrained(base: str | Path = "edm/digits-vp-small", *overrides: str) -> GenieModule:
    recipe = resolve("genie/digits-small", (f"base={base}", *overrides), families.recipe_schema).recipe
    dataset = open_set(recipe.data, "train")
    module = build_module(recipe, dataset.spec)
    assert isinstance(module, GenieModule)
    module.fit_to_data(dataset)
    return module.eval()


def settings(**changes: Any) -> Sample:
    chosen = Sample(solver="genie", steps=5).model_dump() | changes
    return Sample.model_validate(chosen)


def draw(module: GenieModule, count: int = 16, **changes: Any) -> Tensor:
    labels = torch.arange(count) % 10
    with torch.no_grad():
        return module.draw(SampleRequest(0, range(count), labels, settings(**changes))).x


# --- the head ---


@pytest.mark.parametrize("name", ["edm/digits-vp-small", "edm/digits-small", "edm/digits-flow-small"])
def test_an_untrained_head_leaves_ddim_as_it_is(name: str) -> None:
    module = untrained(name, "model.head.channels=null")
    grid = {"grid": "edm-vp", "guidance": {"cfg": {"scale": 2.0}}}
    one, other = draw(module, **grid), draw(module, solver="dpm-1", **grid)
    assert torch.equal(one, other)
    torch.testing.assert_close(one, draw(module, solver="ddim", **grid), rtol=1e-6, atol=1e-6)


def test_parameters_of_the_papers_cifar_10_head() -> None:
    """conv3x3 134 -> 128, one residual block at 128 with an embedding of 512, conv3x3 128 -> 9."""
    n, e, c = 128, 512, 3
    features = Features(torch.empty(1, c, 32, 32), torch.empty(1, n, 32, 32), torch.empty(1, e))
    head = build_head(Head(), (c, 32, 32), 3, features)
    conv = n * n * 9 + n
    want = ((n + 2 * c) * n * 9 + n) + (2 * 2 * n + 2 * conv + e * n + n) + (2 * n + n * 3 * c * 9 + 3 * c)
    assert networks.summary(head)["total"] == want == 526_473
    normalised = build_head(Head(normalise=True), (c, 32, 32), 3, features)
    assert networks.summary(normalised)["total"] == want + 2 * n


@pytest.mark.parametrize(
    ("shape", "last"), [((3, 8, 8), (16, 8, 8)), ((3, 8, 8), (16, 4, 4)), ((3, 8, 8), (32,)), ((5,), (32,))]
)
@pytest.mark.parametrize("config", [Head(), Head(channels=24, normalise=True), Head(features="none")])
def test_heads_of_every_kind_of_features(shape: tuple[int, ...], last: tuple[int, ...], config: Head) -> None:
    """Right shapes; zero at first; and every weight but none of the base's reaches the output once it is trained."""
    features = Features(torch.zeros(2, *shape), torch.randn(2, *last), torch.randn(2, 20))
    head = build_head(config, shape, 3, features)
    x, eps, level = torch.randn(2, *shape), torch.randn(2, *shape), torch.randn(2)
    out = head(x, eps, level, features)
    assert out.shape == (2, 3 * shape[0], *shape[1:])
    assert not out.any()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    changed = replace_features(features)
    reads = not torch.equal(head(x, eps, level, features), head(x, eps, level, changed))
    assert reads == (config.features == "network")
    head(x, eps, level, features).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in head.parameters())


def replace_features(features: Features) -> Features:
    return Features(features.out, features.last + 1, features.emb - 1)


def test_the_first_steps_move_the_starting_weights() -> None:
    """The released initialisation multiplies weights by 1e-5, which only just lets a gradient through."""
    features = Features(torch.zeros(2, 3, 8, 8), torch.randn(2, 16, 8, 8), torch.randn(2, 64))
    head = build_head(Head(), (3, 8, 8), 3, features)
    x, eps = torch.randn(2, 2, 3, 8, 8)
    optimizer = torch.optim.Adam(head.parameters(), 1e-2)
    losses = []
    for _ in range(60):
        loss = (head(x, eps, torch.zeros(2), features)[:, :3] - eps).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < 0.5 * losses[0]


# --- what is learned ---


def test_the_loss_is_the_weighted_error_of_the_derivative(base: Path) -> None:
    """An untrained head predicts 0: its loss is sigma^2 |d eps/d sigma|^2, here by differences along the flow."""
    module = untrained(base).double()
    module.rng.manual_seed(0)
    examples = module.examples(open_set(module.recipe.data, "train").take(range(8)))
    sigma, label, denoiser = examples["sigma"].double(), examples["label"], module.base.model
    x = examples["x0"].double() + sigma.view(-1, 1, 1, 1) * examples["noise"].double()
    ends, h = [], 1e-5 * sigma
    wide = (-1, 1, 1, 1)
    with torch.no_grad():
        for sign in (-1, 1):
            half = x + (sign * h / 2).view(wide) * denoiser.eps(x, sigma, label)
            slope = denoiser.eps(half, sigma + sign * h / 2, label)
            ends.append(denoiser.eps(x + (sign * h).view(wide) * slope, sigma + sign * h, label))
        want = sigma**2 * ((ends[1] - ends[0]) / (2 * h).view(wide)).square().flatten(1).sum(1)
        found = module.losses({k: v.double() if v.is_floating_point() else v for k, v in examples.items()})
    torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-6)


def test_targets_have_no_dropout_and_are_the_same_in_training(base: Path) -> None:
    module = untrained(base)
    x, sigma = torch.randn(4, 1, 8, 8), torch.tensor([0.05, 0.5, 5.0, 50.0])
    first = module.target(x, sigma, None)[1]
    module.train()
    assert torch.equal(module.target(x, sigma, None)[1], first)
    assert not any(p.requires_grad for p in module.base.parameters())
    assert not module.base.training


def test_double_backward_gives_the_same_targets(base: Path) -> None:
    module = untrained(base)
    x, sigma = torch.randn(4, 1, 8, 8), torch.tensor([0.05, 0.5, 5.0, 50.0])
    assert module.mode == "forward"
    forward = module.target(x, sigma, None)[1]
    module.mode = "double-backward"
    torch.testing.assert_close(module.target(x, sigma, None)[1], forward, rtol=1e-3, atol=1e-4)


def test_mixed_precision_leaves_head_and_targets_in_float32(base: Path) -> None:
    module = untrained(base)
    examples = module.examples(open_set(module.recipe.data, "train").take(range(8)))
    plain = module.losses(examples)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(module.losses(examples), plain)


@pytest.mark.parametrize(
    ("process", "low", "high"), [(Vp(), 1e-3, 1.0), (Vp(t_min=0.01), 0.01, 1.0), (Cosine(), None, None)]
)
def test_times_are_uniform_on_the_clock_of_vp(process: Any, low: float | None, high: float | None) -> None:
    law = VpUniform(process)
    u = torch.linspace(0, 1, 101, dtype=torch.float64)
    sigma = law(u)
    assert float(sigma[0]) == pytest.approx(process.sigma_min)
    assert float(sigma[-1]) == pytest.approx(process.sigma_max)
    t = law.clock.t_of_sigma(sigma)
    torch.testing.assert_close(t.diff(), torch.full_like(t[1:], float(t[-1] - t[0]) / 100))
    if low is not None:
        assert (law.low, law.high) == pytest.approx((low, high))


def test_the_clock_of_another_process_is_the_papers() -> None:
    assert VpUniform(Flow()).clock.beta_d == 19.9
    own = build(VpProcess(beta_min=0.2, beta_d=9.8))
    assert VpUniform(own).clock is own


def test_a_distilled_head_comes_nearer_to_the_end_of_the_flow(head: Path) -> None:
    """The same base, noise and grid: five and ten steps, against a hundred of Heun's."""
    module = load_run(head)[2]
    assert isinstance(module, GenieModule)
    end = draw(module, 64, solver="edm", steps=100, grid="power-t")
    for steps in (5, 10):
        miss = {
            name: float((draw(module, 64, solver=name, steps=steps) - end).square().mean().sqrt())
            for name in ("ddim", "genie")
        }
        assert miss["genie"] < 0.85 * miss["ddim"], (steps, miss)


def test_guidance_asks_both_branches_and_costs_two_calls(head: Path) -> None:
    module = load_run(head)[2]
    request = SampleRequest(0, range(4), torch.arange(4), settings(guidance={"cfg": {"scale": 3.0}}))
    with torch.no_grad():
        drawn = module.draw(request)
    assert drawn.nfe == 10
    assert (drawn.x - draw(module, 4)).abs().max() > 0.05  # type: ignore[arg-type]


def test_pictures_are_encoded_by_any_deterministic_solver_and_come_back(
    head: Path, tmp_path: Path, call: Call
) -> None:
    """Ten quadratic steps each way. The exact derivative is of second order, whatever this short training learned; a
    head costs no call more than DDIM. (Exact derivatives and heads: tests/diffusion/test_genie_solvers.py.)"""
    missed = {}
    for solver, calls in (("ddim", 1), ("genie", 1), ("ttm2", 3)):
        done = encoded(call, head, tmp_path, f"solver={solver}", "steps=10", "grid=power-t")
        assert done.code == 0, done.err
        assert done.json["solver"] == solver
        assert done.json["nfe"] == 20 * calls
        missed[solver] = done.json["reconstruction"]
    assert missed["ttm2"] < 0.5 * missed["ddim"]
    assert abs(missed["genie"] - missed["ddim"]) > 1e-3  # the head is asked


def encoded(call: Call, run: Path, folder: Path, *changes: str) -> Ended:
    sets = [word for change in changes for word in ("--set", change)]
    return call(
        "edit",
        run,
        "digits",
        "--method",
        "ddim-inversion",
        "-n",
        8,
        *sets,
        "-o",
        folder / "x.npz",
        "--json",
        "-q",
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["solver=ddpm"], ["--set", "ddpm draws noise"]),
        (["solver=sscs"], ["sample.solver", "velocity"]),
        (["solver=nosuch"], ["nosuch"]),
        (["solver=genie", "afs=true"], ["--set", "ddim-inversion reads", "not 'afs'"]),
        (["solver=genie", "threshold=static"], ["sample.threshold", "ttm2 differentiates the clipped one"]),
    ],
)
def test_solvers_that_do_not_run_backwards(
    changes: list[str], words: list[str], head: Path, tmp_path: Path, call: Call
) -> None:
    encoded(call, head, tmp_path, *changes).refused(2, *words)
    assert not list(tmp_path.iterdir())


def test_its_likelihood_is_its_bases(head: Path, base: Path) -> None:
    x = torch.linspace(-1, 1, 128).view(2, 1, 8, 8)
    label = torch.tensor([3, 4])
    found, expected = (
        load_run(run)[2].log_likelihood(x, Noise(0, [0, 1], (1, 8, 8)), label).log_prob
        for run in (head, base)
    )
    assert torch.equal(found, expected)


# --- the run folder ---


def test_the_run_holds_its_base_and_its_weights_are_the_heads(head: Path, base: Path) -> None:
    tensors, metadata = load_weights(head / "model.safetensors")
    assert tensors
    assert all(name.startswith("network.") for name in tensors)
    assert (head / "base" / "model.safetensors").read_bytes() == (base / "model.safetensors").read_bytes()
    assert metadata["base_sha256"] == load_run(head)[0].read_provenance()["base"]["sha256"]
    assert metadata["weights"] == "raw"


def test_a_moved_run_samples_as_before_and_its_base_samples_too(
    run: Path, head: Path, tmp_path: Path
) -> None:
    moved = sample(run, count=4, out=tmp_path / "a.npz").images
    assert (moved == sample(head, count=4, out=tmp_path / "b.npz").images).all()
    assert sample(run, count=4, out=tmp_path / "c.npz", settings={"solver": "dpmpp-2m"}).nfe == 10
    sample(run / "base", count=4, out=tmp_path / "d.npz")


def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(base: Path, tmp_path: Path) -> None:
    short = (*HEAD[1:], f"base={base}", "trainer.max_steps=6", "optimizer.schedule=constant")
    whole = train(HEAD[0], short, run_dir=tmp_path / "whole").run
    part = train(HEAD[0], (*short, "trainer.max_steps=3"), run_dir=tmp_path / "part").run
    train(HEAD[0], short, run_dir=part, resume="auto")
    assert (part / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_resuming_needs_the_base_no_more_but_refuses_another(head: Path, base: Path, tmp_path: Path) -> None:
    other = shutil.copytree(base, tmp_path / "other")
    short = (*HEAD[1:], f"base={other}", "trainer.max_steps=2")
    run = train(HEAD[0], short, run_dir=tmp_path / "run").run
    tensors, metadata = load_weights(other / "model.safetensors")
    name = next(n for n, v in tensors.items() if v.dim() == 2)
    save_weights(other / "model.safetensors", {**tensors, name: tensors[name] + 1}, metadata)
    with pytest.raises(UserError, match="not those this run began with"):
        train(HEAD[0], (*short, "trainer.max_steps=3"), run_dir=run, resume="auto")
    shutil.rmtree(other)
    assert train(HEAD[0], (*short, "trainer.max_steps=3"), run_dir=run, resume="auto").steps == 3


# --- what is refused ---


def test_a_head_on_another_base_is_refused(run: Path, call: Call, tmp_path: Path) -> None:
    weights = run / "base" / "model.safetensors"
    tensors, metadata = load_weights(weights)
    name = next(n for n, v in tensors.items() if v.dim() == 2)
    save_weights(weights, {**tensors, name: tensors[name] * 1.01}, metadata)
    call("sample", run, "-n", 2).refused(4, "not the base that the head was distilled from", "SHA-256")
    shutil.rmtree(run / "base")
    with pytest.raises(CorruptError, match="is missing"):
        load_run(run)


def test_a_run_without_a_head_says_how_to_get_one(base: Path, call: Call) -> None:
    done = call("sample", base, "--solver", "genie", "--steps", 5)
    done.refused(2, "genie: this run has no head", "gentool train genie/", "ttm2")


def test_ttm2_needs_none(base: Path, call: Call, tmp_path: Path) -> None:
    done = call("sample", base, "--solver", "ttm2", "--steps", 2, "-n", 2, "-o", tmp_path / "s.npz", "--json")
    assert done.json["nfe"] == 6


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["base=edm/digits-vp-small"], ["is no run folder", "gentool train edm/digits-vp-small"]),
        (["base=nowhere"], ["base: 'nowhere' is no run folder"]),
        (["base=."], ["not a run folder"]),
        (["base="], ["base"]),
        (["~base"], ["base", "required"]),
        (["data={name: toy2d}"], ["the base makes image data of shape 1x8x8", "toy2d is vector data"]),
        (["data.classes=[1, 2]"], ["in 10 classes", "in 2 classes", "set data"]),
        (["model.head.channels=6"], ["model.head.channels", "4"]),
        (["model.head.featurs=none"], ["did you mean features"]),
        (["model.weight=gamma"], ["model.weight", "gamma-squared"]),
    ],
)
def test_bad_recipes(
    overrides: list[str],
    words: list[str],
    base: Path,
    call: Call,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    given = [f"base={base}", *overrides] if not any("base" in o for o in overrides) else overrides
    call("train", *HEAD, *given, "--run-dir", tmp_path / "run").refused(2, *words)
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_a_base_that_is_no_denoiser_is_refused(call: Call, tmp_path: Path) -> None:
    made = train("classifier/digits-small", ("trainer.max_steps=1",), run_dir=tmp_path / "classifier").run
    done = call("train", *HEAD, f"base={made}", "--run-dir", tmp_path / "run")
    done.refused(2, "the family classifier is not one denoiser")


@pytest.mark.parametrize(
    ("family", "words"), [("cld", "have a velocity"), ("pfgmpp", "a noise law of its own")]
)
def test_a_base_of_another_flow_is_refused(family: str, words: str, tmp_path: Path) -> None:
    text = f"family: {family}\ndata: {{name: digits}}\nmodel: {{network: {{name: film-mlp, width: 16, blocks: 1}}}}\n"
    (tmp_path / "base.yaml").write_text(text)
    with pytest.raises(UserError, match=words):
        untrained(tmp_path / "base.yaml")


def test_a_base_of_discrete_levels_has_no_derivative(tmp_path: Path) -> None:
    text = (
        "family: edm\ndata: {name: digits, limit: 64}\n"
        "model: {network: {name: film-mlp, width: 32, blocks: 1}, process: {name: ddpm}, precond: {name: iddpm}}\n"
    )
    (tmp_path / "iddpm.yaml").write_text(text)
    with pytest.raises(UserError, match="iddpm rounds noise levels"):
        untrained(tmp_path / "iddpm.yaml")
    recipe = resolve_text(text, "iddpm", families.recipe_schema).recipe
    module = build_module(recipe, open_set(recipe.data, "train").spec)
    assert "discrete levels" in str(module.usable_solvers()["ttm2"])
    with pytest.raises(UserError, match="ttm2: it differentiates the network"):
        module.check_request(settings(solver="ttm2"))


class Plain(nn.Module):
    """A network of somebody else's: no features, and a label it ignores."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x: Tensor, c_noise: Tensor, label: Any = None, augment: Any = None) -> Tensor:
        out: Tensor = self.layer(x) * c_noise.view(-1, 1, 1, 1).tanh()
        return out


def test_a_network_without_features(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused by name; with `features: none` the head reads state, eps and noise level, and samples."""
    from gentool.training.denoising import DenoisingModule

    monkeypatch.setattr(DenoisingModule, "build_network", lambda self, factor: Plain())
    with pytest.raises(UserError, match=r"Plain has no features\(\).*model.head.features=none"):
        untrained()
    with pytest.raises(UserError, match="needs its width"):
        untrained("edm/digits-vp-small", "model.head={features: none}")
    module = untrained("edm/digits-vp-small", "model.head={features: none, channels: 16}")
    assert module.try_step(open_set(module.recipe.data, "train").take(range(4))).isfinite()
    assert draw(module, 2).isfinite().all()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"guidance": {"apg": {}}}, "apg: genie mixes the head's derivatives"),
        ({"guidance": {"cfg": {"rescale": 0.7}}}, "cfg with rescale"),
        ({"guidance": {"adaptive": {}}}, "adaptive: genie"),
        ({"threshold": "static"}, "ttm2 differentiates the clipped one"),
        ({"time_shift": {"window": 4}}, "a shifted time has none"),
        ({"solver": "ttm2", "time_shift": {"window": 4}}, "ttm2 takes derivatives"),
        ({"steps": 1, "afs": True}, "no network call at all"),
        ({"denoise": True, "grid_options": {"final": "zero"}}, "denoise"),
        ({"grid_options": {"t_min": 0.0}}, "t_min"),
        ({"grid_options": {"kappa": -1.0}}, "kappa"),
    ],
)
def test_requests_that_have_no_derivative(head: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        load_run(head)[2].check_request(settings(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 1, "afs": True, "denoise": True},
        {"guidance": {"cfg": {"scale": 2.0, "interval": [0.1, 5.0]}}},
        {"solver": "ttm2", "guidance": {"apg": {"momentum": -0.5}}, "threshold": "static"},
        {"solver": "ttm2", "guidance": {"adaptive": {}}, "threshold": "dynamic"},
        {"grid_options": {"kappa": 1.5}},
        {"grid": "karras"},
    ],
)
def test_requests_that_are_taken(head: Path, changes: dict[str, Any]) -> None:
    module = load_run(head)[2]
    assert isinstance(module, GenieModule)
    assert module.check_request(settings(**changes)) == []
    assert draw(module, 3, **{"steps": 3, **changes}).isfinite().all()


def test_the_solvers_that_a_run_can_use(head: Path, base: Path, call: Call) -> None:
    rows = {row["name"]: row for row in call("solvers", "list", "--for", head, "--json").json["solvers"]}
    assert {name for name, row in rows.items() if not row["usable"]} == {*SOLVERS} - {*SOLVERS.fitting()} | {
        "ddpm-learned"
    }
    assert all((row["reason"] is None) == row["usable"] for row in rows.values())
    rows = {row["name"]: row for row in call("solvers", "list", "--for", base, "--json").json["solvers"]}
    assert {name for name, row in rows.items() if not row["usable"]} - {"genie", "ddpm-learned"} == {
        *SOLVERS
    } - {*SOLVERS.fitting()}
    assert not rows["genie"]["usable"]
    shown = call("solvers", "list", "--for", base).out
    assert "no: this run has no head" in shown
    assert "reason" not in call("solvers", "list", "--json").json["solvers"][0]


@pytest.mark.parametrize(
    ("recipe", "words"),
    [("stylegan2/digits8-small", "in a way of its own"), ("classifier/digits-small", "draws no samples")],
)
def test_a_family_that_draws_in_its_own_way_can_use_none(recipe: str, words: str) -> None:
    made = resolve(recipe, (), families.recipe_schema).recipe
    module = build_module(made, DataSpec("image", (1, 8, 8), 10, tuple("0123456789")))
    assert all(words in str(reason) for reason in module.usable_solvers().values())


def test_the_base_follows_to_another_precision(base: Path) -> None:
    module = untrained(base)
    module.double()
    assert next(module.base.parameters()).dtype == torch.float64
    assert isinstance(module.model, DerivativeHead)
    assert not any(name.startswith("base") for name in module.state_dict())
    assert replace(module.sampling_traits(), derive=None) == module.base.sampling_traits()
