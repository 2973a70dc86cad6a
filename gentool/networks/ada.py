"""Adaptive discriminator augmentation: random changes, each of probability p, of what a discriminator sees.

Blitting, geometry and colour ("bgc") of Karras et al. 2020 (StyleGAN2-ADA, 2006.06676), appendix B. Everything is
differentiable twice in the pictures. Beyond the edges pictures are mirrored, the edge pixel twice.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gentool.networks.augment import affine, rotation, scaling, translation, warp
from gentool.networks.embedding import full_precision
from gentool.networks.stylegan2_config import Pipe

UNIFORMS, NORMALS = 21, 7
"""Columns of random numbers that a picture takes."""


class Draws:
    """Hands out a batch's random numbers in float64, a column (B,) at a time.

    Args:
        p: the probability of each operation.
        uniform, normal: (B, UNIFORMS) in [0, 1) and (B, NORMALS) standard normal.
    """

    def __init__(self, p: Tensor | float, uniform: Tensor, normal: Tensor) -> None:
        self.p = p
        self._uniforms, self._normals = (iter(draws.double().unbind(1)) for draws in (uniform, normal))

    def uniform(self) -> Tensor:
        return next(self._uniforms)

    def normal(self) -> Tensor:
        return next(self._normals)

    def angle(self) -> Tensor:
        """Uniform in [-pi, pi)."""
        return (2 * self.uniform() - 1) * math.pi

    def happens(self, p: Tensor | float | None = None) -> Tensor:
        """1 with probability p, else 0."""
        return (self.uniform() < (self.p if p is None else p)).double()


def augment(x: Tensor, draws: Draws, pipe: Pipe) -> Tensor:
    """Pictures, each changed at random; those that nothing happens to come back bit for bit.

    Args:
        x: (B, 1 or 3, H, W).
        pipe: blitting (b), general geometry (g), colour (c).
    """
    with full_precision(x.device):
        inverse = inverse_geometry(draws, x.shape[2:], general="g" in pipe)
        moved = (inverse != torch.eye(3).to(inverse)).flatten(1).any(1).nonzero()[:, 0]
        if len(moved):
            x = x.index_copy(0, moved, warp(x[moved], inverse[moved]))
        if "c" not in pipe:
            return x
        colour = colours(draws, x.shape[1]).to(x)
        return (colour[:, :-1, :-1] @ x.flatten(2) + colour[:, :-1, -1:]).view_as(x)


def inverse_geometry(draws: Draws, size: tuple[int, ...], *, general: bool) -> Tensor:
    """(B, 3, 3) float64, output to input coordinates (x, y, 1) in pixels from the centre of (H, W) pictures.

    A rotation comes before the stretch and one after it, each with probability 1 - sqrt(1 - p): any with p.
    """
    height, width = size
    flip = (draws.uniform() < 0.5) * draws.happens()
    inverse = scaling(1 - 2 * flip, torch.ones_like(flip))
    inverse = inverse @ right_angle((4 * draws.uniform()).floor() * draws.happens())
    x, y, on = 2 * draws.uniform() - 1, 2 * draws.uniform() - 1, draws.happens()
    inverse = inverse @ translation(-(0.125 * width * x * on).round(), -(0.125 * height * y * on).round())
    if not general:
        return inverse
    grow = 2 ** (0.2 * draws.normal() * draws.happens())
    inverse = inverse @ scaling(1 / grow, 1 / grow)
    either = 1 - (1 - draws.p) ** 0.5
    inverse = inverse @ rotation(draws.angle() * draws.happens(either))
    wide = 2 ** (0.2 * draws.normal() * draws.happens())
    inverse = inverse @ scaling(1 / wide, wide) @ rotation(draws.angle() * draws.happens(either))
    x, y, on = draws.normal(), draws.normal(), draws.happens()
    return inverse @ translation(-0.125 * width * x * on, -0.125 * height * y * on)


def right_angle(quarters: Tensor) -> Tensor:
    """(B, 3, 3) rotations by whole quarters of a turn, exact."""
    cos, sin = (torch.tensor(v).to(quarters)[quarters.long()] for v in ((1.0, 0, -1, 0), (0.0, 1, 0, -1)))
    return affine(cos, -sin, 0.0, sin, cos, 0.0)


def colours(draws: Draws, channels: int) -> Tensor:
    """(B, C + 1, C + 1) float64 affine maps of colours: brightness, contrast, luma flip, hue, saturation.

    Gray pictures have no hue and no saturation, and a luma flip negates them.
    """

    def each(value: Tensor) -> Tensor:
        return value[:, None, None]

    bright = each(0.2 * draws.normal() * draws.happens())
    contrast = each(2 ** (0.5 * draws.normal() * draws.happens()))
    flip = each((draws.uniform() < 0.5) * draws.happens())
    eye = torch.eye(channels + 1).to(bright)
    colour, offset, gray = torch.zeros_like(eye), torch.zeros_like(eye), torch.zeros_like(eye)
    colour[:-1, :-1] = eye[:-1, :-1]  # the identity on colours; `gray` projects on their common axis
    offset[:-1, -1] = 1
    gray[:-1, :-1] = 1 / channels
    out = (eye - 2 * flip * gray) @ (eye + (contrast - 1) * colour) @ (eye + bright * offset)
    if channels == 1:
        return out
    angle = each(draws.angle() * draws.happens())
    vivid = each(2 ** (draws.normal() * draws.happens()))
    cross = torch.zeros_like(eye)
    cross[:-1, :-1] = torch.linalg.cross(eye[:-1, :-1], torch.full((3, 3), math.sqrt(1 / 3)).to(eye))
    turn = eye + angle.sin() * cross + (1 - angle.cos()) * (gray - colour)  # Rodrigues' formula
    return (eye + (vivid - 1) * (colour - gray)) @ turn @ out


def adapted(p: Tensor, sign: Tensor, target: float, step: float, most: float) -> Tensor:
    """p a `step` up where the mean sign of the logits of real pictures exceeds the target, else down; in [0, most]."""
    return (p + step * (sign - target).sign()).clamp(0, most)
