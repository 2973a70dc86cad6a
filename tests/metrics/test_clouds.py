"""Cloud metrics: closed forms, the published protocol, and figures of sets whose answer is known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from gentool.data.spec import Frame
from gentool.errors import UserError
from gentool.metrics.cache import Cache
from gentool.metrics.clouds import (
    Clouds,
    chamfer_pairs,
    coverage,
    jensen_shannon,
    minimum_matching,
    nearest_neighbour_accuracy,
    occupancy,
    pairs,
)
from gentool.metrics.evaluate import Evaluation, evaluate
from gentool.metrics.features import Workshop
from gentool.metrics.images import ImageSet, VectorArray
from gentool.points.distances import chamfer, emd


def on_a_line(x: list[float]) -> Tensor:
    return torch.tensor(x)[:, None]


def accuracy(references: Tensor, samples: Tensor) -> float:
    return nearest_neighbour_accuracy(
        torch.cdist(references, references), torch.cdist(references, samples), torch.cdist(samples, samples)
    )


def clouds(count: int, points: int, seed: int) -> Tensor:
    """Clouds about centres of their own."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(count, 1, 3, generator=generator)
    return centres + 0.2 * torch.randn(count, points, 3, generator=generator)


def test_the_nearest_neighbour_tells_far_sets_apart_and_is_fooled_by_copies() -> None:
    line = on_a_line([0.0, 1, 2, 3, 4])
    assert accuracy(line, line + 100) == 1
    assert accuracy(line, line + 0.01) == 0


def test_of_equal_neighbours_the_first_counts_references_first() -> None:
    """References 0, 1, 2, 3 and four samples at 0.

    A sample finds reference 0 at distance 0 before any sample: wrong. So does reference 0 find a sample. Reference 1
    has reference 0 and the samples at distance 1: the reference is first. 2 and 3 are right.
    """
    assert accuracy(on_a_line([0.0, 1, 2, 3]), on_a_line([0.0] * 4)) == 3 / 8
    assert accuracy(on_a_line([0.0] * 4), on_a_line([0.0, 1, 2, 3])) == 6 / 8


def test_one_distribution_gives_one_half() -> None:
    """n = 200 in the plane: 0.494 with a standard deviation of 0.029 over draws; four of them on the mean of 20."""
    found = []
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        found.append(accuracy(*torch.randn(2, 200, 2, generator=generator).unbind(0)))
    assert np.mean(found) == pytest.approx(0.494, abs=4 * 0.029 / 20**0.5)


def test_matching_and_coverage_by_hand() -> None:
    rows_are_samples = torch.tensor([[0.1, 0.5, 0.9], [0.2, 0.4, 0.8], [0.7, 0.6, 0.3]])
    assert minimum_matching(rows_are_samples.T) == pytest.approx(0.8 / 3)
    assert coverage(rows_are_samples.T) == pytest.approx(2 / 3)


