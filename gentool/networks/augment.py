"""EDM's non-leaky augmentation: random geometry whose parameters the network is told.

Source: Karras et al. 2022, appendix F.2; Karras et al. 2020 (stylegan2-ada), appendix B.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

LABELS = 9
"""Width of the augmentation label: x-flip, y-flip, scale, rotation (2), anisotropy (2), translation (2)."""

# Low-pass filter of the symlet with 6 vanishing moments (Daubechies 1992, table 6.3), orthonormal to its even
# shifts.
SYM6 = (
    0.015404109327027373,
    0.0034907120842174702,
    -0.11799011114819057,
    -0.048311742585633,
    0.4910559419267466,
    0.787641141030194,
    0.3379294217276218,
    -0.07263752278646252,
    -0.021060292512300564,
    0.04472490177066578,
    0.0017677118642428036,
    -0.007800708325034148,
)
_TAPS = len(SYM6)
_CENTRE = sum(i * h for i, h in enumerate(SYM6)) / sum(SYM6)


def augment(x: Tensor, generator: torch.Generator, p: float = 0.12) -> tuple[Tensor, Tensor]:
    """Random flips, scaling, rotation, stretching and translation of images, with labels of what was done.

    Args:
        x: (B, C, H, W) float images.
        generator: where all draws come from, on the CPU.
        p: probability of each operation, in (0, 1]; the x-flip has probability 1/2 always.

    Returns:
        Images like x, and labels (B, 9): all zero for an image left alone, which comes back bit for bit.

    Raises:
        ValueError: p outside (0, 1].
    """
    if not 0 < p <= 1:
        raise ValueError(f"augmentation probability must be in (0, 1], not {p}")
    drawn = draw(x.shape[0], x.shape[2:], generator, p)
    for flip, axis in ((drawn.flip_x, 3), (drawn.flip_y, 2)):
        x = torch.where(flip.to(x.device)[:, None, None, None], x.flip(axis), x)
    moved = drawn.labels[:, 2:].any(dim=1).nonzero()[:, 0]
    if len(moved):
        rows = moved.to(x.device)
        x = x.index_copy(0, rows, warp(x[rows], drawn.inverse[moved].to(x.device)))
    return x, drawn.labels.to(x.device, x.dtype)


class Draw(NamedTuple):
    """Parameters of B augmentations.

    Attributes:
        flip_x, flip_y: (B,) bool, applied first.
        inverse: (B, 3, 3) float64, output to input coordinates (x, y, 1) in pixels from the image's centre.
        labels: (B, 9) float64.
    """

    flip_x: Tensor
    flip_y: Tensor
    inverse: Tensor
    labels: Tensor


def draw(count: int, size: tuple[int, ...], generator: torch.Generator, p: float) -> Draw:
    """Parameters of `count` augmentations of (H, W) images; `p` as in `augment`."""

    def uniform() -> Tensor:
        return torch.rand(count, generator=generator, dtype=torch.float64)

    def normal() -> Tensor:
        return torch.randn(count, generator=generator, dtype=torch.float64)

    def sometimes(value: Tensor, chance: float = p) -> Tensor:
        return value * (uniform() < chance)

    height, width = size
    flip_x = uniform() < 0.5
    flip_y = sometimes((uniform() < 0.5).double()).bool()
    scale = sometimes(normal())
    turn = sometimes((2 * uniform() - 1) * math.pi)
    stretch = sometimes(normal())
    frame = sometimes((2 * uniform() - 1) * math.pi, 0.5)
    on = uniform() < p  # one decision for both axes
    shift_x, shift_y = normal() * on, normal() * on

    grow, thin = 2 ** (0.2 * scale), 2 ** (0.2 * stretch)
    inverse = scaling(1 / grow, 1 / grow) @ rotation(turn)
    inverse = inverse @ rotation(-frame) @ scaling(1 / thin, thin) @ rotation(frame)
    inverse = inverse @ translation(-shift_x * 0.125 * width, -shift_y * 0.125 * height)
    # EDM's label of a stretch cannot tell (w, r) from (-w, r + pi): harmless, as only no stretch has label 0.
    labels = [flip_x.double(), flip_y.double(), scale, turn.cos() - 1, turn.sin()]
    labels += [stretch * frame.cos(), stretch * frame.sin(), shift_x, shift_y]
    return Draw(flip_x, flip_y, inverse, torch.stack(labels, dim=1))


def affine(*entries: Tensor | float) -> Tensor:
    """(B, 3, 3) from six entries, the first two rows."""
    like = next(entry for entry in entries if isinstance(entry, Tensor))
    columns = [
        entry if isinstance(entry, Tensor) else like.new_full(like.shape, entry)
        for entry in (*entries, 0, 0, 1)
    ]
    return torch.stack(columns, dim=1).unflatten(1, (3, 3))


def scaling(x: Tensor, y: Tensor) -> Tensor:
    return affine(x, 0.0, 0.0, 0.0, y, 0.0)


def rotation(angle: Tensor) -> Tensor:
    return affine(angle.cos(), -angle.sin(), 0.0, angle.sin(), angle.cos(), 0.0)


def translation(x: Tensor, y: Tensor) -> Tensor:
    return affine(1.0, 0.0, x, 0.0, 1.0, y)


def warp(x: Tensor, inverse: Tensor) -> Tensor:
    """Affine map of images that keeps frequencies in band and mirrors the image beyond its edges.

    Each pixel is spread over a grid of twice the density by the sym6 low-pass, the grid is sampled linearly,
    and the same low-pass brings it back; the filter is orthonormal to its even shifts, so that the identity
    returns x.

    Args:
        x: (B, C, H, W).
        inverse: (B, 3, 3), output to input coordinates in pixels from the image's centre.
    """
    height, width = x.shape[2:]
    margin = _TAPS // 2 + 1
    taps = torch.tensor(SYM6, dtype=x.dtype, device=x.device)
    channels = x.shape[1]
    column, row = (taps.view(shape).expand(channels, *shape) for shape in ((1, _TAPS, 1), (1, 1, _TAPS)))

    padded = x[:, :, _mirror(height, margin, x.device)][:, :, :, _mirror(width, margin, x.device)]
    fine = F.conv_transpose2d(padded, column, stride=(2, 1), groups=channels)
    fine = F.conv_transpose2d(fine, row, stride=(1, 2), groups=channels)

    # Sample n of the fine grid of pixels 0, 1, ... lies at pixel (n - _CENTRE) / 2.
    points_y, points_x = (
        (torch.arange(2 * side + _TAPS - 2, dtype=torch.float64, device=x.device) - _CENTRE) / 2
        - (side - 1) / 2
        for side in (height, width)
    )
    grid_y, grid_x = torch.meshgrid(points_y, points_x, indexing="ij")
    places = torch.stack([grid_x, grid_y, torch.ones_like(grid_x)], dim=-1)
    source = torch.einsum("bij,hwj->bhwi", inverse[:, :2], places)
    grids = [
        _fine_index(source[..., axis], side, margin, fine.shape[3 - axis])
        for axis, side in enumerate((width, height))
    ]
    fine = _Sampled.apply(fine, torch.stack(grids, dim=-1).to(x.dtype))
    return F.conv2d(
        F.conv2d(fine, column, stride=(2, 1), groups=channels), row, stride=(1, 2), groups=channels
    )


class _Sampled(torch.autograd.Function):
    """Bilinear samples (B, C, h, w) of pictures (B, C, H, W) at places (B, h, w, 2), which have no gradient.

    Linear in the pictures, so that its derivative is its transpose, whatever the order: PyTorch before 2.13 stops at
    the first, and the discriminator's penalty needs the second.
    """

    @staticmethod
    def forward(ctx: Any, pictures: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        ctx.size = pictures.shape[2:]
        return F.grid_sample(pictures, places, padding_mode="border", align_corners=False)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _Spread.apply(gradient, *ctx.saved_tensors, ctx.size), None


class _Spread(torch.autograd.Function):
    """The transpose of `_Sampled`: values (B, C, h, w) at places (B, h, w, 2) to pictures (B, C, *size)."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, places: Tensor, size: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(places)
        with torch.enable_grad():
            pictures = values.new_zeros(*values.shape[:2], *size).requires_grad_()
            sampled = F.grid_sample(pictures, places, padding_mode="border", align_corners=False)
        return torch.autograd.grad(sampled, pictures, values)[0]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _Sampled.apply(gradient, *ctx.saved_tensors), None, None


def _mirror(side: int, margin: int, device: torch.device) -> Tensor:
    """Indices of pixels -margin ... side+margin-1, mirrored at the image's edges as often as it takes."""
    place = torch.arange(-margin, side + margin, device=device) % (2 * side)
    return torch.minimum(place, 2 * side - 1 - place)


def _fine_index(u: Tensor, side: int, margin: int, length: int) -> Tensor:
    """Places u in pixels from the centre to grid_sample's [-1, 1] on the fine grid.

    The fine grid starts at pixel -margin. Places that the margin does not cover are mirrored into the image;
    those it covers are not, which keeps the identity exact (the filter is not quite symmetric).
    """
    covered = side / 2 + margin - _TAPS / 4
    period = torch.remainder(u + side / 2, 2 * side)
    mirrored = side / 2 - (period - side).abs()
    u = torch.where(u.abs() <= covered, u, mirrored)
    n = 2 * (u + (side - 1) / 2 + margin) + _CENTRE
    return (2 * n + 1) / length - 1
