"""Packed tokens through a block: whatever the tiles and groups, every picture as if it were alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from gentool.families.a_vit import packing
from gentool.networks.vit import Block

CPU = torch.device("cpu")


def block() -> Block:
    torch.manual_seed(0)
    made = Block(width=12, heads=2, mlp_ratio=2, drop_path=0.0).double().eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return made


def lengths_of(seed: int, pictures: int) -> np.ndarray:
    return np.sort(np.random.default_rng(seed).integers(1, 40, pictures))


def alone(made: Block, z: Tensor, lengths: np.ndarray, live: Tensor | None = None) -> Tensor:
    """Each picture by itself; with `live`, of its live tokens alone, where the rest is not looked at."""
    out, start = z.clone(), 0
    for length in lengths.tolist():
        rows = torch.arange(start, start + length)
        rows = rows if live is None else rows[live[rows]]
        out[rows] = made(z[None, rows])[0]
        start += length
    return out


@pytest.mark.parametrize("least", [1, 60, 10_000])
@pytest.mark.parametrize("cached", [24, 24 * 50, 24 * 300, 24 * 10_000])
@pytest.mark.parametrize("pictures", [1, 2, 30])
def test_a_block_on_packed_rows_is_the_block_on_each_picture(
    least: int, cached: int, pictures: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One tile or many, runs of equal length or padded ones, keys read before, after, and not at all beside."""
    monkeypatch.setattr(packing, "LEAST", least)
    monkeypatch.setattr(packing, "CACHED", cached)
    made, lengths = block(), lengths_of(pictures, pictures)
    z = torch.randn(int(lengths.sum()), 12, dtype=torch.float64)
    tiles = packing.tiled(lengths, 24, CPU)
    live = torch.rand(len(z)) < 0.8
    live[np.append(0, lengths.cumsum()[:-1])] = True  # the class tokens
    for given, among in ((tiles, None), (packing.without(tiles, live), live)):
        found, expected = z.clone(), alone(made, z, lengths, among)
        with torch.no_grad():
            packing.through(made, found, given)
        looked_at = slice(None) if among is None else among
        torch.testing.assert_close(found[looked_at], expected[looked_at], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("seed", range(3))
def test_tiles_hold_every_row_once_and_no_more_than_fit(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "CACHED", 24 * 100)
    lengths = lengths_of(seed, 80)
    tiles = packing.tiled(lengths, 24, CPU)
    groups = [group for tile in tiles for group in tile.groups]
    assert [g.start for g in groups] == [0, *(g.stop for g in groups[:-1])]
    assert groups[-1].stop == lengths.sum()
    assert all(tile.stop - tile.start <= 100 for tile in tiles)
    assert all(0 <= tile.first <= tile.start < tile.stop <= tile.last <= lengths.sum() for tile in tiles)


def test_unpadded_groups_read_whole_vectors_of_keys_where_there_are_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(packing, "CACHED", 24 * 100)
    (first, second, third) = packing.tiled(np.full(6, 41), 24, CPU)
    for tile, beside in ((first, (0, 7)), (second, (0, 7)), (third, (7, 0))):
        (group,) = tile.groups
        assert group.beside == beside
        assert group.bias is not None
        assert int((group.bias == 0).sum()) == 41
    (only,) = packing.tiled(np.array([41]), 24, CPU)
    assert only.groups[0].beside == (0, 0)
    assert only.groups[0].bias is None


def test_other_devices_get_few_groups_and_no_rows_beside() -> None:
    """Of which a call costs as much as many rows; only the plan is looked at, by the meta device's name."""
    lengths = lengths_of(0, 400)
    (tile,) = packing.tiled(lengths, 24, torch.device("meta"))
    assert len(tile.groups) <= packing.GROUPS
    assert (tile.first, tile.last) == (0, lengths.sum())
    assert all(group.beside == (0, 0) for group in tile.groups)
