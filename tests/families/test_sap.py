"""Property: what a mesher reads of an example lies in that example's unit cube, from whichever file it comes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from gentool import families
from gentool.data import DataSet, open_set
from gentool.errors import UserError
from gentool.families.sap.module import SapModule, cube
from gentool.points.neighbours import distances
from gentool.recipes.resolve import resolve_text
from gentool.runs.samples import write_samples
from gentool.tasks.model.build import build_module

RECIPE = """
family: sap
data: {name: shapes, count: 2, points: 32, normals: true, batch_size: 4}
model: {points: 16, noise: 0, resolution: 8, width: 8, blocks: 1, grid: 4, levels: 1, offsets: 1, reads: READS}
"""


def made(reads: str) -> tuple[SapModule, DataSet]:
    recipe = resolve_text(RECIPE.replace("READS", reads), "sap", families.recipe_schema).recipe
    dataset = open_set(recipe.data, "train")
    module = build_module(recipe, dataset.spec)
    assert isinstance(module, SapModule)
    module._seed(0)
    return module, dataset


def told(folder: Path, each: int = 2, count: int = 6) -> tuple[str, np.ndarray]:
    """A file of `each` clouds for each of `count` examples: all points of cloud i lie at (i, 0, 0)."""
    clouds = np.zeros((each * count, 20, 3), np.float32)
    clouds[..., 0] = np.arange(each * count)[:, None]
    return f"{{path: {write_samples(folder / 'read.h5', clouds)}, each: {each}}}", clouds


def test_without_a_file_the_examples_own_points_are_read() -> None:
    module, dataset = made("null")
    found = module.examples(dataset.take([0, 3]))
    assert distances(found["read"], found["dense"][..., :3]).amin(2).max() < 1e-6
    assert (found["read"] - 0.5).abs().max() <= 0.5 / 1.2 + 1e-6


def test_the_clouds_of_a_file_are_read_by_the_examples_number_in_its_cube(tmp_path: Path) -> None:
    reads, _ = told(tmp_path)
    module, dataset = made(reads)
    module.fit_to_data(dataset)
    batch = dataset.take([5, 1, 5, 5, 5, 5])
    found = module.examples(batch)
    middle, side = cube(batch.x)
    back = (found["read"] - 0.5) * side + middle
    assert (back[:, :, 1:].abs() < 1e-5).all()
    numbers = back[:, 0, 0].round().long()
    assert torch.equal(numbers // 2, batch.index)
    assert set(numbers[batch.index == 5].tolist()) == {10, 11}  # each of the two has its turn
    own = module.examples(batch)["dense"]
    assert torch.equal(own, found["dense"])  # the target is the example's own


def test_a_file_that_does_not_fit_the_examples_is_refused(tmp_path: Path) -> None:
    module, dataset = made(told(tmp_path, count=5)[0])
    with pytest.raises(UserError, match=r"holds 10 clouds; expected 12, 2 \(each\) for each of 6"):
        module.fit_to_data(dataset)
    pictures = write_samples(tmp_path / "x.npz", np.zeros((12, 8, 8, 1), np.uint8))
    module, dataset = made(f"{{path: {pictures}, each: 2}}")
    with pytest.raises(UserError, match="kind image, not clouds"):
        module.fit_to_data(dataset)
