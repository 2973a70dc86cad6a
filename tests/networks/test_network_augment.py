"""EDM's augmentation: exact where nothing happens, right in its geometry, honest in its labels."""

import math

import pytest
import torch

from gentool.networks.augment import LABELS, SYM6, augment, draw, warp


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def smooth(height=32, width=32):
    """A band-limited image (1, 1, H, W) of float64 without symmetry."""
    y = torch.linspace(-1, 1, height, dtype=torch.float64)[:, None]
    x = torch.linspace(-1, 1, width, dtype=torch.float64)
    return (torch.sin(3 * x + 1) * torch.cos(2 * y) + x * y**2)[None, None]


def affine(*rows):
    return torch.tensor([*rows, [0, 0, 1]], dtype=torch.float64)[None]


def test_the_filter_is_the_orthonormal_symlet_with_six_vanishing_moments():
    taps = torch.tensor(SYM6, dtype=torch.float64)
    assert taps.sum().item() == pytest.approx(math.sqrt(2), abs=1e-12)
    for shift in range(1, 6):
        assert (taps[2 * shift :] * taps[: -2 * shift]).sum().item() == pytest.approx(0, abs=1e-11)
    alternating = taps * torch.tensor([1.0, -1.0] * 6)
    for power in range(6):
        assert (alternating * torch.linspace(-1, 1, 12, dtype=torch.float64) ** power).sum().abs() < 1e-10


def test_the_identity_returns_any_image():
    x = torch.randn(2, 3, 9, 12, dtype=torch.float64)
    torch.testing.assert_close(
        warp(x, torch.eye(3, dtype=torch.float64).expand(2, 3, 3)), x, rtol=0, atol=1e-10
    )


@pytest.mark.parametrize("shift", [3, 20, -7])
def test_a_whole_shift_moves_pixels_and_mirrors_the_rest(shift):
    image = smooth()
    out = warp(image, affine([1, 0, -shift], [0, 1, 0]))
    rolled = torch.cat([image.flip(3), image, image.flip(3)], dim=3)[..., 32 - shift : 64 - shift]
    torch.testing.assert_close(out, rolled, rtol=0, atol=2e-3)


def test_a_quarter_turn_is_rot90_and_four_are_the_identity():
    image = smooth()
    quarter = affine([0, -1, 0], [1, 0, 0])
    out = warp(image, quarter)
    torch.testing.assert_close(
        out[..., 3:-3, 3:-3], torch.rot90(image, 1, (2, 3))[..., 3:-3, 3:-3], rtol=0, atol=0.01
    )
    for _ in range(3):
        out = warp(out, quarter)
    torch.testing.assert_close(out[..., 6:-6, 6:-6], image[..., 6:-6, 6:-6], rtol=0, atol=0.01)


def test_scaling_by_two_samples_a_plane_at_half_the_coordinates():
    x = torch.arange(32, dtype=torch.float64).expand(32, 32)[None, None] - 15.5
    out = warp(x, affine([0.5, 0, 0], [0, 0.5, 0]))
    torch.testing.assert_close(out[..., 4:-4, 4:-4], x[..., 4:-4, 4:-4] / 2, rtol=0, atol=1e-3)


def test_images_left_alone_are_bit_exact_and_labelled_zero():
    x = torch.randn(400, 1, 8, 8)
    out, labels = augment(x, generator(), p=0.12)
    assert labels.shape == (400, LABELS)
    alone = ~labels.any(dim=1)
    flipped = (labels[:, 0] == 1) & ~labels[:, 1:].any(dim=1)
    assert min(alone.sum(), flipped.sum()) > 40
    assert torch.equal(out[alone], x[alone])
    assert torch.equal(out[flipped], x[flipped].flip(3))
    moved = labels[:, 2:].any(dim=1)
    assert all((out[moved] - x[moved]).abs().flatten(1).max(dim=1).values > 0)


def test_labels_say_what_was_done():
    """The map rebuilt from the labels, as EDM lists them, is the map that was drawn."""
    drawn = draw(64, (8, 12), generator(1), p=0.9)
    for inverse, label in zip(drawn.inverse, drawn.labels):
        _, _, scale, cos1, sin, a, b, shift_x, shift_y = label.tolist()
        grow, turn = (
            2 ** (0.2 * scale),
            torch.tensor([[1 + cos1, -sin], [sin, 1 + cos1]], dtype=torch.float64),
        )
        stretch = math.hypot(a, b)
        along = (
            torch.tensor([a, -b], dtype=torch.float64) / stretch
            if stretch
            else torch.tensor([1.0, 0.0]).double()
        )
        across = torch.stack([-along[1], along[0]])
        # EDM's label is the same for (w, r) and (-w, r + pi), which stretch and squeeze: one of them it is.
        candidates = []
        for w in (stretch, -stretch):
            squeeze = 2 ** (-0.2 * w) * torch.outer(along, along) + 2 ** (0.2 * w) * torch.outer(
                across, across
            )
            candidates.append(turn @ squeeze / grow)
        linear = inverse[:2, :2]
        assert min((linear - c).abs().max().item() for c in candidates) < 1e-9
        offset = torch.tensor([shift_x * 0.125 * 12, shift_y * 0.125 * 8], dtype=torch.float64)
        torch.testing.assert_close(inverse[:2, 2], -linear @ offset)


def test_operations_happen_with_their_probabilities():
    labels = draw(20_000, (8, 8), generator(2), p=0.2).labels
    rate = (labels != 0).double().mean(dim=0)
    #        x-flip, y-flip, scale, rotation, rotation, stretch, its second part, x, y
    expected = torch.tensor([0.5, 0.1, 0.2, 0.2, 0.2, 0.2, 0.1, 0.2, 0.2], dtype=torch.float64)
    torch.testing.assert_close(rate, expected, rtol=0, atol=0.015)
    assert torch.equal(labels[:, 7] != 0, labels[:, 8] != 0)
    assert labels[:, 2][labels[:, 2] != 0].std().item() == pytest.approx(1, abs=0.05)


def test_the_generator_alone_decides():
    x = torch.randn(8, 1, 8, 8)
    one, two = augment(x, generator(3), 0.9), augment(x, generator(3), 0.9)
    assert all(torch.equal(a, b) for a, b in zip(one, two))
    assert not torch.equal(one[0], augment(x, generator(4), 0.9)[0])


@pytest.mark.parametrize("p", [0.0, -0.1, 1.5])
def test_probabilities_out_of_range_are_refused(p):
    with pytest.raises(ValueError, match="probability"):
        augment(torch.zeros(1, 1, 8, 8), generator(), p)
