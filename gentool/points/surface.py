"""The surface where a field on the periodic grid is 0, as triangles, and what moves it.

Marching cubes (Lorensen and Cline 1987, in Lewiner's form) is scikit-image's.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gentool.errors import UserError
from gentool.points.poisson import gather
from gentool.runs.mesh_files import Mesh

NEAREST = 1e-6
"""Nodes nearer to the level than this count as outside by as much, so that no triangle shrinks to a point."""


class NoSurfaceError(ValueError):
    """A field that is nowhere negative."""


def zero_surface(phi: Tensor) -> Mesh:
    """The surface that bounds phi < 0, closed and facing outwards, in units of the cube.

    A layer of nodes outside is put around the grid, so that the surface is closed even where it would meet the sides.

    Args:
        phi: (r, r, r).

    Raises:
        UserError: scikit-image is not installed. NoSurfaceError: phi is nowhere negative.
    """
    try:
        from skimage.measure import marching_cubes
    except ImportError:
        raise UserError("extracting meshes needs scikit-image: install gentool[mesh]") from None
    field = phi.detach().float().cpu().numpy()
    if not (field < -NEAREST).any():
        raise NoSurfaceError
    field = np.where(np.abs(field) < NEAREST, NEAREST, field)
    vertices, faces, _, _ = marching_cubes(np.pad(field, 1, constant_values=0.5), 0.0)
    return Mesh(((vertices - 1) / len(field)).astype(np.float32), faces.astype(np.int64))


def attached(mesh: Mesh, phi: Tensor) -> Tensor:
    """The mesh's vertices (V, 3) as a differentiable function of the field (r, r, r) that it was extracted from.

    Where phi grows by d at a point of its zero level, the level moves by -d grad phi / |grad phi|^2 (implicit
    differentiation; Peng et al. 2021, section 3.1, leave |grad phi| out).
    """
    resolution, grid = len(phi), phi[None, None]
    at = torch.from_numpy(mesh.vertices).to(phi)[None]
    with torch.no_grad():
        steps = torch.eye(3, dtype=phi.dtype, device=phi.device) / (2 * resolution)
        slope = (
            torch.cat([gather(grid, at + step) - gather(grid, at - step) for step in steps], 2) * resolution
        )
    value = gather(grid, at)
    move = slope / slope.square().sum(2, keepdim=True).clamp_min(1e-6)
    return (at - (value - value.detach()) * move)[0]


def on_surface(vertices: Tensor, faces: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """(count, 3) points uniform by area on triangles (F, 3) of vertices (V, 3), differentiable in the vertices."""
    a, b, c = vertices[faces].unbind(1)
    areas = torch.linalg.cross(b - a, c - a).norm(dim=1).detach()
    chosen = torch.multinomial(areas.cpu(), count, replacement=True, generator=generator).to(faces.device)
    u = torch.rand(count, 2, generator=generator, dtype=vertices.dtype).to(vertices.device)
    # The square root makes barycentric coordinates uniform over the triangle.
    root, share = u[:, :1].sqrt(), u[:, 1:]
    return (1 - root) * a[chosen] + root * (1 - share) * b[chosen] + root * share * c[chosen]
