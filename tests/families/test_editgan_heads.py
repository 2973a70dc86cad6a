"""When EditGAN's label heads stop, what they learn from, and photos' codes as lessons."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gentool import families
from gentool.data import Batch, open_set
from gentool.errors import UserError
from gentool.families.editgan.heads import LabelHeads
from gentool.families.editgan.labels import read_masks, write_label_map
from gentool.families.editgan.lessons import Lessons, held_out_pixels
from gentool.families.editgan.module import EditganModule
from gentool.families.editgan.stopping import CHECKS, EVERY, FIRST_EPOCH, LAST_EPOCH, PATIENCE, Stopping
from gentool.families.editgan.vector import Vector, load_codes, load_vector, save_codes
from gentool.recipes.resolve import resolve
from gentool.tasks.model.build import build_module

THIN = (
    "model.heads=2",
    "model.hidden=[8, 4]",
    "model.fewest=0",
    "model.labelled=6",
    "model.encoder={channels: 4, most: 8, samples: 4}",
)


def heads(count: int = 2) -> LabelHeads:
    torch.manual_seed(0)
    return LabelHeads(count, 5, (8, 4), 3)


def seen(rule: Stopping, losses: Sequence[Sequence[float]], epoch: int) -> None:
    for row in losses:
        rule.saw(torch.tensor(row), epoch)


def test_the_published_rule_looks_from_the_fifth_pass_on_and_bears_fifty_steps_without_a_new_minimum() -> (
    None
):
    rule = Stopping("paper", heads())
    seen(rule, [(1.0, 1.0)] * (3 * PATIENCE), FIRST_EPOCH - 1)
    assert rule.learning() == [0, 1]
    seen(rule, [(1.0, 1.0)], FIRST_EPOCH)  # the first is a minimum, however high
    seen(rule, [(1.0, 1.0 - i / 1000) for i in range(1, PATIENCE + 1)], FIRST_EPOCH)
    assert rule.learning() == [0, 1]  # fifty are borne
    seen(rule, [(1.0, 2.0)], FIRST_EPOCH)
    assert rule.learning() == [1]  # the other's last minimum is one step old
    seen(rule, [(2.0,)] * (PATIENCE - 1), FIRST_EPOCH)
    assert rule.learning() == [1]
    seen(rule, [(2.0,)], FIRST_EPOCH)
    assert rule.learning() == []


def test_the_published_rule_ends_after_a_hundred_passes() -> None:
    rule = Stopping("paper", heads())
    seen(rule, [(1.0, 1.0)], LAST_EPOCH - 1)
    assert rule.learning() == [0, 1]
    seen(rule, [(0.5, 0.5)], LAST_EPOCH)
    assert rule.learning() == []


def test_by_held_out_pixels_the_head_at_its_best_is_released() -> None:
    trained = heads()
    rule = Stopping("val", trained)
    values = iter([[3.0, 3.0], [1.0, 2.0]] + [[2.0, 1.0 / (i + 1)] for i in range(CHECKS)])
    asked = 0

    def held_out() -> Tensor:
        nonlocal asked
        asked += 1
        return torch.tensor(next(values))

    kept = {}
    for check in range(1, CHECKS + 3):
        with torch.no_grad():
            for weight in trained.parameters():
                weight += 1
        if check == 2:
            kept = {name: value.clone() for name, value in trained.state_dict().items()}
        rule.check(trained, check * EVERY - 1, held_out)
        assert asked == check - 1  # not between checks
        rule.check(trained, check * EVERY, held_out)
    assert rule.learning() == [1]
    released = rule.released(trained.state_dict())
    assert released.keys() == kept.keys()
    assert torch.equal(released["heads.0.0.weight"], kept["heads.0.0.weight"])
    assert torch.equal(released["heads.1.0.weight"], trained.state_dict()["heads.1.0.weight"])
    again = Stopping("val", heads())
    again.load_state_dict(rule.state_dict())
    assert again.learning() == [1]


class Flat:
    """A view whose features are the codes' first value everywhere, and the number of the pixel."""

    def features(self, ws: Tensor) -> tuple[Tensor, Tensor]:
        value = ws[:, 0, :1, None].expand(-1, 4, 4)
        return value[:, None], torch.stack([value, torch.arange(16.0).view(4, 4).expand(len(ws), 4, 4)], 1)