def test_all_pairs_are_those_of_the_distance_in_any_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = clouds(5, 30, 0), clouds(7, 30, 1)
    expected = torch.stack([chamfer(cloud.expand(7, -1, -1), y) for cloud in x])
    torch.testing.assert_close(chamfer_pairs(x, y), expected, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(chamfer_pairs(x, x), pairs(x, x, chamfer), rtol=1e-5, atol=1e-7)
    monkeypatch.setattr("gentool.metrics.clouds.BLOCK_BYTES", 40_000)
    torch.testing.assert_close(pairs(x, y, chamfer), expected)
    torch.testing.assert_close(
        pairs(x[:2], y, lambda a, b: emd(a, b, "exact")),
        torch.stack([emd(cloud.expand(7, -1, -1), y, "exact") for cloud in x[:2]]),
    )


def test_no_block_holds_more_than_its_share_of_memory() -> None:
    """405 clouds of 2048 points: a block's distances and their three companions stay below 300 MB."""
    sizes = []

    def distance(x: Tensor, y: Tensor) -> Tensor:
        sizes.append(len(x) * x.shape[1] * y.shape[1] * 4 * 4)
        return x[:, 0, 0]

    some = torch.zeros(1, 1, 3).expand(405, 2048, 3)
    assert pairs(some[:2], some, distance).shape == (2, 405)
    assert 0 < max(sizes) < 3e8


def test_divergence_of_where_points_lie() -> None:
    a, b = np.array([1.0, 0, 3]), np.array([0.0, 2, 0])
    assert jensen_shannon(a, b) == pytest.approx(1)  # nothing in common: one bit
    assert jensen_shannon(a, 5 * a) == pytest.approx(0, abs=1e-12)
    p = np.array([0.5, 0.5])
    assert jensen_shannon(p, np.array([1.0, 0])) == pytest.approx(0.311278, abs=1e-6)
    x = torch.tensor([[[0.0, 0, 0], [0.4, 0, 0], [0.41, 0, 0]]])
    counts = occupancy(x)
    assert counts.sum() == 3
    assert sorted(counts[counts > 0]) in ([1, 2], [1, 1, 1])
    assert len(counts) < 28**3 * 0.55  # the sphere fills pi / 6 of the cube


class Framed(ImageSet):
    """A reference of which only the frame matters."""

    def __init__(self, frame: Frame | None, points: int) -> None:
        self.frame, self.shape, self.name, self.classes = frame, (points, 3), "framed", None


def test_figures_are_measured_in_the_frame_of_the_protocol() -> None:
    x = clouds(4, 20, 0)
    shop = Workshop(Cache(None), torch.device("cpu"))
    whole = Clouds(Framed(Frame("global", (1.0, 2.0, 3.0), 0.5), 20), shop)
    torch.testing.assert_close(
        whole(x, False)[0].unflatten(1, (20, 3)), x * 0.5 + torch.tensor([1.0, 2.0, 3.0])
    )
    boxes = Clouds(Framed(Frame("shape-box"), 20), shop)
    seen = boxes(5 * x + 3, False)[0].unflatten(1, (20, 3))
    torch.testing.assert_close((seen.amax(1) - seen.amin(1)).amax(1), torch.ones(4))
    torch.testing.assert_close(seen.amax(1) + seen.amin(1), torch.zeros(4, 3), rtol=0, atol=1e-5)
    plain = Clouds(Framed(None, 20), shop)
    assert torch.equal(plain(x, False)[0], x.flatten(1))
    assert len({eyes.preprocessing for eyes in (whole, boxes, plain)}) == 3


def judged(samples: Tensor, references: Tensor, *metrics: str, **options: dict[str, int]) -> Evaluation:
    training = VectorArray(clouds(3, references.shape[1], 99).numpy(), name="train")
    sets = (VectorArray(samples.numpy()), training, metrics, "clouds")
    held_out = VectorArray(references.numpy(), name="held out")
    return evaluate(*sets, held_out=held_out, options={k.replace("_", "-"): v for k, v in options.items()})


def test_a_fresh_draw_is_better_than_one_shape_repeated() -> None:
    references, fresh = clouds(24, 12, 0), clouds(24, 12, 1)
    names = ("cloud-cd", "cloud-emd-approx", "cloud-emd-exact", "cloud-jsd")
    good = judged(fresh, references, *names).metrics
    bad = judged(fresh[:1].repeat(24, 1, 1), references, *names).metrics
    for name in ("cd", "emd-approx", "emd-exact"):
        assert abs(good[f"1-nna-{name}"] - 0.5) < 0.2 < abs(bad[f"1-nna-{name}"] - 0.5)
        assert good[f"mmd-{name}"] < bad[f"mmd-{name}"]
        assert bad[f"cov-{name}"] == 1 / 24 < good[f"cov-{name}"]
    assert good["jsd"] < bad["jsd"]
    same = judged(references, references, "cloud-cd", "cloud-jsd").metrics
    assert (same["mmd-cd"], same["cov-cd"], same["jsd"]) == (0, 1, 0)


def test_labels_of_clouds_are_read_from_the_nearest_held_out_one() -> None:
    """Two classes far apart: right labels give 1, one in four wrong gives 3/4, and noise is no better than chance."""
    near, far = clouds(20, 12, 0), clouds(20, 12, 1) + 10
    labels = np.repeat([0, 1], 20)
    held_out = VectorArray(torch.cat([near, far]).numpy(), labels, name="held out")
    training = VectorArray((torch.cat([far, near]) + 0.1).numpy(), 1 - labels, name="train")

    def accuracy(told: np.ndarray, **options: int) -> Evaluation:
        fresh = torch.cat([clouds(20, 12, 2), clouds(20, 12, 3) + 10]).numpy()
        sets = (VectorArray(fresh, told), training, ("cloud-labels",), "clouds")
        return evaluate(*sets, held_out=held_out, options={"cloud-labels": options})

    found = accuracy(labels)
    assert found.metrics == {"cloud-label-accuracy": 1.0}
    assert found.details["cloud-labels"]["held_out"] == 1.0
    wrong = labels.copy()
    wrong[:10] = 1
    found = accuracy(wrong, points=5)
    assert found.metrics == {"cloud-label-accuracy": 0.75}
    assert found.details["cloud-labels"]["by_class"] == {"0": 1.0, "1": 20 / 30}
    assert found.details["cloud-labels"]["points"] == 5


def test_labels_of_clouds_must_be_there() -> None:
    told, count = np.arange(12) % 2, 12
    with_labels, without = (
        VectorArray(clouds(count, 8, 1).numpy(), x, name="held out") for x in (told, None)
    )
    training = VectorArray(clouds(count, 8, 2).numpy(), told, name="train")
    alone = VectorArray(clouds(1, 8, 1).numpy(), told[:1], name="held out")
    for samples, held_out, message in (
        (VectorArray(clouds(count, 8, 0).numpy()), with_labels, "the samples carry no labels"),
        (VectorArray(clouds(count, 8, 0).numpy(), told), without, "needs labels of the held-out"),
        (VectorArray(clouds(count, 8, 0).numpy(), told + 1), with_labels, "have 3 classes"),
        (VectorArray(clouds(count, 8, 0).numpy(), told), alone, "a single cloud cannot"),
    ):
        with pytest.raises(UserError, match=message):
            evaluate(samples, training, ("cloud-labels",), "clouds", held_out=held_out)
    with pytest.raises(UserError, match="expected 12 integers"):
        VectorArray(clouds(count, 8, 0).numpy(), told[:5])


def test_unequal_counts_and_few_shapes_are_told() -> None:
    found = judged(clouds(9, 16, 0), clouds(12, 16, 1), "cloud-cd", cloud_cd={"points": 8})
    text = " ".join(found.warnings)
    assert "9 samples against 12 held-out shapes: 9 of each, chosen at random" in text
    assert "standard deviation of about 0.12" in text
    details = found.details["cloud-cd"]
    assert details["points"] == 8
    assert details["samples"] == 9
    assert "Chamfer" in details["distance"]


def test_references_that_are_too_many_are_thinned_over_all_of_them() -> None:
    """They often lie class by class: the first ones would be of one class, and samples of two would look bad."""
    near, far = clouds(60, 8, 0), clouds(60, 8, 1) + 50
    references, samples = torch.cat([near, far]), torch.cat([clouds(20, 8, 2), clouds(20, 8, 3) + 50])
    found = judged(samples, references, "cloud-cd")
    assert found.metrics["mmd-cd"] < 10  # each reference has a sample of its own class
    assert abs(found.metrics["1-nna-cd"] - 0.5) < 0.2
    assert found.details["cloud-cd"]["references"] == 40
    assert judged(samples[:20], references, "cloud-cd").metrics["mmd-cd"] > 1000  # some references are far


def test_clouds_of_other_sizes_and_other_eyes_are_refused() -> None:
    with pytest.raises(UserError, match="clouds of 8 points, but train is clouds of 16"):
        judged(clouds(5, 8, 0), clouds(5, 16, 1), "cloud-cd")
    x = VectorArray(clouds(5, 8, 0).numpy())
    for eyes, metric in (("pixels", "fid"), ("values", "fid")):
        with pytest.raises(UserError, match="clouds for clouds of points"):
            evaluate(x, x, [metric], eyes)
    with pytest.raises(UserError, match="use clouds"):
        evaluate(x, x, ["cloud-cd"], "pixels")


def test_a_samples_file_is_judged_against_a_set_of_shapes(tmp_path: Path) -> None:
    from gentool.data import make_config, open_set
    from gentool.runs.samples import write_samples
    from gentool.tasks.evaluate import evaluate as task

    test = open_set(make_config("shapes", {"count": 4, "points": 32, "classes": ["chair"]}), "test")
    x = test.take(range(40)).x.numpy()
    path = write_samples(tmp_path / "s.ply", x)
    done = task(str(path), reference="shapes count=4 points=32 classes=[chair]")
    assert done.evaluation is not None
    assert done.evaluation.features == "clouds"
    assert set(done.metrics) == {"1-nna-cd", "mmd-cd", "cov-cd"}
    assert done.evaluation.preprocessing.startswith("global")
    assert done.metrics["cov-cd"] == 1  # they are held-out shapes themselves
    json.dumps(done.document())
    with pytest.raises(UserError, match="did you mean points"):
        task(str(path), reference="shapes point=32")
