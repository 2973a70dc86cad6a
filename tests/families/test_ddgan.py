"""The ddgan family: its losses in closed form, its two turns, and its runs from the command line."""

from __future__ import annotations

import json
import math
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gentool import families
from gentool.data import Batch, open_set
from gentool.diffusion.solvers.catalog import SOLVERS
from gentool.errors import PreemptedError, UserError
from gentool.families.ddgan.module import DdganModule
from gentool.recipes.resolve import resolve
from gentool.runs import checkpoints
from gentool.runs.samples import read_samples
from gentool.runs.weights import load_weights
from gentool.tasks.model.build import build_module
from gentool.tasks.model.load import load_run
from gentool.tasks.train import train
from gentool.training.adversarial import gradient_squares
from gentool.training.sampling import SampleRequest
from tests.tasks.runs import Call, gentool

TOY = (
    "ddgan/toy2d-small",
    "model.network.width=16",
    "model.discriminator.width=16",
    "data.batch_size=32",
    "data.count=2000",
    "trainer.max_steps=24",
    "trainer.checkpoint_every=8",
    "trainer.log_every=4",
    "sample.count=40",
)
DIGITS = (
    "ddgan/mnist-small",
    "data={name: digits, batch_size: 8}",
    "model.network={name: latent-unet, channels: 8, mult: [1, 2], blocks: 1, attention: [4], latent: 4, style: 8}",
    "model.discriminator={name: conv, channels: 8, mult: [1, 2], embedding: 8}",
    "trainer.max_steps=3",
    "sample.count=12",
)


def module_of(*arguments: str) -> DdganModule:
    recipe = resolve(arguments[0], arguments[1:], families.recipe_schema).recipe
    made = build_module(recipe, open_set(recipe.data, "train").spec)
    assert isinstance(made, DdganModule)
    return made


def batch_of(module: DdganModule, count: int = 16) -> Batch:
    return open_set(module.recipe.data, "train").take(range(count))


