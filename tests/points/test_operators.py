"""Point operators against their definitions, spelt out in loops."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gentool.points.neighbours import ball_query, group, interpolate3
from gentool.points.sampling import farthest_point_sample
from gentool.points.voxels import devoxelise, voxel_coordinates, voxelise


def cloud(batch: int, size: int, seed: int = 0) -> Tensor:
    return torch.randn(batch, 3, size, generator=torch.Generator().manual_seed(seed))


def on_a_line(*places: float) -> Tensor:
    x = torch.zeros(1, 3, len(places))
    x[0, 0] = torch.tensor(places)
    return x


def test_farthest_points_of_a_line_take_the_first_of_equals() -> None:
    assert farthest_point_sample(on_a_line(*range(10)), 3).tolist() == [[0, 9, 4]]


def test_farthest_points_are_those_of_the_definition() -> None:
    x = cloud(3, 50)
    found = farthest_point_sample(x, 20)
    for row, points in zip(found, x.mT):
        chosen = [0]
        while len(chosen) < 20:
            away = (points[:, None] - points[chosen]).square().sum(2).amin(1)
            chosen.append(int(away.argmax()))
        assert row.tolist() == chosen


def test_no_more_points_are_chosen_than_there_are_and_each_once() -> None:
    found = farthest_point_sample(cloud(2, 7), 12)
    assert found.shape == (2, 7)
    assert [sorted(row) for row in found.tolist()] == [list(range(7))] * 2


@pytest.mark.parametrize(("radius", "most"), [(0.5, 4), (1.0, 8), (0.01, 3), (9.0, 60)])
def test_ball_query_takes_the_first_hits_in_order_and_repeats_the_first(radius: float, most: int) -> None:
    x, centres = cloud(2, 40), cloud(2, 9, seed=1)
    found = ball_query(centres, x, radius, most)
    assert found.shape == (2, 9, min(most, 40))
    for b in range(2):
        for m in range(9):
            hits = [n for n in range(40) if (x[b, :, n] - centres[b, :, m]).norm() < radius][:most]
            first = hits[0] if hits else 0
            assert found[b, m].tolist() == hits + [first] * (found.shape[2] - len(hits))


def test_a_point_at_exactly_the_radius_is_outside_the_ball() -> None:
    x = on_a_line(1.0, 0.5, 2.0)
    assert ball_query(on_a_line(0.0), x, 1.0, 3).tolist() == [[[1, 1, 1]]]
    assert ball_query(on_a_line(0.0), x, 1.0001, 3).tolist() == [[[0, 1, 0]]]


def test_group_gathers_rows_of_features() -> None:
    f, index = torch.randn(2, 5, 11), torch.randint(0, 11, (2, 3, 4))
    grouped = group(f, index)
    assert grouped.shape == (2, 5, 3, 4)
    for b in range(2):
        assert torch.equal(grouped[b], f[b][:, index[b]])
    assert torch.equal(group(f, index[..., 0]), grouped[..., 0])


def test_interpolation_weighs_three_neighbours_by_inverse_squares() -> None:
    x, centres, f = cloud(2, 13).double(), cloud(2, 6, seed=1).double(), torch.randn(2, 4, 6).double()
    out = interpolate3(f, centres, x)
    for b in range(2):
        for n in range(13):
            squares = (centres[b] - x[b, :, n : n + 1]).square().sum(0)
            near = squares.argsort()[:3]
            weights = 1 / squares[near]
            expected = (f[b][:, near] * weights).sum(1) / weights.sum()
            torch.testing.assert_close(out[b, :, n], expected, rtol=1e-4, atol=1e-5)


def test_interpolation_at_the_centres_gives_their_features() -> None:
    centres, f = cloud(1, 6), torch.randn(1, 4, 6)
    torch.testing.assert_close(interpolate3(f, centres, centres), f, rtol=1e-4, atol=1e-4)
    one = interpolate3(f[..., :1], centres[..., :1], centres)
    torch.testing.assert_close(one, f[..., :1].expand(1, 4, 6))


def test_gradients_of_interpolation_are_the_weights() -> None:
    x, centres = cloud(1, 5), cloud(1, 4, seed=2)
    f = torch.randn(1, 2, 4, requires_grad=True)
    interpolate3(f, centres, x).sum().backward()
    assert f.grad is not None
    torch.testing.assert_close(f.grad.sum(2), torch.full((1, 2), 5.0))


def test_voxel_coordinates_ignore_shift_and_scale_and_stay_inside() -> None:
    x = cloud(2, 30)
    v = voxel_coordinates(x, 8)
    assert v.min() >= 0
    assert v.max() <= 7
    moved = voxel_coordinates(3 * x + torch.tensor([5.0, -2.0, 1.0])[:, None], 8)
    torch.testing.assert_close(moved, v, rtol=0, atol=1e-4)
    by_hand = on_a_line(-2.0, 2.0, 1.0, -1.0)
    torch.testing.assert_close(voxel_coordinates(by_hand, 8)[0, 0], torch.tensor([0.0, 7.0, 6.0, 2.0]))
    assert torch.isfinite(voxel_coordinates(torch.ones(1, 3, 4), 8)).all()


def test_voxelise_is_the_mean_of_each_voxel() -> None:
    x, f = cloud(2, 60), torch.randn(2, 3, 60)
    v = voxel_coordinates(x, 4)
    grid = voxelise(f, v, 4)
    cells = v.round().long()
    for b in range(2):
        for i, j, k in torch.cartesian_prod(*[torch.arange(4)] * 3).tolist():
            inside = (cells[b] == torch.tensor([i, j, k])[:, None]).all(0)
            expected = f[b][:, inside].mean(1) if inside.any() else torch.zeros(3)
            torch.testing.assert_close(grid[b, :, i, j, k], expected)


def test_devoxelise_is_trilinear_at_the_unrounded_place() -> None:
    grid, v = torch.randn(2, 3, 5, 5, 5), torch.rand(2, 3, 20) * 4
    out = devoxelise(grid, v)
    low = v.floor().clamp(max=3).long()
    share = v - low
    expected = torch.zeros_like(out)
    for corner in torch.cartesian_prod(*[torch.arange(2)] * 3):
        at = low + corner[:, None]
        weight = torch.where(corner[:, None] == 1, share, 1 - share).prod(1)
        for b in range(2):
            expected[b] += grid[b][:, at[b, 0], at[b, 1], at[b, 2]] * weight[b]
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=2e-5)


def test_an_affine_grid_is_read_back_exactly() -> None:
    ticks = torch.arange(6.0)
    grid = (2 * ticks[:, None, None] - ticks[:, None] + 0.5 * ticks)[None, None]
    v = torch.rand(1, 3, 50) * 5
    torch.testing.assert_close(
        devoxelise(grid, v)[:, 0], 2 * v[:, 0] - v[:, 1] + 0.5 * v[:, 2], rtol=0, atol=1e-4
    )


def test_gradients_pass_through_the_grid_by_finite_differences() -> None:
    v = voxel_coordinates(cloud(1, 9), 3).double()
    f = torch.randn(1, 2, 9, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda f: devoxelise(voxelise(f, v, 3), v), (f,))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_gpu_agrees_with_the_cpu() -> None:
    x, f = cloud(2, 256), torch.randn(2, 8, 256)
    index = farthest_point_sample(x, 64)
    assert torch.equal(farthest_point_sample(x.cuda(), 64).cpu(), index)
    centres = group(x, index)
    balls = ball_query(centres, x, 0.6, 16)
    assert (ball_query(centres.cuda(), x.cuda(), 0.6, 16).cpu() == balls).float().mean() > 0.999
    v = voxel_coordinates(x, 8)
    torch.testing.assert_close(voxelise(f.cuda(), v.cuda(), 8).cpu(), voxelise(f, v, 8), rtol=1e-4, atol=1e-5)
    grid = torch.randn(2, 8, 8, 8, 8)
    torch.testing.assert_close(
        devoxelise(grid.cuda(), v.cuda()).cpu(), devoxelise(grid, v), rtol=1e-4, atol=1e-4
    )
