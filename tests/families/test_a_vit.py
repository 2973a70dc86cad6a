"""The a-vit family: training, its augmentations, weights to start from, evaluation, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from gentool import families
from gentool.data import DataSpec, open_set, to_model
from gentool.errors import RecipeError, UserError
from gentool.families.a_vit import augment
from gentool.families.a_vit.config import Augment, Crop
from gentool.families.a_vit.module import AVitModule
from gentool.families.a_vit.randaugment import OPERATIONS, rand_augmented
from gentool.networks.vit import positions_for
from gentool.recipes.resolve import resolve
from gentool.runs.weights import load_weights, save_weights
from gentool.tasks.evaluate import evaluate
from gentool.tasks.model.build import build_module
from gentool.tasks.model.load import load_run
from gentool.tasks.train import train
from tests.tasks.runs import Call

DENSE = (
    "a-vit/digits-dense-small",
    "model.network.width=24",
    "model.network.depth=4",
    "trainer.max_steps=220",
)
GATED = ("a-vit/digits-small", *DENSE[1:3], "trainer.max_steps=210")


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(DENSE[0], DENSE[1:], run_dir=tmp_path_factory.mktemp("dense") / "run").run


@pytest.fixture(scope="module")
def gated(dense: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gated") / "run"
    return train(GATED[0], [*GATED[1:], f"model.start={dense}"], run_dir=folder).run


def fresh(*overrides: str, name: str = "a-vit/digits-small", spec: DataSpec | None = None) -> AVitModule:
    recipe = resolve(name, overrides, families.recipe_schema).recipe
    module = build_module(recipe, spec or open_set(recipe.data, "train").spec)
    assert isinstance(module, AVitModule)
    return module


def images(count: int, size: int = 8, channels: int = 1) -> Tensor:
    return 2 * torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(3)) - 1


# Training


def test_fine_tuning_makes_tokens_halt_and_keeps_most_of_the_accuracy(dense: Path, gated: Path) -> None:
    plain, halting = (load_run(run)[2].evaluate_model(digits()) for run in (dense, gated))
    assert "mean-depth" not in plain
    assert halting["mean-depth"] < 3.97
    assert halting["accuracy"] > plain["accuracy"] - 0.04
    assert halting["multiply-adds"] < plain["multiply-adds"]
    assert halting["operations-saved"] == pytest.approx(1 - halting["multiply-adds"] / plain["multiply-adds"])


def digits() -> object:
    return open_set(resolve("a-vit/digits-small", (), families.recipe_schema).recipe.data, "test")


def test_the_log_tells_how_deep_tokens_go(gated: Path) -> None:
    rows = [json.loads(line) for line in (gated / "metrics.jsonl").read_text().splitlines()]
    assert {"ponder", "mean_depth", "class_depth", "distribution"} <= rows[-1].keys()
    assert rows[0]["mean_depth"] > rows[-1]["mean_depth"]


def test_the_first_scores_hardly_halt_a_token_and_the_gate_lies_with_the_weights(
    dense: Path, gated: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    changes = [*GATED[1:3], f"model.start={dense}", "trainer.max_steps=1"]
    run = train(GATED[0], changes, run_dir=tmp_path / "run", say=said.append).run
    assert any("starting from the plain transformer" in line for line in said)
    assert evaluate(str(run), metrics=["mean-depth"]).metrics["mean-depth"] > 3.5
    tensors, _ = load_weights(gated / "model.safetensors")
    assert {"gate.scale", "gate.center", "gate.epsilon", "gate.target"} <= tensors.keys()
    assert float(tensors["gate.center"]) == pytest.approx(
        float(load_weights(run / "model.safetensors")[0]["gate.center"]), rel=1e-3
    )


def test_a_batch_too_small_for_the_prior_trains_without_it_and_counts(tmp_path: Path) -> None:
    changes = [*GATED[1:3], "data.batch_size=1", "trainer.max_steps=3", "trainer.log_every=1"]
    run = train(GATED[0], changes, run_dir=tmp_path / "run").run
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["prior_skipped"] == 3
    assert "distribution" not in last
    assert np.isfinite(last["loss"])


@pytest.mark.parametrize(
    ("center", "words"), [("1000", "nothing halts: lower"), ("-1000", "everything halts in the first block")]
)
def test_a_gate_that_is_always_shut_or_open_is_told(center: str, words: str, tmp_path: Path) -> None:
    said: list[str] = []
    changes = [
        "model.network.width=12",
        "model.network.depth=2",
        "data.batch_size=8",
        "trainer.max_steps=201",
    ]
    changes += [f"model.halting.gate_center={center}", "model.halting.target_depth=1.5"]
    train(GATED[0], changes, run_dir=tmp_path / "run", say=said.append)
    assert any(line.startswith("warning") and words in line for line in said)


def test_weight_decay_spares_biases_norms_and_learned_tokens() -> None:
    module = fresh()
    decayed, spared = module.configure_optimizers().param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.05, 0.0)
    spared_ids = {id(p) for p in spared["params"]}
    named = dict(module.named_parameters())
    for name in ("cls_token", "pos_embed", "norm.weight", "output.bias", "blocks.0.attn.qkv.bias"):
        assert id(named[f"model.network.{name}"]) in spared_ids
    assert len(decayed["params"]) + len(spared["params"]) == len(named)


def test_the_whole_loss_is_that_of_its_parts() -> None:
    """Task, ponder and distribution weights are what multiplies them."""
    module = fresh("model.halting.gate_center=0.0", "model.augment.shift=0").eval()
    examples = module.try_examples(open_set(module.recipe.data, "train").take(range(16)))
    trace = module.model.trace(examples["x"])
    task = torch.nn.functional.cross_entropy(module.model.logits(trace.mean), examples["target"])
    loss = module.batch_loss(examples)
    parts = 2e-2 * trace.ponder.mean() + 0.1 * module._watched["distribution"]
    torch.testing.assert_close(loss, task + parts)


# Starting from weights


def test_published_names_are_taken_with_a_new_head_and_other_positions(tmp_path: Path) -> None:
    """A file as timm's: head for output, 6x6 patches, 7 classes."""
    spec = DataSpec("image", (1, 12, 12), 7, tuple("abcdefg"))
    donor = fresh(name="a-vit/digits-dense-small", spec=spec).model.network
    names = {n.replace("output.", "head."): t for n, t in donor.state_dict().items()}
    save_weights(tmp_path / "deit.safetensors", names, {})
    module, said = fresh(f"model.start={tmp_path / 'deit.safetensors'}"), []
    module.say = said.append
    module.fit_to_data(open_set(module.recipe.data, "train"))
    own = module.model.network
    assert torch.equal(own.blocks[3].attn.qkv.weight, donor.blocks[3].attn.qkv.weight)
    assert torch.equal(own.pos_embed[:, 0], donor.pos_embed[:, 0])
    assert any("36 positions were interpolated to the 4x4" in line for line in said)
    assert any("7 classes apart, the data have 10: a new head" in line for line in said)
    assert any("gate_center is" in line for line in said)


