"""Adaptive discriminator augmentation: exact where nothing happens, as often as it says, right in what it does."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from gentool.networks import ada

MANY = 20_000
COINS = [1, 3, 6]  # columns of `happens` of flip, right angle and whole pixels


def draws(count: int, p: float, seed: int = 0) -> ada.Draws:
    rng = torch.Generator().manual_seed(seed)
    uniform = torch.rand(count, ada.UNIFORMS, generator=rng)
    return ada.Draws(p, uniform, torch.randn(count, ada.NORMALS, generator=rng))


def pictures(count: int = 4, channels: int = 3, size: int = 8) -> Tensor:
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("channels", [1, 3])
def test_nothing_happens_at_p_0(channels: int) -> None:
    x = pictures(channels=channels)
    assert torch.equal(ada.augment(x, draws(4, 0.0), "bgc"), x)


def test_every_column_is_used_and_no_more() -> None:
    given = draws(2, 1.0)
    ada.augment(pictures(2), given, "bgc")
    for draw in (given.uniform, given.normal):
        with pytest.raises(StopIteration):
            draw()


def close(share: float, expected: float) -> bool:
    """Within five standard errors of MANY draws."""
    return abs(share - expected) < 5 * math.sqrt(expected * (1 - expected) / MANY)


@pytest.mark.parametrize("p", [0.2, 0.8])
def test_blitting_happens_as_often_as_it_says(p: float) -> None:
    """A flip that flips has p/2, a right angle that turns 3p/4, and of 8 pixels a shift by one p/2 on each axis."""
    inverse = ada.inverse_geometry(draws(MANY, p), (8, 8), general=False)
    linear, shift = inverse[:, :2, :2], inverse[:, :2, 2]
    assert torch.equal(linear, linear.round())
    assert torch.equal(linear @ linear.mT, torch.eye(2).double().expand(MANY, 2, 2))
    assert close((torch.linalg.det(linear) < 0).double().mean(), p / 2)
    assert set(shift.unique().tolist()) == {-1, 0, 1}
    assert close((shift[:, 0] != 0).double().mean(), p / 2)
    still = (inverse == torch.eye(3)).flatten(1).all(1).double().mean()
    assert close(still, (1 - p / 2) * (1 - 0.75 * p) * (1 - 0.75 * p))


def test_either_rotation_happens_with_probability_p() -> None:
    """Without the blitting: its coins are set to tails."""
    p, rng = 0.3, torch.Generator().manual_seed(0)
    uniform, normal = torch.rand(MANY, ada.UNIFORMS, generator=rng), torch.zeros(MANY, ada.NORMALS)
    uniform[:, COINS] = 1
    inverse = ada.inverse_geometry(ada.Draws(p, uniform, normal), (8, 8), general=True)
    turned = (inverse[:, :2, :2] - torch.eye(2)).abs().amax((1, 2)) > 1e-9
    assert close(turned.double().mean(), p)
    torch.testing.assert_close(torch.linalg.det(inverse), torch.ones(MANY).double())


def test_the_laws_of_scale_stretch_and_drift() -> None:
    """At p = 1 the area is 2^(2 0.2 n); without a turn, the stretch and the drift have their standard deviations."""
    rng = torch.Generator().manual_seed(0)
    uniform, normal = torch.zeros(MANY, ada.UNIFORMS), torch.randn(MANY, ada.NORMALS, generator=rng)
    uniform[:, [*COINS, 8, 11]] = 1  # tails for the blitting and both rotations
    inverse = ada.inverse_geometry(ada.Draws(1.0, uniform, normal), (8, 16), general=True)
    error = 5 / math.sqrt(2 * MANY)
    area = torch.linalg.det(inverse).log2()
    assert area.std().item() == pytest.approx(0.4, rel=error)
    stretch = (inverse[:, 1, 1] / inverse[:, 0, 0]).log2()
    assert stretch.std().item() == pytest.approx(0.4, rel=error)
    moved = -torch.linalg.solve(inverse[:, :2, :2], inverse[:, :2, 2:])[..., 0]
    assert moved[:, 0].std().item() == pytest.approx(2, rel=error)
    assert moved[:, 1].std().item() == pytest.approx(1, rel=error)


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_right_angles_turn_pictures(quarters: int) -> None:
    side = torch.linspace(-1, 1, 16, dtype=torch.float64)
    x = (torch.sin(2 * side[:, None] + 1) * torch.cos(side) + side[:, None] ** 2)[None, None]
    turned = ada.warp(x, ada.right_angle(torch.tensor([quarters])).double())
    expected = torch.rot90(x, quarters, (2, 3))
    torch.testing.assert_close(turned[..., 3:-3, 3:-3], expected[..., 3:-3, 3:-3], rtol=0, atol=0.02)


def colour(channels: int, heads: list[int], uniform: dict[int, float], normal: dict[int, float]) -> Tensor:
    """The map at p = 1/2 where the coins of `heads` alone fall so, with these other draws.

    Uniform columns: brightness 0, contrast 1, flip's own 2 and coin 3, hue's own 4 and coin 5, saturation 6.
    """
    u, n = torch.ones(1, ada.UNIFORMS), torch.zeros(1, ada.NORMALS)
    u[0, heads] = 0
    for column, value in uniform.items():
        u[0, column] = value
    for column, value in normal.items():
        n[0, column] = value
    return ada.colours(ada.Draws(0.5, u, n), channels)[0]


@pytest.mark.parametrize("channels", [1, 3])
def test_brightness_then_contrast(channels: int) -> None:
    found = colour(channels, [0, 1], {}, {0: 2.0, 1: 2.0})  # 2^(0.5 2) (x + 0.2 2)
    x = torch.rand(channels, dtype=torch.float64)
    torch.testing.assert_close((found @ torch.cat([x, torch.ones(1)]))[:-1], 2 * (x + 0.4))


def test_a_luma_flip_negates_gray_and_keeps_what_is_not() -> None:
    gray, three = (colour(channels, [3], {2: 0.0}, {}) for channels in (1, 3))
    assert gray[0, 0] == -1
    ones, other = torch.ones(3).double(), torch.tensor([1.0, -1.0, 0.0]).double()
    torch.testing.assert_close(three[:3, :3] @ ones, -ones)
    torch.testing.assert_close(three[:3, :3] @ other, other)


def test_hue_turns_about_gray_by_its_angle() -> None:
    """A third of a turn permutes red, green and blue."""
    third = colour(3, [5], {4: (1 + 2 / 3) / 2}, {})[:3, :3]  # an angle of 2 pi/3
    torch.testing.assert_close(third @ torch.eye(3).double(), torch.eye(3).double().roll(1, 0))


def test_saturation_scales_what_is_not_gray() -> None:
    found = colour(3, [6], {}, {2: 1.0})[:3, :3]
    ones, other = torch.ones(3).double(), torch.tensor([1.0, -1.0, 0.0]).double()
    torch.testing.assert_close(found @ ones, ones)
    torch.testing.assert_close(found @ other, 2 * other)


@pytest.mark.parametrize("pipe", ["b", "bg", "bgc"])
def test_second_derivatives_pass_through(pipe: ada.Pipe) -> None:
    x = pictures(2, 3, 5).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: ada.augment(x, draws(2, 0.9), pipe), x)
    assert torch.autograd.gradgradcheck(lambda x: ada.augment(x, draws(2, 0.9), pipe).square(), x)


def test_p_goes_by_whole_steps_and_stays_within_its_bounds() -> None:
    step, p, seen = 4 * 64 / 500_000, torch.tensor(0.0), []
    for sign in (1.0, 1.0, 0.6, 0.2, 0.2, 0.2):
        p = ada.adapted(p, torch.tensor(sign), 0.6, step, 0.85)
        seen.append(p.item())
    assert seen == pytest.approx([step, 2 * step, 2 * step, step, 0, 0], abs=1e-9)
    assert ada.adapted(torch.tensor(0.85), torch.tensor(1.0), 0.6, step, 0.85) == 0.85
