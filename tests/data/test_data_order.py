"""Property: which examples a step sees is a pure function of (seed, step), the same however the work is
shared."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gentool import data
from gentool.data import StepBatches
from gentool.errors import UserError


def lists(*args: int, **options: int) -> list[list[int]]:
    """All index batches of a StepBatches as lists."""
    return [batch.tolist() for batch in StepBatches(*args, **options)]


@given(st.integers(1, 60), st.integers(1, 20), st.integers(0, 2**40), st.integers(0, 30))
@settings(max_examples=60, deadline=None)
@pytest.mark.filterwarnings("ignore:.*fewer than the batch")
def test_every_example_is_seen_once_an_epoch(size: int, batch: int, seed: int, epochs: int) -> None:
    steps = -(-size * 3 // batch)
    flat = [i for b in lists(size, batch, seed, stop=steps) for i in b]
    for epoch in range(3):
        assert sorted(flat[epoch * size : (epoch + 1) * size]) == list(range(size))


@pytest.mark.parametrize("start", [0, 1, 7, 23])
def test_a_resumed_run_goes_on_with_the_same_batches(start: int) -> None:
    whole = lists(50, 8, 3, stop=40)
    assert lists(50, 8, 3, start=start, stop=40) == whole[start:]
    assert StepBatches(50, 8, 3, stop=1).batch(start).tolist() == whole[start]
    assert len(StepBatches(50, 8, 3, start=start, stop=40)) == 40 - start


@pytest.mark.parametrize("world", [1, 2, 4, 8])
def test_the_ranks_together_have_the_global_batch_interleaved(world: int) -> None:
    whole = lists(50, 8, 3, stop=20)
    ranks = [lists(50, 8, 3, rank, world, stop=20) for rank in range(world)]
    for step, batch in enumerate(whole):
        assert [batch[rank::world] for rank in range(world)] == [ranks[rank][step] for rank in range(world)]


def test_epochs_and_seeds_are_shuffled_differently() -> None:
    first, second = lists(1000, 1000, 0, stop=2)
    other = lists(1000, 1000, 1, stop=1)[0]
    for a, b in ((first, second), (first, other), (first, list(range(1000)))):
        assert np.mean(np.equal(a, b)) < 0.01


def test_the_order_is_the_same_on_every_machine_and_version() -> None:
    assert StepBatches(10, 5, 42, stop=1).batch(0).tolist() == [9, 5, 8, 3, 0]
    assert StepBatches(10, 5, 42, stop=1).batch(1000).tolist() == [7, 2, 0, 6, 5]


def test_the_first_place_is_uniform() -> None:
    first = [StepBatches(10, 1, seed, stop=1).batch(0).item() for seed in range(5000)]
    counts = np.bincount(first, minlength=10)
    assert ((counts - 500) ** 2 / 500).sum() < 27.9  # chi-squared, 9 degrees of freedom, p = 0.001


def test_a_small_set_repeats_within_a_batch_and_says_so() -> None:
    with pytest.warns(UserWarning, match="3 examples are fewer than the batch of 8"):
        batches = StepBatches(3, 8, 0, stop=3)
    assert np.bincount([i for b in batches for i in b]).tolist() == [8, 8, 8]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        StepBatches(8, 8, 0, stop=1)


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    with pytest.raises(UserError, match="batch_size 10 cannot be shared evenly by 4 devices"):
        StepBatches(50, 10, 0, 0, 4, stop=1)
    for wrong in ((0, 4, 0, 0, 1), (5, 4, 0, 2, 2)):
        with pytest.raises(ValueError):
            StepBatches(*wrong, stop=1)


def test_a_batch_carries_its_rows() -> None:
    dataset = data.open_set(data.make_config("digits", {}), "train")
    batches = StepBatches(len(dataset), 32, 0, stop=60)
    for want, batch in zip(batches, data.loader(dataset, batches)):
        assert torch.equal(batch.index, want)
        for k in (0, 31):
            x, label = dataset[int(want[k])]
            assert torch.equal(batch.x[k], x)
            assert int(batch.label[k]) == label
    assert (batch.x.dtype, batch.x.shape, batch.label.dtype) == (torch.uint8, (32, 1, 8, 8), torch.int64)


def test_reading_a_set_in_memory_costs_one_call_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = data.open_set(data.make_config("toy2d", {}), "train")
    calls = []
    take = dataset.take
    monkeypatch.setattr(dataset, "take", lambda indices: (calls.append(len(indices)), take(indices))[1])
    list(data.loader(dataset, StepBatches(len(dataset), 500, 0, stop=4), workers=3))
    assert calls == [500] * 4  # and in this process: no worker was started


def test_indices_outside_the_set_are_refused() -> None:
    dataset = data.open_set(data.make_config("digits", {}), "train")
    for wrong in (len(dataset), -len(dataset) - 1):
        with pytest.raises(IndexError):
            dataset[wrong]
    assert torch.equal(dataset[-1][0], dataset[len(dataset) - 1][0])
