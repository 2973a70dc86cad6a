"""From points with normals to a solid, differentiably: Poisson's equation on a periodic grid (Peng et al. 2021,
Shape As Points, 2106.03452, section 3.1).

The unit cube is a torus of r^3 nodes: node i lies at i / r, and what leaves on one side comes in on the other. The
field chi whose gradient is nearest to the smeared normals v solves lap chi = div v, and in frequencies that
is a division."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor


def splat(points: Tensor, values: Tensor, resolution: int) -> Tensor:
    """Values of points added to the eight nodes around each, with trilinear weights.

    Args:
        points: (B, N, 3) in units of the cube; any real number, since the cube is periodic. Differentiable.
        values: (B, N, C). Differentiable.

    Returns:
        (B, C, r, r, r).
    """
    batch, _, channels = values.shape
    grid = values.new_zeros(batch, resolution**3, channels)
    for place, weight in _corners(points, resolution):
        index = place.unsqueeze(2).expand(-1, -1, channels)
        grid = grid.scatter_add(1, index, weight.unsqueeze(2) * values)
    return grid.mT.unflatten(2, (resolution, resolution, resolution))


def gather(grid: Tensor, points: Tensor) -> Tensor:
    """Trilinear interpolation of a periodic grid, the adjoint of `splat`: (B, C, r, r, r), (B, N, 3) -> (B, N, C)."""
    channels, flat = grid.shape[1], grid.flatten(2).mT
    out = grid.new_zeros(*points.shape[:2], channels)
    for place, weight in _corners(points, grid.shape[2]):
        index = place.unsqueeze(2).expand(-1, -1, channels)
        out = out + weight.unsqueeze(2) * flat.gather(1, index)
    return out


def _corners(points: Tensor, resolution: int) -> list[tuple[Tensor, Tensor]]:
    """For each of the eight nodes around points (B, N, 3): its place (B, N) in the flat grid and its weight (B, N)."""
    at = points * resolution
    low = at.detach().floor()
    share = at - low
    sides = [
        [((low[..., axis].long() + step) % resolution, share[..., axis] if step else 1 - share[..., axis])
         for step in (0, 1)]
        for axis in range(3)
    ]  # fmt: skip
    return [
        ((x * resolution + y) * resolution + z, a * b * c)
        for (x, a), (y, b), (z, c) in itertools.product(*sides)
    ]


def frequencies(resolution: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Whole frequencies along the three axes, as `rfftn` has them: (r, 1, 1), (1, r, 1), (1, 1, r // 2 + 1)."""
    full = torch.fft.fftfreq(resolution, 1 / resolution, dtype=like.dtype, device=like.device)
    half = torch.fft.rfftfreq(resolution, 1 / resolution, dtype=like.dtype, device=like.device)
    return full.view(-1, 1, 1), full.view(1, -1, 1), half.view(1, 1, -1)


def potential(field: Tensor, sigma: float) -> Tensor:
    """The chi of mean 0 with lap chi = div field, smoothed: (B, 3, r, r, r) -> (B, r, r, r).

    chi^ = -i k . v^ g / |k|^2 with k = 2 pi f for whole frequencies f, and a Gaussian g = exp(-2 (sigma |f| / r)^2).

    Args:
        sigma: of the smoothing, a Gaussian of sigma / pi cells; 0 is none.
    """
    resolution = field.shape[2]
    axes = frequencies(resolution, field)
    size = sum((f.square() for f in axes), torch.zeros((), dtype=field.dtype, device=field.device))
    # A real signal's highest frequency has no sign, and so no first derivative.
    slopes = [torch.where(2 * f.abs() == resolution, 0.0, f) for f in axes]
    waves = torch.fft.rfftn(field, dim=(2, 3, 4))
    divergence = sum(
        (slope * wave for slope, wave in zip(slopes, waves.unbind(1))), torch.zeros_like(waves[:, 0])
    )
    smooth = torch.exp(-2 * (sigma / resolution) ** 2 * size)
    kernel = smooth / (2 * math.pi * size.clamp_min(1))  # the frequency 0 has no divergence
    return torch.fft.irfftn(-1j * kernel * divergence, s=field.shape[2:], dim=(1, 2, 3))


def indicator(points: Tensor, normals: Tensor, resolution: int, sigma: float = 2.0) -> Tensor:
    """How far outside of the solid under oriented points each node is: about -0.5 inside, 0 on the surface, 0.5 off.

    The mean over the points is exactly 0 and the cube's corner, which must lie outside, exactly 0.5. So neither the
    number nor the density of the points nor the length of the normals matters, only that they are alike.

    Args:
        points: (B, N, 3) in the unit cube, clear of its sides. normals: (B, N, 3), outwards, of any length.
        sigma: of the smoothing; 2 is the paper's for reconstructions, 0 for their targets.

    Returns:
        (B, r, r, r), differentiable in points and normals.
    """
    chi = potential(splat(points, normals, resolution), sigma)
    level = gather(chi.unsqueeze(1), points).mean((1, 2))
    chi = chi - level.view(-1, 1, 1, 1)
    corner = chi[:, :1, :1, :1].abs().clamp_min(torch.finfo(chi.dtype).tiny)
    return chi / (2 * corner)
