"""A-ViT and its start with a teacher: the two losses, the distillation token, its weights, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from gentool.data import DataSpec, open_set
from gentool.errors import RecipeError, UserError
from gentool.families.a_vit import augment
from gentool.families.a_vit.config import Distillation
from gentool.families.a_vit.distil import distilled_loss, imitation
from gentool.networks.vit import Heads
from gentool.runs.folder import RunFolder
from gentool.runs.weights import fingerprint, load_weights, save_weights
from gentool.tasks.train import train
from tests.families.test_a_vit import fresh, images
from tests.families.test_a_vit_halting import made, pictures, spread

TOKEN = "model.network.distilled=true"


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    changes = ["model.network.channels=8", "model.network.mult=[1,2]", "trainer.max_steps=120"]
    folder = tmp_path_factory.mktemp("teacher") / "run"
    return train("classifier/digits-small", changes, run_dir=folder).run


def taught(teacher: Path | str, more: str = "") -> str:
    return f"model.distillation={{teacher: {teacher}{more}}}"


# The losses


def test_hard_imitation_is_cross_entropy_to_the_likeliest_class() -> None:
    said, known = torch.randn(6, 5), torch.randn(6, 5)
    config = Distillation(teacher="t", kind="hard")
    torch.testing.assert_close(imitation(said, known, config), F.cross_entropy(said, known.argmax(1)))
    torch.testing.assert_close(imitation(said, 9 * known, config), imitation(said, known, config))


def test_soft_imitation_vanishes_at_the_teacher_and_becomes_least_squares_of_logits_at_high_temperature() -> (
    None
):
    """tau^2 KL tends to half the variance of the logits' differences over the classes (Hinton et al. 2015, eq. 4)."""
    said, known = torch.randn(2, 6, 5, dtype=torch.float64)
    config = Distillation(teacher="t", kind="soft", temperature=1.0)
    assert float(imitation(known + 3, known, config)) == pytest.approx(0, abs=1e-12)
    by_hand = (known.softmax(1) * (known.log_softmax(1) - said.log_softmax(1))).sum(1).mean()
    torch.testing.assert_close(imitation(said, known, config), by_hand)
    hot = imitation(said, known, config.model_copy(update={"temperature": 1e4}))
    limit = (known - said).var(1, correction=0).mean() / 2
    torch.testing.assert_close(hot, limit, rtol=1e-3, atol=0)


def test_the_weight_is_the_teachers_share() -> None:
    task, aim = torch.tensor(2.0), torch.tensor(5.0)
    found = [float(distilled_loss(task, aim, Distillation(teacher="t", weight=w))) for w in (0.0, 0.25, 1.0)]
    assert found == pytest.approx([2.0, 2.75, 5.0])


@pytest.mark.parametrize("kind", ["hard", "soft"])
@pytest.mark.parametrize("token", [True, False])
def test_the_whole_loss_is_labels_and_teacher_by_their_heads(kind: str, token: bool, teacher: Path) -> None:
    """The class token's head learns the labels, the distillation token's the teacher; one alone learns both."""
    module = fresh(
        f"model.network.distilled={str(token).lower()}",
        taught(teacher, f", kind: {kind}, weight: 0.3"),
        "model.halting=null",
    ).eval()
    examples = module.try_examples(open_set(module.recipe.data, "train").take(range(16)))
    features = module.model.network.read(module.model.states(examples["x"]))
    output = module.model.network.output
    said = output.each(features) if isinstance(output, Heads) else [output(features)]
    assert len(said) == 1 + token
    known = module.teacher().logits(examples["x"])
    assert (known.argmax(1) == examples["target"].argmax(1)).double().mean() > 0.5  # it knows something
    config = module.recipe.model.distillation
    assert config is not None
    expected = 0.7 * F.cross_entropy(said[0], examples["target"]) + 0.3 * imitation(said[-1], known, config)
    torch.testing.assert_close(module.batch_loss(examples), expected)


SMALL = ["model.network.width=24", "model.network.depth=2", "model.halting.target_depth=1.5"]