def lessons(*, some: bool) -> Lessons:
    known = (torch.arange(4) == 0).long().expand(6, 4, 4)  # one column in four
    codes = torch.arange(6.0).view(6, 1, 1).expand(6, 3, 2)
    return Lessons(codes, lambda rows, x: known[rows], held_out_pixels(6, 4, some=some), 2)


def test_pixels_of_every_class_alike_and_never_the_held_out_ones() -> None:
    told = lessons(some=True)
    assert 0 < int(told.held_out.sum()) < told.held_out.numel() / 3
    assert not lessons(some=False).held_out.any()
    assert lessons(some=False).steps(64) == 2  # 96 pixels
    counts, met = torch.zeros(2), torch.zeros(6, 16, dtype=torch.bool)
    for step in range(200):
        features, labels = told.draw(Flat(), 3, 64, torch.Generator().manual_seed(step))  # type: ignore[arg-type]
        assert features.shape == (3, 64, 2)
        counts += torch.bincount(labels.flatten(), minlength=2)
        met[tuple(features.flatten(0, 1).long().T)] = True
    assert float(counts[1] / counts.sum()) == pytest.approx(0.5, abs=0.01)
    assert torch.equal(met, ~told.held_out.flatten(1))
    # a head that knows nothing pays ln 2
    judged = LabelHeads(1, 2, (8, 4), 2)
    for weight in judged.parameters():
        torch.nn.init.zeros_(weight)
    loss = told.held_out_losses(Flat(), judged)  # type: ignore[arg-type]
    assert float(loss[0]) == pytest.approx(0.6931471806, abs=1e-6)
    assert judged.training


def made(*changes: str) -> EditganModule:
    recipe = resolve(
        "editgan/digits8-small", ("data.limit=20", *THIN, *changes), families.recipe_schema
    ).recipe
    module = build_module(recipe, open_set(recipe.data, "train").spec)
    assert isinstance(module, EditganModule)
    return module


def test_heads_that_have_stopped_are_left_as_they_are_while_the_encoder_learns_on() -> None:
    module = made("model.stop=paper")
    module.assume_data()
    assert module.stopping is not None
    module.stopping.active[0] = False
    x = torch.randint(0, 256, (4, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    none = torch.full((4,), -1)
    module.try_step(Batch(x, none, none))
    assert all(p.grad is None for p in module.model.heads.heads[0].parameters())
    assert all(p.grad is not None for p in module.model.heads.heads[1].parameters())
    module.stopping.active[1] = False
    assert module.heads_loss() is None


def test_labelled_photos_are_the_datas_pictures_as_the_encoder_sees_them() -> None:
    module = made("model.labels={source: strokes, of: photos}")
    photos = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    module._photos = photos
    rows = torch.tensor([4, 1])
    features, known = module.lessons().features(module.view, rows)
    rendered, expected = module.view.features(module.view.encode(photos[rows]))
    torch.testing.assert_close(features, expected.movedim(1, -1))
    assert torch.equal(known, module.strokes(rendered))
    with torch.no_grad():
        module.model.encoder.centre += 1
    assert not torch.equal(module.lessons().features(module.view, rows)[0], features)


def test_a_mask_beside_a_photos_codes_is_that_photos(tmp_path: Path) -> None:
    labels = torch.randint(0, 3, (6, 6), generator=torch.Generator().manual_seed(0))
    ws = torch.randn(4, 5)
    save_codes(tmp_path / "car 7.safetensors", ws, "abc", "car 7.png")
    for name in ("car 7", "9"):
        write_label_map(tmp_path / f"{name}.png", labels, 3)
    found, maps = read_masks(tmp_path, 3, 6, lambda line: None)
    assert found == [9, tmp_path / "car 7.safetensors"]
    assert len(maps) == 2
    assert torch.equal(load_codes(tmp_path / "car 7.safetensors", "abc", (4, 5)), ws)
    with pytest.raises(UserError, match="another generator"):
        load_codes(tmp_path / "car 7.safetensors", "def", (4, 5))
    Vector(ws, ("a",), "abc", "x").save(tmp_path / "v.safetensors")
    with pytest.raises(UserError, match="holds no codes"):
        load_codes(tmp_path / "v.safetensors", "abc", (4, 5))
    with pytest.raises(UserError, match="is no editing vector"):
        load_vector(tmp_path / "car 7.safetensors", "abc", (4, 5), ("a",))
