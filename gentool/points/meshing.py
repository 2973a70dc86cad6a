"""From a cloud of points to a closed mesh without any training (Peng et al. 2021, Shape As Points, 2106.03452).

Normals are estimated, and points and normals then moved so that the surface they imply comes nearer to the cloud.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gentool.points.distances import chamfer
from gentool.points.normals import LEAST, estimated_normals
from gentool.points.poisson import indicator
from gentool.points.surface import NoSurfaceError, attached, on_surface, zero_surface
from gentool.runs.mesh_files import Mesh

MARGIN = 1.2
"""The unit cube's side, in the longest sides of the cloud's box."""
RATE = 2.0e-3


class UnusableCloudError(ValueError):
    """A cloud that no surface can be put around; the message says why."""


@dataclass(frozen=True)
class MeshOptions:
    """How surfaces are made.

    Attributes:
        resolution: nodes of the grid along each side, even; None: as the cloud's points allow, see `nodes`.
        sigma: of the smoothing, as of `poisson.indicator`.
        steps: of Adam on points and normals; 0 takes them as they are.
        seed: fixes the points drawn on the surface in these steps.
    """

    resolution: int | None = None
    sigma: float = 2.0
    steps: int = 0
    seed: int = 0

    def nodes(self, points: int) -> int:
        """The resolution for a cloud of so many points. Where none was asked for, cells grow with the points' distance
        from each other: 128 for 2048 points, by the root of their number, and at least 32; finer grids show crumbs."""
        return self.resolution or min(128, max(32, 2 * round(64 * (points / 2048) ** 0.5)))


class Box(NamedTuple):
    """Where a cloud lies: the middle (3,) of its box, and the unit cube's side in the cloud's units."""

    middle: Tensor
    side: float

    @classmethod
    def of(cls, cloud: Tensor) -> Box:
        """Of a cloud (N, 3).

        Raises:
            UnusableCloudError: too few points, NaN or infinity, or no extent.
        """
        if len(cloud) < LEAST:
            raise UnusableCloudError(f"expected at least {LEAST} points, found {len(cloud)}")
        if not cloud.isfinite().all():
            raise UnusableCloudError("holds NaN or infinity")
        low, high = cloud.amin(0), cloud.amax(0)
        if not (side := float((high - low).max())) > 0:
            raise UnusableCloudError("all its points lie in one place")
        return cls((low + high) / 2, MARGIN * side)

    def into(self, cloud: Tensor) -> Tensor:
        """(..., 3) in the cloud's units to the unit cube's."""
        return (cloud - self.middle) / self.side + 0.5

    def back(self, mesh: Mesh) -> Mesh:
        """From the unit cube to the cloud's units."""
        moved = (torch.from_numpy(mesh.vertices).to(self.middle) - 0.5) * self.side + self.middle
        return mesh._replace(vertices=moved.cpu().numpy().astype(np.float32))


Orient = Callable[[Tensor], tuple[Tensor, Tensor]]
"""A cloud (N, 3) in the unit cube -> points and outward normals, (M, 3) each, whose surface it is."""


def by_planes(cloud: Tensor) -> tuple[Tensor, Tensor]:
    """The `Orient` without a network: the cloud's own points, with estimated normals.

    Raises:
        UnusableCloudError: all points lie in one plane.
    """
    try:
        normals = estimated_normals(cloud.cpu().numpy())
    except ValueError as error:
        raise UnusableCloudError(str(error)) from None
    return cloud, torch.from_numpy(normals).to(cloud)


def mesh_of(cloud: Tensor, options: MeshOptions, orient: Orient = by_planes) -> Mesh:
    """The closed surface of a cloud (N, 3), in its units.

    Raises:
        UserError: scikit-image is not installed. UnusableCloudError: no surface can be put around it.
    """
    box = Box.of(cloud)
    inside = box.into(cloud.float())
    points, normals = orient(inside)
    try:
        if options.steps:
            points, normals = optimised(points, normals, inside, options)
        phi = indicator(points[None], normals[None], options.nodes(len(cloud)), options.sigma)[0]
        return box.back(zero_surface(phi))
    except NoSurfaceError:
        raise UnusableCloudError("its points and normals enclose nothing") from None


def optimised(points: Tensor, normals: Tensor, cloud: Tensor, options: MeshOptions) -> tuple[Tensor, Tensor]:
    """Points and normals (M, 3) after steps down the Chamfer distance of their surface's points from the cloud (N, 3).

    Adam at 2e-3, falling to a tenth by a cosine; normals start at unit length.

    Raises:
        NoSurfaceError: they enclose nothing at some step.
    """
    generator = torch.Generator().manual_seed(options.seed)
    lengths = normals.norm(dim=1, keepdim=True).clamp_min(torch.finfo(normals.dtype).tiny)
    moved = [points.clone().requires_grad_(), (normals / lengths).requires_grad_()]
    adam = torch.optim.Adam(moved, RATE)
    slower = torch.optim.lr_scheduler.CosineAnnealingLR(adam, options.steps, RATE / 10)
    with torch.enable_grad():
        for _ in range(options.steps):
            phi = indicator(moved[0][None], moved[1][None], options.nodes(len(cloud)), options.sigma)[0]
            mesh = zero_surface(phi)
            faces = torch.from_numpy(mesh.faces).to(phi.device)
            drawn = on_surface(attached(mesh, phi), faces, len(cloud), generator)
            loss = chamfer(drawn[None], cloud[None])[0]
            adam.zero_grad()
            loss.backward()
            adam.step()
            slower.step()
    return moved[0].detach(), moved[1].detach()