def learn(run: Path, *changes: str) -> Path:
    return train(TOY[0], [*TOY[1:], *changes], run_dir=run).run


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny run on points; tests only read it."""
    return learn(tmp_path_factory.mktemp("toy") / "run")


class Linear(nn.Module):
    """D(x_k, x_{k+1}, k) = slope . x_k."""

    def __init__(self, slope: Tensor) -> None:
        super().__init__()
        self.slope = nn.Parameter(slope)

    def forward(self, x: Tensor, x_next: Tensor, k: Tensor, label: Tensor | None = None) -> Tensor:
        return x @ self.slope


# --- losses ---


def turn_of(module: DdganModule) -> tuple[Tensor, ...]:
    module._seed(0)
    x0, label = module.data(batch_of(module))
    return module.turn(x0, label)


def test_losses_of_an_undecided_discriminator() -> None:
    """softplus(0) twice is 2 ln 2, once is ln 2."""
    module = module_of(*TOY)
    module.discriminator = Linear(torch.zeros(2))  # type: ignore[assignment]
    turn = turn_of(module)
    assert module.discriminator_loss(turn)[0].item() == pytest.approx(2 * math.log(2))  # type: ignore[arg-type]
    assert module.generator_loss(turn).item() == pytest.approx(math.log(2))  # type: ignore[arg-type]


@pytest.mark.parametrize(("scaled", "times"), [("false", 1), ("true", 3)])
def test_the_penalty_of_a_linear_discriminator(scaled: str, times: int) -> None:
    """gamma/2 |a|^2, every third step, and times three where the interval is made up for."""
    r1 = f"model.r1={{gamma: 0.3, every: 3, scale_by_interval: {scaled}}}"
    module, slope = module_of(*TOY, r1), torch.tensor([2.0, -1.0])
    module.discriminator = Linear(slope)  # type: ignore[assignment]
    turn, losses = turn_of(module), []
    for step in range(4):
        module.step = step
        losses.append(module.discriminator_loss(turn)[0].item())  # type: ignore[arg-type]
    assert losses[1] == losses[2]
    assert losses[0] == losses[3]
    assert losses[0] - losses[1] == pytest.approx(times * 0.3 / 2 * 5, rel=1e-5)
    module.step = 1
    loss, figures = module.discriminator_loss(turn, told=True)  # type: ignore[arg-type]
    assert loss.item() == losses[1]  # shown, not added
    assert figures["r1"].item() == pytest.approx(5)


def test_gradient_squares_are_of_each_example_and_differentiable() -> None:
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    squares = gradient_squares((x**2).sum(1), x)
    torch.testing.assert_close(squares, 4 * (x**2).sum(1))
    (again,) = torch.autograd.grad(squares.sum(), x)
    torch.testing.assert_close(again, 8 * x)


def test_each_loss_reaches_its_own_network_alone() -> None:
    module = module_of(*TOY)
    turn = turn_of(module)
    module.discriminator_loss(turn)[0].backward()  # type: ignore[arg-type]
    assert all(p.grad is None for p in module.model.parameters())
    assert all(p.grad is not None for p in module.discriminator.parameters())
    module.zero_grad()
    module.try_step(batch_of(module))
    both = {name: p.grad.clone() for name, p in module.discriminator.named_parameters() if p.grad is not None}
    module.zero_grad()
    module._seed(0)
    module.discriminator_loss(module.turn(*module.data(batch_of(module))))[0].backward()
    for name, parameter in module.discriminator.named_parameters():
        assert torch.equal(both[name], parameter.grad), name
        assert parameter.requires_grad


def test_each_turn_has_levels_states_and_latents_of_its_own_keyed_by_the_step() -> None:
    module = module_of(*DIGITS)
    x0, _ = module.data(batch_of(module))
    turns = []
    for micro in (3, 3, 4):
        module._seed(micro)
        turns += [module.turn(x0, None), module.turn(x0, None)]
    for name in ("x", "x_next", "k", "z", "noise"):
        first, second, again, _, other, _ = (getattr(turn, name) for turn in turns)
        assert torch.equal(first, again)
        assert not torch.equal(first, second)
        assert not torch.equal(first, other)


def test_pairs_keep_unit_variance_and_every_index_comes_up() -> None:
    """Data of unit variance stay so at every level; k is uniform on 0 .. T-1: five standard errors."""
    module = module_of(*TOY)
    module._seed(0)
    x0 = torch.randn(40_000, 2, generator=torch.Generator().manual_seed(0))
    turn = module.turn(x0, None)
    for k in range(4):
        rows = turn.k == k
        assert abs(rows.float().mean() - 0.25) < 5 * math.sqrt(0.25 * 0.75 / len(x0))
        for state in (turn.x[rows], turn.x_next[rows]):
            assert (state.var(0) - 1).abs().max() < 5 * math.sqrt(2 / len(state))
    assert torch.equal(turn.x[turn.k == 0], x0[turn.k == 0])


def test_half_of_the_pictures_are_mirrored() -> None:
    module = module_of(*DIGITS, "model.flip=true")
    batch = batch_of(module, 64)
    module._seed(0)
    x0, _ = module.data(batch)
    plain = batch.x.float() / 127.5 - 1
    mirrored = [bool(torch.equal(a, b.flip(2))) for a, b in zip(x0, plain)]
    kept = [bool(torch.equal(a, b)) for a, b in zip(x0, plain)]
    assert all(a or b for a, b in zip(mirrored, kept))
    assert 16 < sum(mirrored) < 48


def test_bfloat16_leaves_the_penalty_in_full_precision() -> None:
    module = module_of(*DIGITS)
    turn = turn_of(module)
    plain, figures = module.discriminator_loss(turn, told=True)  # type: ignore[arg-type]
    with torch.autocast("cpu", torch.bfloat16):
        low, same = module.discriminator_loss(turn, told=True)  # type: ignore[arg-type]
        module.step = 1
        without, _ = module.discriminator_loss(turn, told=True)  # type: ignore[arg-type]
    assert torch.equal(same["r1"], figures["r1"])
    assert torch.equal(same["logit_real"], figures["logit_real"])
    assert low.item() == pytest.approx(plain.item(), rel=0.02)
    assert without.isfinite()


# --- runs ---


def test_a_run_from_training_to_its_figures(toy: Path, call: Call, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (toy / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [4, 8, 12, 16, 20, 24]
    assert {"loss_generator", "loss_discriminator", "r1", "logit_real", "logit_fake"} <= set(rows[-1])
    assert all(0 <= rows[-1][f"accuracy_{k}"] <= 1 for k in range(4))
    lr = [row["lr"] for row in rows]
    assert lr == sorted(lr, reverse=True)  # the cosine
    assert not [name for name in load_weights(toy / "model.safetensors")[0] if "discriminator" in name]
    done = call("sample", toy, "-o", tmp_path / "a.npz", "--json", "-q").json
    assert (done["nfe"], done["solver"], done["count"]) == (4, "ddpm", 40)
    call("sample", toy, "--batch-size", "7", "-o", tmp_path / "b.npz", "-q")
    np.testing.assert_allclose(
        read_samples(tmp_path / "a.npz").array, read_samples(tmp_path / "b.npz").array, rtol=1e-5, atol=1e-5
    )
    figures = call("evaluate", toy, "--json", "-q").json["metrics"]
    assert all(map(math.isfinite, figures.values()))


def test_pictures_with_labels(call: Call, tmp_path: Path) -> None:
    done = call("train", *DIGITS, "model.conditional=true", "--run-dir", tmp_path / "run", "-q")
    assert done.code == 0, done.err
    assert call("sample", tmp_path / "run", "--label", "3,7", "-o", tmp_path / "a.npz", "-q").code == 0
    found = read_samples(tmp_path / "a.npz")
    assert found.array.shape == (12, 8, 8, 1)
    assert found.labels is not None
    assert found.labels.tolist() == [3, 7] * 6


def interrupted(run: Path, at: int) -> None:
    """The toy stopped by a signal after step `at`."""

    def stop(step: int, total: int, metrics: dict[str, float]) -> None:
        if step == at:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(PreemptedError):
        train(TOY[0], TOY[1:], run_dir=run, on_step=stop)


@pytest.mark.parametrize("at", [5, 16])
def test_a_stopped_run_goes_on_bit_for_bit(at: int, toy: Path, tmp_path: Path) -> None:
    """Both networks, both optimisers, the average and the rows; the penalty of every fourth step keeps its steps."""
    run = tmp_path / "run"
    interrupted(run, at)
    train(TOY[0], TOY[1:], run_dir=run, resume="auto")
    (ours, _), (whole, _) = (checkpoints.newest(path / "checkpoints") for path in (run, toy))
    assert ours is not None
    assert whole is not None
    assert ours["step"] == whole["step"] == 24
    assert any("discriminator" in name for name in ours["module"])
    for name, value in whole["module"].items():
        assert torch.equal(ours["module"][name], value), name
    for name, value in whole["ema"]["values"].items():
        assert torch.equal(ours["ema"]["values"][name], value), name
    for mine, theirs in zip(ours["optimizers"], whole["optimizers"], strict=True):
        for index, moments in theirs["state"].items():
            for name, value in moments.items():
                assert torch.equal(mine["state"][index][name], value)

    def rows(path: Path) -> list[dict[str, float]]:
        found = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
        return [{k: v for k, v in row.items() if k != "images_per_second"} for row in found]

    assert rows(run) == rows(toy)


@pytest.mark.slow
def test_two_processes_train_the_same_model_of_points(tmp_path: Path) -> None:
    """DDP over gloo, each backward pass through one network: the MLP's losses are means, so nothing changes."""
    run = tmp_path / "two"
    done = gentool("train", *TOY, "trainer.devices=2", "trainer.accelerator=cpu", "--run-dir", run, "-q")
    assert done.returncode == 0, done.stderr
    alone = load_weights(learn(tmp_path / "one") / "model.safetensors")[0]
    for name, value in load_weights(run / "model.safetensors")[0].items():
        torch.testing.assert_close(value, alone[name], rtol=1e-3, atol=1e-4)