def test_the_teacher_stays_as_it_is_and_out_of_the_weights(teacher: Path, tmp_path: Path) -> None:
    changes = [TOKEN, taught(teacher), *SMALL, "trainer.max_steps=2"]
    run = train("a-vit/digits-small", changes, run_dir=tmp_path / "run").run
    names = load_weights(run / "model.safetensors")[0].keys()
    assert "network.dist_token" in names
    assert not any("teacher" in name for name in names)
    module = fresh(TOKEN, taught(teacher))
    before = {name: value.clone() for name, value in module.model.state_dict().items()}
    module.try_step(open_set(module.recipe.data, "train").take(range(8)))
    assert module._teacher is not None
    assert not any(p.requires_grad for p in module._teacher.output.parameters())
    assert module.model.state_dict().keys() == before.keys()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_resuming_needs_the_teacher_no_more_but_refuses_another(teacher: Path, tmp_path: Path) -> None:
    """The run keeps a copy: it ends with the weights of an uninterrupted one, wherever the teacher went."""
    own = Path(shutil.copytree(teacher, tmp_path / "teacher"))
    changes = [TOKEN, taught(own), *SMALL, "optimizer.schedule=constant"]

    def to(step: int, name: str, resume: str | None = None) -> Path:
        return train(
            "a-vit/digits-small",
            [*changes, f"trainer.max_steps={step}"],
            run_dir=tmp_path / name,
            resume=resume,
        ).run

    whole, part = to(4, "whole"), to(2, "part")
    copy = RunFolder(part / "teacher")
    assert copy.weights.read_bytes() == RunFolder(own).weights.read_bytes()
    assert RunFolder(part).read_provenance()["teacher"]["sha256"] == fingerprint(copy.weights)
    with open(own / "model.safetensors", "ab") as file:
        file.write(b" ")
    with pytest.raises(UserError, match="not those this run began with") as refused:
        to(4, "part", "auto")
    assert refused.value.where == "model.distillation.teacher"
    shutil.rmtree(own)
    to(4, "part", "auto")
    found, expected = (load_weights(run / "model.safetensors")[0] for run in (part, whole))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


# The token


def test_what_is_said_is_the_mean_of_both_heads() -> None:
    heads = Heads(7, 4, 2)
    torch.nn.init.normal_(heads.bias)
    features = torch.randn(5, 14)
    torch.testing.assert_close(heads(features), sum(heads.each(features)) / 2)
    alone = F.linear(features[:, 7:], heads.weight[:, 7:], heads.bias[4:])
    torch.testing.assert_close(heads.each(features)[1], alone)


@pytest.mark.parametrize("count", [1, 3, 64])
def test_dropping_equals_masking_with_a_distillation_token(count: int) -> None:
    model, x = spread(0, registers=1, distilled=True), pictures(count)
    trace, dropped = model.trace(x), model.dropped(x)
    assert dropped.mean.shape == (count, 2, 16)
    torch.testing.assert_close(dropped.mean, trace.mean, rtol=1e-9, atol=1e-10)
    assert (trace.depth[:, 1:3] == 5).all()  # neither it nor the register halts
    assert torch.equal(dropped.depth, trace.depth.minimum(trace.depth[:, :1]))


def test_both_tokens_are_read_where_the_class_token_halts() -> None:
    model, x = made(center=-1e4, distilled=True), pictures(3)
    first = model.network.blocks[0](model.network.embed(x))
    torch.testing.assert_close(model.trace(x).mean, first[:, :2])


# Weights


def test_published_distilled_weights_are_taken_with_both_heads(tmp_path: Path) -> None:
    donor = fresh(TOKEN, taught("classifier/digits-small"), "model.halting=null").model.network
    assert isinstance(donor.output, Heads)
    with torch.no_grad():
        donor.output.bias.normal_()
    names = dict(donor.state_dict())
    weight, bias = names.pop("output.weight"), names.pop("output.bias")
    for head, w, b in zip(("head", "head_dist"), weight.chunk(2, 1), bias.chunk(2)):
        names |= {f"{head}.weight": w.contiguous(), f"{head}.bias": b.contiguous()}
    save_weights(tmp_path / "deit.safetensors", names, {})
    start = f"model.start={tmp_path / 'deit.safetensors'}"
    module = fresh(TOKEN, taught("classifier/digits-small"), "model.halting=null", start)
    said = started(module)
    assert len(said) == 1
    torch.testing.assert_close(module.model(images(3)), donor(images(3)))
    plain = fresh(start)
    with pytest.raises(UserError, match="distilled is false"):
        started(plain)


