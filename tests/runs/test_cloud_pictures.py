"""Pictures of clouds show what a viewer at the front right would see."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from gentool.runs.cloud_pictures import SIDE, render, tiles, viewed
from gentool.runs.samples import write_samples

CUBE = np.array(np.meshgrid(*[np.linspace(-1, 1, 6)] * 3)).reshape(3, -1).T


def ink(picture: np.ndarray) -> np.ndarray:
    return picture.min(-1) < 250


def test_the_view_is_a_rotation_that_keeps_up_up_and_sees_the_top_and_the_front() -> None:
    axes = viewed(np.eye(3))
    np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(axes) > 0
    (x, y, z) = axes
    assert x[0] > 0  # x goes to the right
    assert y[0] == 0  # y straight up
    assert y[1] > 0.9
    assert y[2] > 0  # and what is on top is nearer
    assert z[2] > 0  # z comes towards the eye


def test_a_cloud_fills_its_tile_wherever_it_lies_and_whatever_its_size() -> None:
    first = render(CUBE)
    assert first.shape == (SIDE, SIDE, 3)
    rows, columns = np.flatnonzero(ink(first).any(1)), np.flatnonzero(ink(first).any(0))
    assert max(np.ptp(rows), np.ptp(columns)) > 0.95 * SIDE
    np.testing.assert_array_equal(ink(render(100 * CUBE + 7)), ink(first))


def test_nearer_points_hide_farther_ones_in_any_order() -> None:
    """Two points in line with the eye, among others that fix the frame: the nearer one is seen."""
    eye = np.linalg.inv(viewed(np.eye(3)))[2]
    frame = 3 * CUBE[[0, -1]] + 5 * np.eye(3)[1]
    pair = np.stack([0.5 * eye, -0.5 * eye])
    both = [render(np.concatenate([frame, order])) for order in (pair, pair[::-1])]
    np.testing.assert_array_equal(both[0], both[1])
    moved = render(np.concatenate([frame, pair[:1], pair[:1]]))
    np.testing.assert_array_equal(ink(both[0]), ink(moved))


def test_each_label_has_its_colour_and_light_comes_from_above() -> None:
    blue, orange = tiles(np.stack([CUBE, CUBE]).astype(np.float32), np.array([0, 1]))
    assert blue[ink(blue)].mean(0).argmax() == 2
    assert orange[ink(orange)].mean(0).argmax() == 0
    ball = render(np.concatenate([np.zeros((1, 3)), CUBE[:1] * 4, CUBE[-1:] * 4]))
    middle = ball[SIDE // 2 - 5 : SIDE // 2 + 6, SIDE // 2 - 3 : SIDE // 2 + 4].sum(-1).astype(int)
    assert middle[2].mean() > middle[-3].mean()


def test_a_single_point_and_a_flat_cloud_can_be_drawn(tmp_path: Path) -> None:
    for cloud in (np.zeros((1, 3)), np.zeros((5, 3)), CUBE * [1, 1, 0]):
        assert ink(render(cloud)).any()
    path = write_samples(tmp_path / "a.png", np.stack([CUBE] * 4).astype(np.float32), np.arange(4))
    picture = np.asarray(Image.open(path))
    assert picture.shape[:2] >= (2 * SIDE, 2 * SIDE)
    assert "gentool" in Image.open(path).info