def test_clipping_bounds_both_networks_steps(tmp_path: Path) -> None:
    """With sgd and a rate of 1, each network moves by the clipped norm."""
    sgd = "{name: sgd, lr: 1.0}"
    changes = (f"optimizer={sgd}", f"discriminator_optimizer={sgd}", "trainer.clip_norm=0.001")
    run = learn(tmp_path / "run", *changes, "trainer.max_steps=1", "ema=null")
    state, _ = checkpoints.newest(run / "checkpoints")
    assert state is not None
    before = module_of(*TOY).state_dict()
    for part in ("model.", "discriminator."):
        moved = [state["module"][n] - v for n, v in before.items() if n.startswith(part)]
        norm = torch.cat([m.flatten() for m in moved]).norm().item()
        assert norm == pytest.approx(0.001, rel=1e-3)


@pytest.mark.parametrize(("precision", "kept"), [("bf16-mixed", torch.float32), ("64-true", torch.float64)])
def test_other_precisions_train_and_sample(
    precision: str, kept: torch.dtype, call: Call, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    done = call("train", *DIGITS, f"trainer.precision={precision}", "--run-dir", run, "-q")
    assert done.code == 0, done.err
    weights, _ = load_weights(run / "model.safetensors")
    assert {value.dtype for value in weights.values() if value.is_floating_point()} == {kept}
    assert all(bool(value.isfinite().all()) for value in weights.values())
    drawn = call("sample", run, "--json", "-q").json
    assert read_samples(drawn["path"]).array.shape == (12, 8, 8, 1)


def test_divergence_is_noticed_and_the_advice_is_for_this_family(call: Call, tmp_path: Path) -> None:
    huge = "optimizer={name: sgd, lr: 1.0e+30}"
    ended = call("train", *TOY, huge, "--run-dir", tmp_path / "run", "-q")
    ended.refused(1, "the loss became", "model.r1.gamma", "discriminator_optimizer.lr")


@pytest.mark.parametrize(
    ("loss", "real", "fake", "lopsided"),
    [
        (1.39, 0.1, -0.1, False),
        (0.02, 30.0, -30.0, False),
        (0.5, 20.0, -120.0, True),
        (0.002, 8.0, -8.0, True),
    ],
)
def test_a_discriminator_that_has_won_is_told_of_once(
    loss: float, real: float, fake: float, lopsided: bool
) -> None:
    module, said = module_of(*TOY), list[str]()
    module.say = said.append
    for _ in range(2):
        module.warn_if_lopsided(
            {
                "loss_discriminator": torch.tensor(loss),
                "logit_real": torch.tensor(real),
                "logit_fake": torch.tensor(fake),
            }
        )
    assert len(said) == lopsided
    assert all("discriminator has won" in line and "model.r1.gamma" in line for line in said)


@pytest.mark.slow
def test_a_ring_is_found_whole_with_a_latent_and_not_without(tmp_path: Path) -> None:
    """Eight Gaussians in two steps: draws of the learned posterior are multimodal, its mean cannot be."""
    ring = ("data={name: toy2d, radius: 1.4, std: 0.07, batch_size: 128}", "model.steps=2", "sample.steps=2")
    short = ("trainer.max_steps=4000", "trainer.checkpoint_every=4000")
    error = {}
    for latent in (2, 0):
        changes = (*ring, *short, f"model.network.latent={latent}")
        module = load_run(train(TOY[0], changes, run_dir=tmp_path / str(latent)).run)[2]
        with torch.no_grad():
            x = module.draw(SampleRequest(0, range(4000), None, module.recipe.sample)).x
        means = torch.tensor(module.recipe.data.mixture().means, dtype=torch.float32)
        shares = torch.cdist(x, means).argmin(1).bincount(minlength=8) / len(x)
        error[latent] = (shares - 1 / 8).abs().sum().item()
        assert latent == 0 or shares.min() > 0.05
    assert error[2] < error[0] / 2


# --- what is refused ---


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("trainer.accumulate=2", "trainer.accumulate: 2: the two networks"),
        ("privacy={epsilon: 10, delta: 1.0e-5}", "privacy: private training needs"),
        ("trainer.precision=16-mixed", "trainer.precision: the gradient"),
        ("trainer.strategy=fsdp", "trainer.strategy: the gradient"),
        ("model.steps=0", "model.steps"),
        ("model.steps=2", "sample.steps: 4 steps are not the 2"),
        ("sample.solver=dpmpp-2m", "sample.solver: dpmpp-2m cannot sample a ddgan run"),
        ("model.schedule={name: geometric, var_min: 0.5, var_max: 0.4}", "var_min (0.5) must lie below"),
        ("model.schedule={name: cosine}", "expected one of vp, geometric"),
        ("model.network={name: song-unet}", "latent-unet, latent-mlp"),
        ("model.discriminator={name: conv, full_blocks: 9}", "full_blocks (9) exceeds"),
        ("model.r1.gamma=-1", "model.r1.gamma"),
        ("discriminator_optimizer.lr=0", "discriminator_optimizer.lr"),
        ("model.network={name: latent-unet}", "needs images"),
        ("model.discriminator={name: conv}", "discriminator mlp"),
        ("model.flip=true", "model.flip is for images"),
        ("model.network.tanh=true", "the data reach from -1."),
    ],
)
def test_recipes_that_cannot_be_trained(change: str, words: str, call: Call, tmp_path: Path) -> None:
    call("train", *TOY, change, "--run-dir", tmp_path / "run", "-q").refused(2, words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("data={name: npz, path: nothing.npz}", "nothing.npz"),
        ("model.network={name: latent-unet, mult: [1, 2, 2, 2, 2]}", "cannot be halved 4 times"),
        ("model.discriminator={name: conv, mult: [1, 1, 1, 1, 1, 1]}", "discriminator's `mult`"),
    ],
)
def test_pictures_that_cannot_be_trained_on(change: str, words: str, call: Call, tmp_path: Path) -> None:
    call("train", *DIGITS, change, "--run-dir", tmp_path / "run", "-q").refused(2, words)


