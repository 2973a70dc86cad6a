"""EditGAN's parts: heads, regions, losses, edits by optimisation, vectors, blending."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from gentool.errors import CorruptError, UserError
from gentool.families.editgan import editing
from gentool.families.editgan.blend import poisson_blend
from gentool.families.editgan.config import EncoderConfig
from gentool.families.editgan.encoder import Encoder
from gentool.families.editgan.heads import (
    LabelHeads,
    head_widths,
    mean_logits,
    stack_features,
    uncertainty,
    worst_mean,
)
from gentool.families.editgan.labels import (
    fit_map,
    palette,
    read_label_map,
    read_masks,
    stroke_labels,
    without_specks,
    write_label_map,
)
from gentool.families.editgan.losses import (
    Likeness,
    dilated,
    edited_classes,
    noise_correlation,
    region_cross_entropy,
    region_of,
    squared,
)
from gentool.families.editgan.vector import Vector, load_vector
from gentool.families.editgan.view import View, feature_channels
from gentool.networks.stylegan2 import Generator
from gentool.networks.stylegan2_config import StyleGenerator


def as_logits(*heads: tuple[float, ...]) -> Tensor:
    return torch.tensor(heads, dtype=torch.float64).clamp(min=1e-300).log().view(len(heads), 1, -1, 1, 1)


@pytest.mark.parametrize(
    ("heads", "expected"),
    [
        (((0.3, 0.7), (0.3, 0.7)), 0.0),
        (((1.0, 0.0), (0.0, 1.0)), math.log(2)),
        (((0.9, 0.1), (0.5, 0.5)), 0.1017492251),
    ],
)
def test_uncertainty_is_the_jensen_shannon_divergence(
    heads: tuple[tuple[float, ...], ...], expected: float
) -> None:
    assert float(uncertainty(as_logits(*heads))) == pytest.approx(expected, abs=1e-9)


def test_uncertainty_lies_between_0_and_the_log_of_the_heads() -> None:
    logits = 20 * torch.randn(4, 3, 7, 5, 5, generator=torch.Generator().manual_seed(0))
    found = uncertainty(logits)
    assert found.min() >= 0
    assert found.max() <= math.log(4) + 1e-6
    assert float(worst_mean(torch.arange(1.0, 101)[None])) == 95.5


@pytest.mark.parametrize(
    ("base", "size", "channels"),
    [
        (StyleGenerator(channel_base=32768, channel_max=512), 512, 6016),
        (StyleGenerator(latent=8, style=8, layers=1, channel_base=2048, channel_max=64), 32, 512),
    ],
)
def test_the_width_of_the_features_is_the_generators(base: StyleGenerator, size: int, channels: int) -> None:
    with torch.device("meta"):
        assert feature_channels(Generator(base, 1, size)) == channels


def test_features_are_stacked_at_the_pictures_size() -> None:
    maps = [torch.full((2, 3, r, r), float(r)) for r in (4, 8)]
    found = stack_features(maps, 8)
    assert found.shape == (2, 6, 8, 8)
    assert (found[:, :3] == 4).all()
    assert (found[:, 3:] == 8).all()


def test_a_class_never_seen_is_never_predicted_and_a_picture_is_labelled_by_itself() -> None:
    torch.manual_seed(0)
    heads = LabelHeads(3, 5, (8, 4), 4).eval()
    heads.seen[2] = False
    features = torch.randn(6, 5, 7, 7)
    logits = heads(features)
    assert logits.shape == (3, 6, 4, 7, 7)
    assert not (mean_logits(logits).argmax(1) == 2).any()
    assert uncertainty(logits).isfinite().all()
    torch.testing.assert_close(heads(features[4:5])[:, 0], logits[:, 4])
    assert head_widths(31) == (128, 32)
    assert head_widths(32) == (256, 128)


def test_holes_are_what_the_border_does_not_reach() -> None:
    ring = -torch.ones(2, 1, 6, 6)
    ring[:, :, 1:5, 1:5] = 1
    ring[:, :, 2:4, 2:4] = -1
    ring[1, :, 1, 2] = -1  # open to the outside
    closed, opened = stroke_labels(ring)
    assert (closed[2:4, 2:4] == 2).all()
    assert (closed == 1).sum() == 12
    assert (opened == 2).sum() == 0
    specks = without_specks(closed[None], 5, 3)
    assert (specks == 2).sum() == 0
    assert (specks == 1).sum() == 12


def test_the_region_is_empty_without_an_edit_symmetric_and_grown_by_three_pixels() -> None:
    a = torch.randint(0, 3, (2, 16, 16), generator=torch.Generator().manual_seed(0))
    b = a.clone()
    assert not region_of(a, b).any()
    assert not region_of(a, b, edited_classes(a, b, 3)).any()
    b[:, 3, 4] = (b[:, 3, 4] + 1) % 3
    classes = edited_classes(a, b, 3)
    for edited in (None, classes):
        assert torch.equal(region_of(a, b, edited), region_of(b, a, edited))
    assert classes.sum(1).tolist() == [2, 2]
    assert (region_of(a, b) <= region_of(a, b, classes)).all()
    point = torch.zeros(1, 15, 15, dtype=torch.bool)
    point[0, 7, 7] = True
    assert int(dilated(point).sum()) == 49
    assert int(region_of(point.long(), 0 * point.long(), widened=1).sum()) == 9


def test_a_change_within_the_region_costs_nothing_outside_it() -> None:
    x = torch.rand(2, 1, 8, 8, dtype=torch.float64)
    region = torch.zeros(2, 8, 8, dtype=torch.bool)
    region[:, 2:5, 2:5] = True
    y = torch.where(region[:, None], x + 1, x).requires_grad_()
    alike = Likeness(None, x, outside=~region)
    held = alike(y)
    assert (held == 0).all()
    alike(y + 0.1).sum().backward()
    assert y.grad is not None
    assert (y.grad[region[:, None]] == 0).all()
    assert (y.grad[~region[:, None]] != 0).all()
    # the mean is over all pixels, those of the region too
    far = alike(x + 2)
    torch.testing.assert_close(far, torch.full((2,), 55 / 64, dtype=torch.float64))


def test_cross_entropy_is_of_the_region_alone() -> None:
    logits = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    labels, region = torch.zeros(2, 4, 4, dtype=torch.long), torch.zeros(2, 4, 4, dtype=torch.bool)
    region[0, 1:3, 1:3] = True
    found = region_cross_entropy(logits.movedim(1, -1)[region], labels, region)
    expected = -logits.log_softmax(1)[0, 0, 1:3, 1:3].mean()
    torch.testing.assert_close(found[0], expected)
    assert float(found[1].detach()) == 0
    found.sum().backward()
    assert logits.grad is not None
    assert (logits.grad.abs().sum(1) > 0).equal(region)


def test_perceptual_distance_of_unit_features() -> None:
    def maps(x: Tensor) -> list[Tensor]:
        return [torch.cat([x, 2 * x.flip(1)], 1), 3 * x]

    x, y = torch.rand(2, 2, 4, 4) + 0.1, torch.rand(2, 2, 4, 4) + 0.1
    far = Likeness(maps, x, pixel_weight=0, perceptual_weight=1)
    assert (far(x) == 0).all()
    torch.testing.assert_close(far(5 * y), far(y))  # directions alone
    assert (far(y) > 0).all()
    assert (far(y) <= 4).all()  # unit vectors
    assert (Likeness(None, x, pixel_weight=0)(y) == 0).all()
    deep = Likeness(lambda x: 3 * maps(x), x, pixel_weight=0, perceptual_weight=1)
    torch.testing.assert_close(deep(y), far(y))  # not more for being seen by more maps
    assert float(squared(torch.ones(1, 1, 2, 2), -torch.ones(1, 1, 2, 2))) == 1


@pytest.mark.parametrize(("t", "share"), [(0, 0), (0.05, 1), (0.75, 1), (0.875, 0.5), (1, 0)])
def test_the_rate_of_an_inversion(t: float, share: float) -> None:
    assert editing.ramp(t) == pytest.approx(share)


class Linear:
    """A generator G(w) = A w whose pixels' logits are +-(what the pixel is)."""

    def __init__(self, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.matrix = torch.randn(16, 6, generator=generator, dtype=torch.float64)

    def render(self, ws: Tensor) -> Tensor:
        return (ws.flatten(1) @ self.matrix.T).view(-1, 1, 4, 4)

    def render_labelled(self, ws: Tensor) -> tuple[Tensor, Tensor]:
        made = self.render(ws)
        return made, torch.cat([-made, made], 1)

    def render_region(self, ws: Tensor, region: Tensor) -> tuple[Tensor, Tensor]:
        made, logits = self.render_labelled(ws)
        return made, logits.movedim(1, -1)[region]

    def encode(self, x: Tensor) -> Tensor:
        return (x.flatten(1) @ torch.linalg.pinv(self.matrix).T).view(-1, 2, 3)

    def mean_codes(self, count: int) -> Tensor:
        return torch.zeros(count, 2, 3, dtype=torch.float64)

    def spread(self) -> float:
        return 3**0.5

    def own_planes(self, count: int) -> list[Tensor]:
        return []

    def with_planes(self, planes: object) -> Linear:
        return self


def linear_edit(weights: editing.Weights, steps: int) -> tuple[Linear, Tensor, Tensor, editing.Found]:
    model = Linear()
    ws = torch.randn(3, 2, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    region = torch.zeros(3, 4, 4, dtype=torch.bool)
    region[:, :2, :2] = True
    wanted = 1 - model.render_labelled(ws)[1].argmax(1)
    return model, ws, region, editing.edit(model, ws, wanted, region, None, steps=steps, weights=weights)


def test_without_labels_and_encoder_there_is_nothing_to_move() -> None:
    _, ws, _, found = linear_edit(editing.Weights(labels=0, latent=0), 20)
    assert torch.equal(found.ws, ws)
    assert (found.first == 0).all()


def test_an_edit_changes_the_labels_and_keeps_the_best_codes_that_it_saw() -> None:
    model, ws, region, found = linear_edit(editing.Weights(outside=1, latent=0), 200)
    assert (found.loss < found.first).all()
    inside = (model.render(found.ws) - model.render(ws)).abs().squeeze(1)
    assert inside[region].mean() > 0.05

    def valley(values: Sequence[Tensor], t: float) -> tuple[Tensor, Tensor]:
        far = values[0].square().flatten(1).sum(1)
        return far, far

    wild = editing.descend([torch.full((1, 1, 1), 0.1)], valley, 10, lambda t: 5.0)  # every step overshoots
    assert torch.equal(wild.ws, torch.full((1, 1, 1), 0.1))
    assert float(wild.loss) == pytest.approx(0.01)


def test_optimisation_finds_the_closed_form_of_a_linear_generator() -> None:
    """A quadratic in place of the cross-entropy: the minimiser solves the normal equations."""
    model = Linear()
    a, region = model.matrix, torch.arange(16) < 4
    start, target = torch.zeros(1, 2, 3, dtype=torch.float64), torch.ones(4, dtype=torch.float64)

    def loss(values: Sequence[Tensor], t: float) -> tuple[Tensor, Tensor]:
        made = model.render(values[0]).flatten(1)
        total = (made[:, ~region] ** 2).sum(1) + 3 * ((made[:, region] - target) ** 2).sum(1)
        return total, total

    found = editing.descend([start], loss, 500, lambda t: 0.1 * editing.ramp(t))
    weights = torch.where(region, 3.0, 1.0).double()
    full = torch.zeros(16, dtype=torch.float64)
    full[region] = target
    expected = torch.linalg.solve(a.T @ (weights[:, None] * a), a.T @ (weights * full))
    torch.testing.assert_close(found.ws.flatten(), expected, rtol=1e-3, atol=1e-4)


def test_an_inversion_starts_at_the_encoders_codes() -> None:
    model = Linear()
    x = torch.rand(2, 1, 4, 4, dtype=torch.float64)
    found = editing.invert(model, x, None, steps=0)
    torch.testing.assert_close(found.ws, model.encode(x))
    better = editing.invert(model, x + 0, None, steps=60)
    assert (better.loss <= found.loss).all()


def test_a_projection_starts_at_the_mean_and_finds_what_the_encoder_does() -> None:
    model = Linear()
    x = model.render(torch.randn(2, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    found = editing.invert(model, x, None, start="mean", steps=200)
    assert (found.loss < 1e-3 * squared(x, torch.zeros_like(x))).all()
    # what was shaken is never kept, though it may have been better: its loss is another code's
    shown = squared(model.render(found.ws), x)
    torch.testing.assert_close(found.loss, shown)
    again = editing.invert(model, x, None, start="mean", steps=200)
    assert torch.equal(again.ws, found.ws)


def test_correlation_of_noise() -> None:
    plane = torch.full((2, 1, 16, 16), 0.7)
    expected = 2 * 0.7**4 * 2  # two scales, 16 and 8
    torch.testing.assert_close(noise_correlation([plane]), torch.full((2,), expected))
    torch.testing.assert_close(
        noise_correlation([plane, plane[..., :4, :4]]), torch.full((2,), 1.5 * expected)
    )
    white = torch.randn(400, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert float(noise_correlation([white]).mean()) == pytest.approx(2 / 64, rel=0.15)


class Noisy:
    """A real, untrained generator whose noise is seen, with its heads and encoder."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        config = StyleGenerator(latent=8, style=8, layers=1, channel_base=64, channel_max=8)
        generator = Generator(config, 1, 8).requires_grad_(False)
        for name, value in generator.synthesis.named_parameters():
            if name.endswith("noise_strength"):
                value.fill_(0.3)
        heads = LabelHeads(2, feature_channels(generator), (8, 4), 3).eval().requires_grad_(False)
        encoder = Encoder(EncoderConfig(channels=4, most=8), (1, 8, 8), 4, 8).requires_grad_(False)
        self.view = View(generator, heads, encoder, 8)
        self.ws = torch.randn(3, 4, 8)


def test_logits_of_a_region_are_those_of_the_whole() -> None:
    view, ws = (noisy := Noisy()).view, noisy.ws
    region = torch.rand(3, 8, 8) < 0.3
    region[1] = False
    made, logits = view.render_labelled(ws)
    same, rows = view.render_region(ws, region)
    assert torch.equal(same, made)
    torch.testing.assert_close(rows, logits.movedim(1, -1)[region])


def test_noise_is_each_pictures_own() -> None:
    view, ws = (noisy := Noisy()).view, noisy.ws
    planes = view.own_planes(3)
    torch.testing.assert_close(view.with_planes(planes).render(ws), view.render(ws))
    other = view.with_planes([plane.flip(2) for plane in planes])
    assert not torch.allclose(other.render(ws), view.render(ws))
    where = torch.tensor([False, True, True])
    torch.testing.assert_close(other.rows(where).render(ws[where]), other.render(ws)[where])


def test_an_inversion_with_noise_comes_nearer_and_its_planes_stay_normal() -> None:
    view, ws = (noisy := Noisy()).view, noisy.ws
    x = view.with_planes([plane.flip(3) for plane in view.own_planes(3)]).render(ws)
    bare = editing.invert(view, x, None, steps=60)
    found = editing.invert(view, x, None, steps=60, noise=0.0)
    assert (found.loss < bare.loss).all()
    held = editing.invert(view, x, None, steps=60, noise=1e5)
    correlated = [noise_correlation(some.values[1:]).mean() for some in (held, found)]
    assert correlated[0] < correlated[1] / 2
    assert len(found.values) == 4  # the codes, and a plane a convolution
    for plane in found.values[1:]:
        assert float(plane.mean((1, 2, 3)).abs().max()) < 1e-5
        torch.testing.assert_close(plane.square().mean((1, 2, 3)), torch.ones(3))
    torch.testing.assert_close(squared(view.with_planes(found.values[1:]).render(found.ws), x), found.loss)


def test_vectors_scale_add_and_come_back() -> None:
    model, ws, _, found = linear_edit(editing.Weights(latent=0), 20)
    delta = (found.ws - ws)[:1]

    def moved(start: Tensor, scale: float, refine: int = 0) -> Tensor:
        return editing.apply_vector(model, start, delta, scale, None, None, refine=refine)[0]

    assert torch.equal(moved(ws, 0.0), ws)
    torch.testing.assert_close(moved(moved(ws, 1.5), -1.5), ws, rtol=0, atol=1e-14)
    torch.testing.assert_close(moved(moved(ws, 0.5), 0.75), moved(ws, 1.25))
    # nothing changes its label: the region is empty, and there is nothing to refine
    assert torch.equal(moved(ws, 0.0, refine=5), ws)


def test_codes_of_other_layers_stay_as_they_are() -> None:
    """Of an edit, a bare vector and its refinement."""
    model = Linear()
    ws = torch.randn(3, 2, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    region = torch.ones(3, 4, 4, dtype=torch.bool)
    wanted = 1 - model.render_labelled(ws)[1].argmax(1)
    whole, part = (editing.edit(model, ws, wanted, region, None, steps=20, layers=n) for n in (None, [1]))
    assert torch.equal(part.ws[:, 0], ws[:, 0])
    assert (part.ws[:, 1] != ws[:, 1]).all()
    assert (part.loss <= part.first).all()
    assert (whole.ws[:, 0] != ws[:, 0]).all()
    delta = (whole.ws - ws)[0]
    for refine in (0, 5):
        moved = editing.apply_vector(model, ws, delta, 2.0, None, None, refine=refine, layers=[1])[0]
        assert torch.equal(moved[:, 0], ws[:, 0])
        assert refine or torch.equal(moved[:, 1], ws[:, 1] + 2 * delta[1])


def test_vectors_on_disk(tmp_path: Path) -> None:
    delta, path = torch.randn(5, 4), tmp_path / "v.safetensors"
    Vector(delta, ("hole", "stroke"), "abc", "photo.png").save(path)
    names = ("outside", "stroke", "hole")
    again = load_vector(path, "abc", (5, 4), names)
    assert torch.equal(again.delta, delta)
    assert (again.classes, again.source) == (("hole", "stroke"), "photo.png")
    with pytest.raises(UserError, match="another generator"):
        load_vector(path, "abd", (5, 4), names)
    with pytest.raises(UserError, match="edits hole, which is no class"):
        load_vector(path, "abc", (5, 4), names[:2])
    with pytest.raises(UserError, match="is no file"):
        load_vector(tmp_path / "w", "abc", (5, 4), names)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(CorruptError):
        load_vector(path, "abc", (5, 4), names)


def test_poisson_blending() -> None:
    generator = torch.Generator().manual_seed(0)
    photo, edited = torch.rand(2, 3, 8, 8, generator=generator)
    region = torch.zeros(8, 8, dtype=torch.bool)
    assert torch.equal(poisson_blend(photo, edited, region), photo)
    region[2:6, 3:7] = True
    torch.testing.assert_close(poisson_blend(photo, photo, region), photo, rtol=0, atol=1e-6)
    whole = torch.ones_like(region)
    torch.testing.assert_close(poisson_blend(photo, photo, whole), photo, rtol=0, atol=1e-4)
    # another brightness is no gradient, so that it does not come over
    torch.testing.assert_close(poisson_blend(photo, photo + 0.3, region), photo, rtol=0, atol=1e-6)
    found = poisson_blend(photo, edited, region)
    assert torch.equal(found[:, ~region], photo[:, ~region])
    # within the region its Laplacian is the edited picture's
    centre = found[:, 4, 5] * 4 - found[:, 3, 5] - found[:, 5, 5] - found[:, 4, 4] - found[:, 4, 6]
    wanted = edited[:, 4, 5] * 4 - edited[:, 3, 5] - edited[:, 5, 5] - edited[:, 4, 4] - edited[:, 4, 6]
    torch.testing.assert_close(centre, wanted)


def test_a_pictures_codes_do_not_depend_on_the_batch() -> None:
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(channels=4, most=8), (1, 16, 16), 7, 5)
    x = torch.randn(4, 1, 16, 16)
    found = encoder(x)
    assert found.shape == (4, 7, 5)
    torch.testing.assert_close(encoder(x[2:3]), found[2:3])


def test_label_maps_on_disk(tmp_path: Path) -> None:
    labels = torch.randint(0, 3, (6, 6), generator=torch.Generator().manual_seed(0))
    write_label_map(tmp_path / "3.png", labels, 3)
    assert torch.equal(read_label_map(tmp_path / "3.png", 3), labels)
    assert len({tuple(palette(40)[3 * k : 3 * k + 3]) for k in range(40)}) == 40
    twice = labels.repeat_interleave(2, 0).repeat_interleave(2, 1)
    assert torch.equal(fit_map(twice, (6, 6), "m"), labels)
    said: list[str] = []
    indices, found = read_masks(tmp_path, 3, 6, said.append)
    assert indices == [3]
    assert torch.equal(found[0], labels)
    assert "1 labelled samples" in said[0]
    with pytest.raises(UserError, match=r"value 2 \(\d+ pixels\) is no class: there are 0 to 1"):
        read_label_map(tmp_path / "3.png", 2)
    with pytest.raises(UserError, match="another aspect"):
        fit_map(labels[:4], (6, 6), "m.png")
    Image.fromarray(np.zeros((6, 6, 3), np.uint8)).save(tmp_path / "colour.png")
    with pytest.raises(UserError, match="colour picture"):
        read_label_map(tmp_path / "colour.png", 3)
    with pytest.raises(UserError, match="number of a sample"):
        read_masks(tmp_path, 3, 6, said.append)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(CorruptError, match="not a picture"):
        read_label_map(tmp_path / "broken.png", 3)
    with pytest.raises(UserError, match="is no folder"):
        read_masks(tmp_path / "nowhere", 3, 6, said.append)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no masks"):
        read_masks(tmp_path / "empty", 3, 6, said.append)
