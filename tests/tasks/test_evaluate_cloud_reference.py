"""Property: test clouds of published evaluations are read as tensors, in their frame, and never by a pickle's code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from gentool.data import open_set
from gentool.data.cloud_reference import CloudReferenceConfig
from gentool.errors import CorruptError, UserError
from gentool.runs.samples import write_samples
from gentool.tasks.evaluate import evaluate
from gentool.tasks.evaluation.reference import reference_data


def reference_of(path: Path) -> CloudReferenceConfig:
    """What `--reference PATH` comes to."""
    found = reference_data(str(path), None, "samples")
    assert isinstance(found, CloudReferenceConfig)
    return found


def stored(path: Path, **changes: object) -> Path:
    """24 clouds of 16 points (and a column of normals' x), the mean and deviation of one training set."""
    clouds = torch.randn(24, 16, 4, generator=torch.Generator().manual_seed(0))
    mean, std = torch.tensor([0.1, -0.2, 0.3]).expand(24, 1, 3), torch.full((24, 1, 1), 0.2)
    torch.save({"ref": clouds, "mean": mean, "std": std, **changes}, path)
    return path


def test_clouds_lie_in_the_frame_of_their_training_set(tmp_path: Path) -> None:
    found = open_set(reference_of(stored(tmp_path / "ref_val_chair.pt")), "test")
    raw = torch.load(tmp_path / "ref_val_chair.pt", weights_only=True)
    assert torch.equal(found.take(range(24)).x, raw["ref"][:, :, :3])
    frame = found.spec.frame
    assert frame is not None
    assert frame.mode == "global"
    assert (*frame.centre, frame.scale) == pytest.approx((0.1, -0.2, 0.3, 0.2))


def test_clouds_with_boxes_of_their_own_are_boxed(tmp_path: Path) -> None:
    path = stored(tmp_path / "a.pt", std=torch.linspace(0.1, 0.3, 24).view(24, 1, 1))
    frame = open_set(reference_of(path), "train").spec.frame
    assert frame is not None
    assert frame.mode == "shape-box"


def test_samples_are_held_against_all_of_them_in_the_datas_own_units(tmp_path: Path) -> None:
    """Samples that are the clouds moved by d: MMD is 2 d^2, in units where the frame's 0.2 is undone."""
    ref = stored(tmp_path / "ref.pt")
    clouds = torch.load(ref, weights_only=True)["ref"][:, :, :3].numpy()
    write_samples(tmp_path / "x.npz", clouds + np.array([1e-3, 0, 0], np.float32))
    found = evaluate(str(tmp_path / "x.npz"), reference=str(ref), metrics=["cloud-cd"])
    assert found.metrics["mmd-cd"] == pytest.approx(2 * (0.2 * 1e-3) ** 2, rel=0.02)
    assert found.metrics["cov-cd"] == 1


def test_a_pickle_of_more_than_tensors_is_refused_with_the_way_out(tmp_path: Path) -> None:
    path = stored(tmp_path / "a.pt", mean=Path("anything"))
    with pytest.raises(UserError, match=r"could run any code.*weights_only=False"):
        open_set(reference_of(path), "test")


@pytest.mark.parametrize(
    "changes",
    [
        {"ref": None},
        {"ref": torch.zeros(24, 16)},
        {"mean": torch.zeros(3, 1, 3)},
        {"std": torch.zeros(24, 1, 1)},
        {"ref": torch.full((24, 16, 3), float("nan"))},
    ],
)
def test_another_layout_is_named(changes: dict[str, object], tmp_path: Path) -> None:
    path = stored(tmp_path / "a.pt", **changes)
    with pytest.raises(CorruptError, match=r"expected|NaN") as caught:
        open_set(reference_of(path), "test")
    assert caught.value.where == str(path)


def test_half_a_file_is_corrupt(tmp_path: Path) -> None:
    path = stored(tmp_path / "a.pt")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CorruptError, match="cannot be read"):
        open_set(reference_of(path), "test")