def test_labels_that_are_not_there(call: Call, tmp_path: Path) -> None:
    np.savez(tmp_path / "plain.npz", arr_0=np.zeros((16, 8, 8, 1), np.uint8))
    data = f"data={{name: npz, path: {tmp_path / 'plain.npz'}, batch_size: 8}}"
    ended = call("train", *DIGITS, data, "model.conditional=true", "--run-dir", tmp_path / "run", "-q")
    ended.refused(2, "model.conditional", "has no labels")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--solver", "ddim"), "ddim cannot sample a ddgan run"),
        (("--steps", "3"), "3 steps are not the 4 of model.steps"),
        (("--guidance", "cfg=2"), "would ignore"),
        (("--set", "afs=true"), "would ignore"),
        (("--label", "1"), "without class labels"),
    ],
)
def test_requests_that_the_chain_cannot_honour(
    arguments: tuple[str, ...], words: str, toy: Path, call: Call
) -> None:
    call("sample", toy, *arguments, "-q").refused(2, words)


def test_the_module_says_which_solvers_it_can_use(toy: Path) -> None:
    module = module_of(*TOY)
    usable = module.usable_solvers()
    assert list(usable) == SOLVERS.names()
    assert [name for name, reason in usable.items() if reason is None] == ["ddpm"]
    sample = module.recipe.sample
    for name, reason in usable.items():
        if reason is not None:
            with pytest.raises(UserError, match=f"{name} cannot sample"):
                module.check_request(sample.model_copy(update={"solver": name}))


def test_what_the_settings_imply_is_said() -> None:
    said: list[str] = []
    for arguments in (
        (*TOY, "model.steps=16", "sample.steps=16"),
        (*DIGITS, "data.batch_size=6"),
        TOY,
        DIGITS,
    ):
        module = module_of(*arguments)
        module.say = said.append
        module.fit_to_data(open_set(module.recipe.data, "train"))
    assert len(said) == 2
    assert "16; beyond 8 the paper's own results fall" in said[0]
    assert "4 does not divide a batch of 6; groups of 3" in said[1]