def started(module: object) -> list[str]:
    from gentool.families.a_vit.start import load_start

    return load_start(module.recipe.model.start, module.model)[0]  # type: ignore[attr-defined]


def test_a_plain_start_gives_the_distillation_token_its_class_tokens_weights(tmp_path: Path) -> None:
    donor = fresh("model.halting=null").model.network
    save_weights(tmp_path / "deit.safetensors", dict(donor.state_dict()), {})
    start = f"model.start={tmp_path / 'deit.safetensors'}"
    module = fresh(TOKEN, taught("classifier/digits-small"), "model.halting=null", start)
    assert any("starts as the class token" in line for line in started(module))
    states = module.model.states(images(3))
    torch.testing.assert_close(states[:, 0], states[:, 1])
    first, second = module.model.network.output.each(module.model.network.read(states))  # type: ignore[operator]
    torch.testing.assert_close(first, second)


# What is refused


def test_a_distillation_token_without_a_teacher_is_refused() -> None:
    with pytest.raises(RecipeError, match="learns from a teacher"):
        fresh(TOKEN)


def test_what_cannot_teach_is_refused(teacher: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no run folder: train that model first") as refused:
        train("a-vit/digits-small", [taught("classifier/digits-small")], run_dir=tmp_path / "none")
    assert refused.value.where == "model.distillation.teacher"
    drawing = train(
        "edm/digits-small", ["trainer.max_steps=1", "model.network.channels=8"], run_dir=tmp_path / "edm"
    )
    with pytest.raises(UserError, match="the family edm is no classifier"):  # before the first step
        train("a-vit/digits-small", [taught(drawing.run)], run_dir=tmp_path / "edm-taught")
    for spec, words in (
        (
            DataSpec("image", (1, 12, 12), 10, tuple("abcdefghij")),
            r"reads pictures of \(1, 8, 8\), the student \(1, 12",
        ),
        (DataSpec("image", (1, 8, 8), 3, tuple("abc")), "tells classes apart: 10, the student 3"),
    ):
        with pytest.raises(UserError, match=words):
            fresh(taught(teacher), spec=spec).teacher()


# Colour jitter


def test_jitter_at_its_middle_changes_nothing_and_keeps_each_picture_to_itself() -> None:
    x = images(6, 8, 3)
    middle = torch.full((6, 4), 0.5)
    torch.testing.assert_close(augment.jittered(x, middle, 0.4), x)
    u = torch.rand(6, 4, generator=torch.Generator().manual_seed(0))
    out = augment.jittered(x, u, 0.4)
    assert out.min() >= -1
    assert out.max() <= 1
    alone = torch.cat([augment.jittered(x[i : i + 1], u[i : i + 1], 0.4) for i in range(6)])
    torch.testing.assert_close(out, alone)
    assert (out - x).abs().amax((1, 2, 3)).min() > 1e-3


@pytest.mark.parametrize("kind", range(3))
def test_jitters_three_parts_do_what_they_are_called(kind: int) -> None:
    """Brightness scales, contrast keeps the mean gray, saturation keeps every pixel's gray."""
    x = 0.4 * images(5, 8, 3)
    u = torch.full((5, 4), 0.5)
    u[:, kind] = 1.0
    before, after = (x + 1) / 2, (augment.jittered(x, u, 0.2) + 1) / 2
    gray = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)

    def grays(pictures: Tensor) -> Tensor:
        return (gray * pictures).sum(1)

    assert not torch.allclose(before, after, atol=1e-3)
    if kind == 0:
        torch.testing.assert_close(after, 1.2 * before)
    elif kind == 1:
        torch.testing.assert_close(grays(after).mean((1, 2)), grays(before).mean((1, 2)))
    else:
        torch.testing.assert_close(grays(after), grays(before))
