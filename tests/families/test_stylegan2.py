"""The stylegan2 family: losses and penalties in closed form, lazy steps, adaptive augmentation, runs."""

from __future__ import annotations

import json
import math
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gentool import families
from gentool.data import Batch, DataSpec, open_set
from gentool.errors import PreemptedError, RecipeError, UserError
from gentool.families.stylegan2.lazy import path_lengths, rescaled
from gentool.families.stylegan2.module import Stylegan2Module
from gentool.networks import ada
from gentool.recipes.resolve import resolve
from gentool.recipes.schema import Optimizer
from gentool.runs import checkpoints
from gentool.runs.samples import read_samples
from gentool.runs.weights import load_weights
from gentool.tasks.model.build import build_module
from gentool.tasks.model.load import load_run
from gentool.tasks.train import train
from gentool.training.sampling import SampleRequest
from tests.tasks.runs import Call

TOY = (
    "stylegan2/digits8-small",
    "data.batch_size=8",
    "model.network={latent: 8, style: 8, layers: 2, channel_base: 64, channel_max: 8}",
    "model.discriminator={channel_base: 64, channel_max: 8, layers: 2}",
    "trainer.max_steps=20",
    "trainer.checkpoint_every=10",
    "trainer.log_every=5",
    "sample.count=12",
)
FULL = (
    "model.conditional=true",
    "model.flip=true",
    "model.mixing=0.9",
    "model.path_length.weight=2.0",
    "model.augment={p: 0.2, images: 2000}",
)


def module_of(*changes: str, spec: DataSpec | None = None) -> Stylegan2Module:
    recipe = resolve(TOY[0], (*TOY[1:], *changes), families.recipe_schema).recipe
    made = build_module(recipe, spec or open_set(recipe.data, "train").spec)
    assert isinstance(made, Stylegan2Module)
    made._seed(0)
    return made


def batch_of(module: Stylegan2Module, count: int = 8) -> Batch:
    return open_set(module.recipe.data, "train").take(range(count))


class Linear(nn.Module):
    """D(x) = slope . x + bias."""

    def __init__(self, slope: Tensor, bias: float = 0.0) -> None:
        super().__init__()
        self.slope, self.bias = nn.Parameter(slope), bias

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        return x.flatten(1) @ self.slope + self.bias


def judged_by(module: Stylegan2Module, slope: Tensor, bias: float = 0.0) -> Stylegan2Module:
    module.discriminator = Linear(slope, bias)  # type: ignore[assignment]
    return module


# --- losses and penalties ---


def test_losses_of_an_undecided_discriminator() -> None:
    module = judged_by(module_of(), torch.zeros(64))
    x0, label = module.data(batch_of(module))
    assert module.generator_loss(8, label).item() == pytest.approx(math.log(2))
    assert module.discriminator_loss(x0, label).item() == pytest.approx(2 * math.log(2))


def test_the_penalty_of_a_linear_discriminator_is_its_squared_slope() -> None:
    slope = torch.randn(64)
    module = judged_by(module_of(), slope)
    x0, label = module.data(batch_of(module))
    assert module.r1(x0, label).item() == pytest.approx(slope.square().sum().item(), rel=1e-5)