def test_positions_of_the_same_grid_stay_and_a_plane_stays_a_plane() -> None:
    known = torch.randn(1, 17, 5)
    torch.testing.assert_close(positions_for((4, 4), known), known, atol=1e-5, rtol=1e-5)
    side = (torch.arange(8) + 0.5) / 8
    plane = (side[:, None] + 2 * side[None]).reshape(1, 64, 1)
    found = positions_for((16, 16), torch.cat([torch.zeros(1, 1, 1), plane], 1))[:, 1:].view(16, 16)
    fine = (torch.arange(16) + 0.5) / 16
    inner = slice(4, 12)
    torch.testing.assert_close(
        found[inner, inner], (fine[:, None] + 2 * fine[None])[inner, inner], atol=0.03, rtol=0
    )  # torch's cubic kernel keeps planes to 2 %


def test_a_gated_run_is_gone_on_from_with_its_gate(gated: Path) -> None:
    module = fresh(*GATED[1:3], f"model.start={gated}")
    module.fit_to_data(open_set(module.recipe.data, "train"))
    assert module.model.gate is not None
    assert torch.equal(module.model.gate.center, load_weights(gated / "model.safetensors")[0]["gate.center"])


# Augmentation


def test_mixing_mixes_pictures_and_targets_in_the_same_parts() -> None:
    x = torch.tensor([1.0, -1.0, -1.0, 1.0]).view(4, 1, 1, 1).expand(4, 1, 12, 12)
    target = torch.eye(2)[[0, 1, 0, 1]]
    x = torch.where(target[:, :1].view(4, 1, 1, 1) == 1, 1.0, -1.0).expand(4, 1, 12, 12)
    for key in range(20):
        for config in (Augment(mixup=0.8), Augment(cutmix=1.0), Augment(mixup=0.8, cutmix=1.0)):
            mixed, parts = augment.mixed(x, target, config, np.random.default_rng(key))
            share = mixed.mean((1, 2, 3)) / 2 + 0.5
            torch.testing.assert_close(share, parts[:, 0], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(parts.sum(1), torch.ones(4))


def test_crops_of_the_whole_picture_are_the_picture_and_small_ones_come_from_within() -> None:
    x = images(6, 16, 3)
    whole = Crop(size=16, scale=(1.0, 1.0), ratio=1.0)
    torch.testing.assert_close(augment.cropped(x, torch.rand(6, 4), whole), x, atol=1e-5, rtol=1e-5)
    ramp = torch.linspace(-0.9, 0.9, 32).expand(5, 1, 32, 32)
    found = augment.cropped(ramp, torch.rand(5, 4), Crop(size=16, scale=(0.25, 0.25), ratio=1.0))
    width = found[..., -1] - found[..., 0]
    torch.testing.assert_close(width, torch.full_like(width, 1.8 / 31 * 15), atol=0.06, rtol=0)


def test_erasing_fills_a_rectangle_of_the_drawn_size() -> None:
    x, u = torch.zeros(400, 1, 30, 30), torch.rand(400, 5)
    out = augment.erased(x, u, torch.ones_like(x), 0.25)
    share = out.mean((1, 2, 3))
    assert float((share > 0).double().mean()) == pytest.approx(0.25, abs=0.08)
    assert float(share.max()) < 0.36
    assert (share[u[:, 4] >= 0.25] == 0).all()


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_operation_keeps_the_range_and_takes_each_picture_alone(
    operation: Callable[[Tensor, Tensor], Tensor], channels: int
) -> None:
    x = (images(4, 12, channels) + 1) / 2
    level = torch.tensor([0.9, -0.9, 0.3, 0.0]).view(4, 1, 1, 1)
    out = operation(x, level)
    assert out.shape == x.shape
    assert out.min() >= -1e-5
    assert out.max() <= 1 + 1e-5
    alone = torch.cat([operation(x[i : i + 1], level[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(out, alone)
    if operation.__name__ not in ("auto_contrast", "equalize", "invert", "posterize", "solarize"):
        torch.testing.assert_close(out[3], x[3], atol=1e-5, rtol=1e-5)  # no strength, no change


def test_rand_augment_takes_about_half_of_its_operations() -> None:
    x = images(300, 8)
    u = torch.rand(300, 1, 3, generator=torch.Generator().manual_seed(0))
    out = rand_augmented(x, u, torch.ones(300, 1))
    same = (out - x).abs().amax((1, 2, 3)) < 1e-5
    assert same[u[:, 0, 1] >= 0.5].all()
    assert float(same[u[:, 0, 1] < 0.5].double().mean()) < 0.15


def test_everything_together_gives_pictures_and_targets() -> None:
    module = fresh(
        "model.crop={size: 6}",
        "model.augment={flip: true, shift: 1, rand: {}, mixup: 0.8, cutmix: 1.0, erase: 0.25, repeats: 4}",
    )
    batch = open_set(module.recipe.data, "train").take(range(64))
    examples = module.try_examples(batch)
    assert examples["x"].shape == (64, 1, 6, 6)
    torch.testing.assert_close(examples["target"].sum(1), torch.ones(64))
    plain = fresh("model.augment.repeats=4").try_examples(batch)["target"].argmax(1)
    assert torch.equal(plain, batch.label[:16].repeat(4))
    uneven = fresh("model.augment.repeats=3").try_examples(batch)["target"].argmax(1)
    assert torch.equal(uneven, batch.label[:22].repeat(3)[:64])


# Evaluation


def test_evaluate_reports_depths_operations_throughput_and_a_picture(call: Call, gated: Path) -> None:
    ended = call("evaluate", gated, "--json", "-q")
    assert ended.code == 0, ended.err
    metrics, details = ended.json["metrics"], ended.json["details"]
    named = {"accuracy", "cross-entropy", "mean-depth", "class-depth", "tokens", "operations-saved"}
    assert named <= metrics.keys()
    assert {"throughput-ratio", "images-per-second"} <= metrics.keys()
    module = load_run(gated)[2]
    x, label = held_out()
    trace = module.model.trace(x)
    right = (module.model(x).argmax(1) == label).double().mean()
    assert metrics["accuracy"] == pytest.approx(float(right), abs=1e-9)
    lived = trace.depth.minimum(trace.depth[:, :1]).double().mean()
    assert metrics["mean-depth"] == pytest.approx(float(lived))
    assert metrics["tokens"] == pytest.approx(17 * float(lived) / 4)
    assert set(details["throughput by batch size"]) == {"1", "16", "64", "256"}
    assert details["tokens by block"] == sorted(details["tokens by block"], reverse=True)
    assert set(details["depth by class"]) == {str(k) for k in range(10)}
    with Image.open(gated / "depth-map.png") as picture:
        assert picture.mode == "RGB"
        assert picture.height > 6 * 64
    page = (gated / "report.html").read_text()
    assert "data:image/png" in page
    assert "blocks its patches went through" in page


def held_out() -> tuple[Tensor, Tensor]:
    unseen = open_set(resolve("a-vit/digits-small", (), families.recipe_schema).recipe.data, "test")
    batch = unseen.take(range(len(unseen)))
    return to_model(batch.x), batch.label


def test_some_metrics_need_no_timing(gated: Path) -> None:
    done = evaluate(str(gated), metrics=["accuracy"], count=20)
    assert list(done.metrics) == ["accuracy"]
    assert not done.pictures
    assert not done.details
    timed = evaluate(str(gated), metrics=["throughput-ratio"], count=20)
    assert list(timed.metrics) == ["throughput-ratio"]


def test_it_judges_by_dropping_and_gives_gradients_by_masking(gated: Path) -> None:
    judge = load_run(gated)[2].judge()
    x, _ = held_out()
    fed = x[:8].clone().requires_grad_()
    logits = judge.logits(fed)
    logits.sum().backward()
    assert fed.grad is not None
    assert fed.grad.abs().max() > 0
    with torch.no_grad():
        torch.testing.assert_close(judge.logits(x[:8]), logits.detach(), rtol=1e-4, atol=1e-5)


# What is refused


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model.network.heads=5"], "heads (5) must divide width (48)"),
        (["model.halting.target_depth=7.5"], "7.5 is no block of the 6"),
        (["model.halting.epsilon=1.0"], "epsilon"),
        (["model.halting.gate_scal=3"], "did you mean gate_scale?"),
        (["model.augment.repeats=0"], "repeats"),
        (["model.crop={size: 6, scale: [0.5, 0.1]}"], "the lower first"),
        (["privacy={epsilon: 10}"], "take the family classifier"),
        (["model.label_smoothing=1.0"], "label_smoothing"),
    ],
)
def test_recipes_that_contradict_themselves_are_refused(overrides: list[str], words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        resolve("a-vit/digits-small", overrides, families.recipe_schema)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.network.patch=3", "patches of 3x3: it can be 1, 2, 4, 8"),
        ("model.crop={size: 9}", "9 is larger than the pictures, 8x8"),
        ("data={name: toy2d, batch_size: 8}", "reads images; toy2d is vector data"),
    ],
)
def test_data_that_do_not_fit_are_refused(override: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        fresh(override)
    assert words in str(caught.value)


def test_pictures_without_labels_are_refused() -> None:
    with pytest.raises(UserError, match="no labels to learn"):
        fresh(spec=DataSpec("image", (1, 8, 8), 0, ()))


def test_weights_of_another_network_are_refused_by_name(dense: Path, call: Call, tmp_path: Path) -> None:
    start = f"model.start={dense}"
    call("train", GATED[0], GATED[2], start, "--run-dir", tmp_path / "a").refused(
        2, "model.start: ", "blocks.0.attn.proj.bias is (24,), that of model.network (48,)"
    )
    call("train", GATED[0], *GATED[1:2], "model.network.depth=5", start, "--run-dir", tmp_path / "b").refused(
        2, "lacks blocks.4."
    )
    call("train", GATED[0], *GATED[1:2], "model.network.depth=3", start, "--run-dir", tmp_path / "c").refused(
        2, "has blocks.3.", "which this network has not"
    )
    call("train", GATED[0], "model.start=nowhere", "--run-dir", tmp_path / "d").refused(
        2, "model.start: no such run folder or .safetensors file: nowhere"
    )
    (tmp_path / "broken.safetensors").write_bytes(b"no weights")
    broken = f"model.start={tmp_path / 'broken.safetensors'}"
    call("train", GATED[0], broken, "--run-dir", tmp_path / "e").refused(4, "not a whole safetensors file")
    other = train("classifier/digits-small", ["trainer.max_steps=1"], run_dir=tmp_path / "other").run
    call("train", GATED[0], f"model.start={other}", "--run-dir", tmp_path / "f").refused(
        2, "a run of the family classifier; it takes one of a-vit"
    )


def test_it_draws_no_samples_and_guides_nobody(call: Call, gated: Path) -> None:
    call("sample", gated).refused(2, "draws no samples")
    assert set(load_run(gated)[2].usable_solvers().values()) == {AVitModule.no_samples}
    call("evaluate", gated, "--metric", "fid").refused(2, "the family a-vit has no fid")
    with pytest.raises(UserError, match="trained on clean pictures"):
        load_run(gated)[2].guide()
