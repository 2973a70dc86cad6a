"""Poisson's equation on the grid against closed forms, and the surfaces that come of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from gentool.points.meshing import Box, MeshOptions, UnusableCloudError, by_planes, mesh_of, optimised
from gentool.points.normals import estimated_normals, spread_directions
from gentool.points.poisson import gather, indicator, potential, splat
from gentool.points.surface import NoSurfaceError, attached, on_surface, zero_surface

RADIUS = 0.3


def sphere(count: int, radius: float = RADIUS) -> tuple[Tensor, Tensor]:
    """Points (count, 3) in float64 on a sphere in the cube's middle, and their outward normals."""
    normals = torch.from_numpy(spread_directions(count))
    return 0.5 + radius * normals, normals


def solid(resolution: int, radius: float = RADIUS) -> Tensor:
    points, normals = sphere(3000, radius)
    return indicator(points[None], normals[None], resolution)[0]


def test_splatting_and_interpolating_are_adjoint_and_periodic() -> None:
    draws = torch.Generator().manual_seed(0)
    points = 3 * torch.rand(2, 40, 3, generator=draws, dtype=torch.float64) - 1
    values = torch.randn(2, 40, 2, generator=draws, dtype=torch.float64)
    grid = torch.randn(2, 2, 6, 6, 6, generator=draws, dtype=torch.float64)
    torch.testing.assert_close((splat(points, values, 6) * grid).sum(), (values * gather(grid, points)).sum())
    torch.testing.assert_close(gather(grid, points + 1), gather(grid, points))
    torch.testing.assert_close(splat(points, values, 6).sum((2, 3, 4)), values.sum(1))


@pytest.mark.parametrize("sigma", [0.0, 2.0])
def test_the_potential_of_a_waves_gradient_is_the_wave_damped_by_the_smoothing(sigma: float) -> None:
    r, frequency = 16, torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    axes = torch.meshgrid(*[torch.arange(r, dtype=torch.float64) / r] * 3, indexing="ij")
    phase = 2 * math.pi * sum(f * axis for f, axis in zip(frequency, axes))
    field = (2 * math.pi * frequency).view(3, 1, 1, 1) * phase.cos()
    damped = math.exp(-2 * (sigma / r) ** 2 * float(frequency.square().sum()))
    torch.testing.assert_close(potential(field[None], sigma)[0], damped * phase.sin())