def test_colour_augmentation_scales_the_penalty_by_its_squared_contrast(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """x enters by way of the augmentation: with pixels left in place D(c x + b) has the slope c a."""
    slope = torch.randn(64)
    module = judged_by(module_of("model.augment={p: 1.0, target: null}"), slope)
    monkeypatch.setattr(ada, "warp", lambda x, inverse: x)
    x0, _ = module.data(batch_of(module))
    module._seed(1)
    found = module.r1(x0, None)
    module._seed(1)
    uniform, normal = module.drawn(torch.rand, 8, ada.UNIFORMS), module.drawn(torch.randn, 8, ada.NORMALS)
    given = ada.Draws(1.0, uniform, normal)
    ada.inverse_geometry(given, (8, 8), general=True)  # takes its columns first
    contrast = ada.colours(given, 1)[:, 0, 0]
    assert found.item() == pytest.approx((contrast.square().mean() * slope.square().sum()).item(), rel=1e-4)


def test_lengths_of_a_linear_generator() -> None:
    """G(w) = A w for one layer: |A^T y|; for several, the root mean square of theirs. Differentiable in A."""
    matrix = torch.randn(12, 5, dtype=torch.float64, requires_grad=True)
    w, noise = torch.randn(3, 1, 5, dtype=torch.float64, requires_grad=True), torch.randn(3, 1, 3, 4).double()
    y = noise.flatten(1) / math.sqrt(12)
    found = path_lengths((w[:, 0] @ matrix.T).view(3, 1, 3, 4), w, noise)
    torch.testing.assert_close(found, (y @ matrix).norm(dim=1))
    (slope,) = torch.autograd.grad(found.sum(), matrix, retain_graph=True)
    (expected,) = torch.autograd.grad((y @ matrix).norm(dim=1).sum(), matrix)
    torch.testing.assert_close(slope, expected)
    ws = torch.randn(3, 4, 5, dtype=torch.float64, requires_grad=True)
    last = path_lengths((ws[:, -1] @ matrix.T).view(3, 1, 3, 4), ws, noise)  # one layer of four is read
    torch.testing.assert_close(last, (y @ matrix).norm(dim=1) / 2)


def test_the_mean_length_follows_by_its_decay_and_the_penalty_is_about_it() -> None:
    module = module_of(*FULL, "model.mixing=0.0", "model.augment=null")
    _, label = module.data(batch_of(module))
    module.path_mean.fill_(5.0)
    module._seed(3)
    penalty = module.path_penalty(8, label)
    module._seed(3)
    image, ws = module.generated(4, label[:4])  # type: ignore[index]
    lengths = path_lengths(image, ws, module._normal(4, 1, 8, 8))
    mean = 5 + 0.01 * (lengths.mean() - 5)
    assert module.path_mean.item() == pytest.approx(mean.item(), rel=1e-6)
    assert penalty.item() == pytest.approx((lengths - mean).square().mean().item(), rel=1e-5)


def test_lazy_steps_keep_the_optimisers_time_constants() -> None:
    """k + 1 steps at lr c and betas^c, c = k/(k + 1), move and forget as k at lr and betas."""
    made = rescaled(Optimizer(name="adam", lr=2.5e-3, betas=(0.0, 0.99)), 4)
    assert made.lr == pytest.approx(2e-3)
    assert made.betas == pytest.approx((0.0, 0.99**0.8))
    for every in (1, 4, 16):
        again = rescaled(Optimizer(lr=1.0, betas=(0.9, 0.99)), every)
        assert again.lr * (every + 1) == pytest.approx(every)
        for beta, first in zip(again.betas, (0.9, 0.99)):
            assert beta ** (every + 1) == pytest.approx(first**every)


def test_both_optimisers_are_rescaled_also_where_a_penalty_is_off() -> None:
    module = module_of("model.path_length.weight=0.0")
    generator, discriminator = module.configure_optimizers()
    assert generator.param_groups[0]["lr"] == pytest.approx(2.5e-3 * 4 / 5)
    assert generator.param_groups[0]["betas"] == pytest.approx((0.0, 0.99**0.8))
    assert discriminator.param_groups[0]["lr"] == pytest.approx(2.5e-3 * 16 / 17)
    assert [schedule(7) for schedule in module.lr_schedules()] == pytest.approx([2e-3, 2.5e-3 * 16 / 17])


def test_the_order_of_updates_and_the_weights_of_penalties(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The generator first; its penalty every second step here, the discriminator's every third, each an update."""
    seen: list[tuple[int, str]] = []
    turns = Stylegan2Module.turns

    def noted(self: Stylegan2Module, *arguments: Any, **named: Any) -> Any:
        for which, name, loss in turns(self, *arguments, **named):
            seen.append((which, name))
            yield which, name, loss

    monkeypatch.setattr(Stylegan2Module, "turns", noted)
    lazy = ("model.path_length={weight: 2.0, every: 2}", "model.r1={gamma: 0.1, every: 3}")
    train(TOY[0], (*TOY[1:], *lazy, "trainer.max_steps=4"), run_dir=tmp_path / "run")
    g, path, d, r1 = (0, "generator"), (0, "path"), (1, "discriminator"), (1, "r1")
    assert seen == [g, path, d, r1, g, d, g, path, d, g, d, r1]


def test_a_penalty_counts_as_often_as_it_is_left_out() -> None:
    slope = torch.randn(64)
    module = judged_by(module_of("model.r1={gamma: 0.3, every: 3}"), slope)
    x0, label = module.data(batch_of(module))
    *_, (which, name, loss) = module.turns(x0, label, path=False, r1=True)
    assert (which, name) == (1, "r1")
    assert loss.item() == pytest.approx(3 * 0.3 / 2 * slope.square().sum().item(), rel=1e-5)
    assert module.penalty.item() == pytest.approx(slope.square().sum().item(), rel=1e-5)


def test_each_turn_reaches_its_own_network_alone() -> None:
    module = module_of(*FULL)
    x0, label = module.data(batch_of(module))
    for which, name, loss in module.turns(x0, label, path=True, r1=True):
        module.zero_grad()
        loss.backward()
        reached = {n.split(".")[0] for n, p in module.named_parameters() if p.grad is not None}
        assert reached == {"model" if which == 0 else "discriminator"}, name


def test_each_turn_has_pictures_of_its_own_keyed_by_the_step() -> None:
    module, images = module_of(*FULL, "model.conditional=false"), []
    for micro in (3, 3, 4):
        module._seed(micro)
        images += [module.generated(2, None)[0], module.generated(2, None)[0]]
    first, second, again, _, other, _ = images
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert not torch.equal(first, other)


def test_style_mixing_takes_another_w_from_some_layer_on() -> None:
    plain, mixed = module_of("model.mixing=0.0"), module_of("model.mixing=1.0")
    ws = plain.generated(3, None)[1]
    assert torch.equal(ws, ws[:, :1].expand_as(ws))
    places = set()
    for micro in range(40):
        mixed._seed(micro)
        ws = mixed.generated(3, None)[1]
        change = [bool((ws[:, i] != ws[:, i - 1]).any(1).all()) for i in range(1, 4)]
        assert sum(change) == 1
        places.add(change.index(True) + 1)
    assert places == {1, 2, 3}


def test_w_avg_follows_the_batches_and_the_average_copies_it(tmp_path: Path) -> None:
    module = module_of()
    module._seed(5)
    module.generated(8, None)
    module._seed(5)
    w = module.model.mapping(module._normal(8, 8))
    torch.testing.assert_close(module.model.mapping.w_avg, 0.005 * w.mean(0))
    run = train(TOY[0], TOY[1:], run_dir=tmp_path / "run").run
    state, _ = checkpoints.newest(run / "checkpoints")
    assert state is not None
    saved = load_weights(run / "model.safetensors")[0]
    assert torch.equal(saved["mapping.w_avg"], state["module"]["model.mapping.w_avg"])
    assert saved["mapping.w_avg"].any()
    assert not torch.equal(saved["synthesis.b4.const"], state["module"]["model.synthesis.b4.const"])


@pytest.mark.parametrize(("bias", "direction"), [(50.0, 1), (-50.0, -1)])
def test_p_is_steered_by_the_signs_of_real_logits(bias: float, direction: int) -> None:
    """By 4 B/images every fourth step: up where all real pictures are recognised, and not below 0."""
    module = judged_by(module_of("model.augment={p: 0.5, images: 1000}"), torch.zeros(64), bias)
    x0, _ = module.data(batch_of(module))
    seen = []
    for step in range(8):
        module.step = step
        module.discriminator_loss(x0, None)
        module._steer()
        seen.append(module.p.item())
    change = direction * 4 * 8 / 1000
    assert seen == pytest.approx([0.5] * 3 + [0.5 + change] * 4 + [0.5 + 2 * change], abs=1e-6)


def test_a_fixed_p_stays(tmp_path: Path) -> None:
    fixed = "model.augment={p: 0.3, target: null, pipe: bg}"
    run = train(TOY[0], (*TOY[1:], fixed), run_dir=tmp_path / "run").run
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["augment_p"] for row in rows] == pytest.approx([0.3] * 4)


def test_entries_of_gradients_that_are_not_finite_are_cut() -> None:
    weight = nn.Parameter(torch.zeros(4))
    weight.grad = torch.tensor([float("nan"), float("inf"), -float("inf"), 2.0])
    module_of().on_before_optimizer_step(torch.optim.SGD([weight], 1.0))
    assert weight.grad.tolist() == [0, 1e5, -1e5, 2]


# --- runs ---


def learn(run: Path) -> Path:
    return train(TOY[0], (*TOY[1:], *FULL), run_dir=run).run


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny run with everything on; tests only read it."""
    return learn(tmp_path_factory.mktemp("toy") / "run")


def test_a_stopped_run_goes_on_bit_for_bit(toy: Path, tmp_path: Path) -> None:
    """Networks, optimisers, the average, the mean length, p and what it is steered by, and the rows."""
    run = tmp_path / "run"

    def stop(step: int, total: int, metrics: dict[str, float]) -> None:
        if step == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(PreemptedError):
        train(TOY[0], (*TOY[1:], *FULL), run_dir=run, on_step=stop)
    train(TOY[0], (*TOY[1:], *FULL), run_dir=run, resume="auto")
    (ours, _), (whole, _) = (checkpoints.newest(path / "checkpoints") for path in (run, toy))
    assert ours is not None
    assert whole is not None
    assert {"path_mean", "p", "sign", "penalty"} <= set(whole["module"])
    assert whole["module"]["p"] != 0.2
    for name, value in whole["module"].items():
        assert torch.equal(ours["module"][name], value), name
    for name, value in whole["ema"]["values"].items():
        assert torch.equal(ours["ema"]["values"][name], value), name

    def rows(path: Path) -> list[dict[str, float]]:
        found = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
        return [{k: v for k, v in row.items() if k != "images_per_second"} for row in found]

    assert rows(run) == rows(toy)


def test_a_run_from_the_command_line(toy: Path, call: Call, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (toy / "metrics.jsonl").read_text().splitlines()]
    assert {"loss_generator", "loss_discriminator", "r1", "path_length", "augment_p"} <= set(rows[-1])
    assert not [name for name in load_weights(toy / "model.safetensors")[0] if "discriminator" in name]
    done = call("sample", toy, "--label", "3,7", "-o", tmp_path / "a.npz", "--json", "-q").json
    assert (done["nfe"], done["solver"], done["count"]) == (1, "one-shot", 12)
    found = read_samples(tmp_path / "a.npz")
    assert found.array.shape == (12, 8, 8, 1)
    assert found.labels is not None
    assert found.labels.tolist() == [3, 7] * 6
    call("sample", toy, "--label", "3,7", "--batch-size", "5", "-o", tmp_path / "b.npz", "-q")
    assert np.abs(found.array.astype(int) - read_samples(tmp_path / "b.npz").array).max() <= 1


def drawn(module: Stylegan2Module, **changes: Any) -> Tensor:
    settings = module.recipe.sample.model_copy(update=changes)
    label = torch.zeros(6, dtype=torch.int64) if module.classes else None
    with torch.no_grad():
        return module.draw(SampleRequest(3, range(6), label, settings)).x


def test_truncation_and_noise_of_samples(toy: Path) -> None:
    module = load_run(toy)[2]
    assert isinstance(module, Stylegan2Module)
    with torch.no_grad():
        for layer in (module.model.synthesis.b4.conv1, module.model.synthesis.b8.conv0):
            layer.noise_strength.fill_(0.5)
    whole, near, mean = (drawn(module, truncation=psi) for psi in (1.0, 0.5, 0.0))
    torch.testing.assert_close(mean, mean[:1].expand_as(mean))
    assert near.std(0).mean() < whole.std(0).mean()
    fresh = drawn(module, truncation=0.0, noise="random")
    assert (fresh[0] - fresh[1]).abs().max() > 1e-3
    assert torch.equal(fresh, drawn(module, truncation=0.0, noise="random"))
    assert (drawn(module, truncation=0.0, noise="none") - mean).abs().max() > 1e-3
    assert not torch.equal(drawn(module, truncation=0.5, cutoff=1), near)
    torch.testing.assert_close(drawn(module, truncation=0.5, cutoff=4), near)


@pytest.mark.parametrize(("precision", "kept"), [("bf16-mixed", torch.float32), ("64-true", torch.float64)])
def test_other_precisions_train_and_sample(
    precision: str, kept: torch.dtype, call: Call, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    changes = (*TOY, *FULL, "trainer.max_steps=2", f"trainer.precision={precision}")
    done = call("train", *changes, "--run-dir", run, "-q")
    assert done.code == 0, done.err
    weights, _ = load_weights(run / "model.safetensors")
    assert {value.dtype for value in weights.values() if value.is_floating_point()} == {kept}
    assert all(bool(value.isfinite().all()) for value in weights.values())
    drawn = call("sample", run, "--json", "-q").json
    assert read_samples(drawn["path"]).array.shape == (12, 8, 8, 1)


# --- what is refused ---


@pytest.mark.parametrize(
    ("change", "where", "message"),
    [
        ("privacy={epsilon: 10}", "privacy", "train each other"),
        ("trainer.accumulate=2", "trainer.accumulate", "take turns within a batch"),
        ("trainer.precision=16-mixed", "trainer.precision", "second derivatives leave float16"),
        ("trainer.strategy=fsdp", "trainer.strategy", "use ddp"),
        ("sample.steps=5", "sample.steps", "one call and would ignore 5"),
        ("sample.solver=ddim", "sample.solver", "one call and would ignore 'ddim'"),
        ("sample.guidance={cfg: {scale: 2.0}}", "sample.guidance", "would ignore"),
        ("sample.noise=loud", "sample.noise", "const, random, none"),
        ("model.augment={pipe: bgcf}", "model.augment.pipe", "one of b, bg, bgc"),
        ("model.augment={p: 0.9}", "model.augment", "p (0.9) must not exceed most (0.85)"),
        ("model.mixing=1.5", "model.mixing", "between 0 and 1, got 1.5"),
        ("model.discriminator.group=1", "model.discriminator.group", "at least 2, got 1"),
    ],
)
def test_recipes_that_cannot_be(change: str, where: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        module_of(change)
    assert any(fault.key == where and message in fault.message for fault in caught.value.problems), (
        caught.value
    )


def test_path_lengths_cannot_be_compiled() -> None:
    with pytest.raises(RecipeError, match=r"trainer\.compile.*second derivatives"):
        module_of("trainer.compile=true", "model.path_length.weight=2.0")
    module = module_of("trainer.compile=true", "model.path_length.weight=0.0")
    assert module.compiled_parts() == [module.model.synthesis]


@pytest.mark.parametrize(
    ("kind", "shape", "changes", "message"),
    [
        ("vector", (2,), (), "square pictures; digits has vector data"),
        ("image", (1, 8, 16), (), "square pictures; digits has pictures of 8x16"),
        ("image", (1, 28, 28), (), "8, 16, 32 ... pixels, not 28"),
        ("image", (4, 8, 8), ("model.augment={}",), "has 4 channels; take bg"),
        ("image", (1, 8, 8), ("model.conditional=true",), "has no labels"),
    ],
)
def test_data_that_cannot_be(
    kind: Any, shape: tuple[int, ...], changes: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        module_of(*changes, spec=DataSpec(kind, shape, 0, ()))


def test_a_cutoff_beyond_the_layers_and_a_classifier(toy: Path, call: Call) -> None:
    ended = call("sample", toy, "--set", "truncation=0.5", "--set", "cutoff=5", "-q")
    ended.refused(2, "sample.cutoff", "the generator has 4 layers")
    call("sample", toy, "--steps", "5", "-q").refused(2, "would ignore 5")


def test_groups_that_do_not_divide_the_batch_are_told() -> None:
    module, said = module_of("model.discriminator.group=3"), []
    module.say = said.append
    module.fit_to_data(None)  # type: ignore[arg-type]
    assert said == ["warning: model.discriminator.group: 3 does not divide a batch of 8; groups of 2"]