@pytest.mark.parametrize(("resolution", "middle"), [(64, -0.540), (128, -0.519)])
def test_the_indicator_of_a_sphere(resolution: int, middle: float) -> None:
    """0 on the points, 0.5 outside, about -0.5 inside, and 0 within a hundredth of a cell of the sphere on average."""
    phi = solid(resolution)
    points, _ = sphere(3000)
    assert float(phi[0, 0, 0]) == pytest.approx(0.5, abs=1e-9)
    assert float(phi[(resolution // 2,) * 3]) == pytest.approx(middle, abs=0.005)
    assert abs(float(gather(phi[None, None], points[None]).mean())) < 1e-9
    away = np.linalg.norm(zero_surface(phi).vertices - 0.5, axis=1) - RADIUS
    assert abs(away.mean()) < 0.05 / resolution
    assert np.abs(away).max() < 1 / resolution


def test_neither_the_length_of_the_normals_nor_a_repeated_cloud_matters() -> None:
    points, normals = (v[None] for v in sphere(300))
    once = indicator(points, normals, 16)
    torch.testing.assert_close(indicator(points, 7 * normals, 16), once)
    torch.testing.assert_close(indicator(points.repeat(1, 2, 1), normals.repeat(1, 2, 1), 16), once)


def test_the_indicators_gradient_is_its_derivative() -> None:
    points, normals = (v[None].clone().requires_grad_() for v in sphere(12))
    assert torch.autograd.gradcheck(lambda p, n: indicator(p, n, 6), (points, normals))


@pytest.mark.parametrize("sigma", [2.0, 4.0, 8.0])
def test_a_surface_moves_with_its_field_as_the_level_does(sigma: float) -> None:
    """The gradient of the mean radius in a constant added to the field, against a difference of two extractions.

    The difference is converged: steps of 0.005 and 0.001 agree. What is left is the slope's, taken over a cell: the
    field is steepest at the level, so the mean over a cell is less, in the second order of a cell over the width of
    the smoothing, and the gradient is too large by about 0.4 / sigma^2. A finer grid does not help, for sigma counts
    cells: 7.5 % at the default of 2, 2.7 % at 4, 0.5 % at 8.
    """
    points, normals = sphere(3000)
    field = indicator(points[None], normals[None], 32, sigma)[0]

    def measured(step: float) -> float:
        high, low = (
            np.linalg.norm(zero_surface(field + shift).vertices - 0.5, axis=1).mean()
            for shift in (step, -step)
        )
        return float(high - low) / (2 * step)

    phi = field.clone().requires_grad_()
    (attached(zero_surface(phi), phi) - 0.5).norm(dim=1).mean().backward()
    assert phi.grad is not None
    assert measured(0.005) == pytest.approx(measured(0.001), rel=1e-3)
    assert 0 < float(phi.grad.sum()) / measured(0.005) - 1 < 0.45 / sigma**2


def test_meshes_are_watertight_and_face_outwards() -> None:
    trimesh = pytest.importorskip("trimesh")
    mesh = zero_surface(solid(32))
    judged = trimesh.Trimesh(mesh.vertices, mesh.faces)
    assert judged.is_watertight
    assert judged.is_winding_consistent
    assert mesh.volume() == pytest.approx(judged.volume)
    assert mesh.volume() == pytest.approx(4 / 3 * math.pi * RADIUS**3, rel=0.03)


def test_a_solid_that_meets_the_cubes_side_and_a_field_of_noise_are_closed() -> None:
    trimesh = pytest.importorskip("trimesh")
    noise = torch.randn(16, 16, 16, generator=torch.Generator().manual_seed(0))
    noise[:4] = 0.0  # exactly on the level
    cut = torch.ones(16, 16, 16)
    cut[:, 4:9, 4:9] = -1
    for field in (noise, cut):
        mesh = zero_surface(field)
        assert trimesh.Trimesh(mesh.vertices, mesh.faces, process=False).is_watertight


def test_a_field_without_an_inside_has_no_surface() -> None:
    with pytest.raises(NoSurfaceError):
        zero_surface(torch.ones(8, 8, 8))


def test_estimated_normals_of_a_sphere_point_outwards() -> None:
    points, normals = (v.numpy() for v in sphere(500))
    assert ((estimated_normals(points) * normals).sum(1) > 0.99).all()


def test_both_sides_of_a_thin_sheet_face_away_from_each_other() -> None:
    """Where the sheet is thinner than its points are apart; their sides are known by construction."""
    random = np.random.default_rng(0)
    sheet = random.random((1000, 3)) * [1, 0.02, 1]
    sheet[:, 1] = 0.02 * (np.arange(1000) % 2)
    upwards = estimated_normals(sheet)[:, 1] * np.where(np.arange(1000) % 2, 1, -1)
    assert (upwards > 0).mean() > 0.9


def test_optimising_brings_the_surface_nearer_to_the_cloud() -> None:
    """From points off by noise, with the normals estimated there."""
    cloud = sphere(400)[0].float()
    points = cloud + 0.02 * torch.randn(400, 3, generator=torch.Generator().manual_seed(0))
    options = MeshOptions(resolution=32, steps=15)
    start = by_planes(points)

    def distance(points: Tensor, normals: Tensor) -> float:
        mesh = zero_surface(indicator(points[None], normals[None], 32)[0])
        drawn = on_surface(
            torch.from_numpy(mesh.vertices),
            torch.from_numpy(mesh.faces),
            2000,
            torch.Generator().manual_seed(1),
        )
        return float(((drawn - 0.5).norm(dim=1) - RADIUS).square().mean())

    assert distance(*optimised(*start, cloud, options)) < 0.7 * distance(*start)


def test_a_mesh_is_in_the_units_of_its_cloud() -> None:
    points, _ = sphere(800)
    shift = torch.tensor([5.0, -2.0, 1.0])
    mesh = mesh_of(10 * points.float() + shift, MeshOptions(resolution=32))
    away = np.linalg.norm(mesh.vertices - (shift + 5).numpy(), axis=1)
    assert np.abs(away - 10 * RADIUS).max() < 10 * 2 * RADIUS * 1.2 / 32


@pytest.mark.parametrize(
    ("cloud", "said"),
    [
        (torch.rand(8, 3), "at least 16 points, found 8"),
        (torch.ones(40, 3), "one place"),
        (torch.full((40, 3), math.nan), "NaN"),
        (torch.rand(40, 3) * torch.tensor([1.0, 0.0, 1.0]), "one plane"),
    ],
)
def test_clouds_without_a_surface_are_refused(cloud: Tensor, said: str) -> None:
    with pytest.raises(UnusableCloudError, match=said):
        mesh_of(cloud, MeshOptions(resolution=16))


def test_the_box_leaves_a_tenth_of_its_longest_side_free_all_around() -> None:
    inside = Box.of(cloud := torch.rand(50, 3) * torch.tensor([1.0, 8.0, 2.0])).into(cloud)
    assert float(inside[:, 1].min()) == pytest.approx(1 / 12, abs=1e-5)
    assert float(inside.max()) == pytest.approx(11 / 12, abs=1e-5)
