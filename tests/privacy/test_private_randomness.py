"""Poisson batches and secret noise: their distributions, and that nobody can draw them again."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from gentool.privacy.randomness import Secrets, gaussian
from gentool.privacy.sampling import PoissonBatches

SIZE, RATE, STEPS = 500, 0.04, 2000
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def joined() -> np.ndarray:
    """(STEPS, SIZE) whether each record joined each step."""
    found = np.zeros((STEPS, SIZE))
    for step, batch in enumerate(PoissonBatches(SIZE, RATE, Secrets(7), stop=STEPS)):
        found[step, batch.numpy()] = 1
    return found


def test_batch_sizes_are_binomial(joined: np.ndarray) -> None:
    sizes = joined.sum(1)
    law = stats.binom(SIZE, RATE)
    assert abs(sizes.mean() - law.mean()) < 4 * law.std() / math.sqrt(STEPS)
    assert abs(sizes.var() / law.var() - 1) < 4 * math.sqrt(2 / STEPS)
    edges = np.arange(14, 28)
    expected = np.diff(np.concatenate([[0], law.cdf(edges), [1]])) * STEPS
    seen = np.histogram(sizes, np.concatenate([[-1], edges, [SIZE]]) + 0.5)[0]
    assert stats.chisquare(seen, expected).pvalue > 1e-3


def test_records_join_alike_and_independently(joined: np.ndarray) -> None:
    each = joined.sum(0)
    assert stats.chisquare(each).pvalue > 1e-3  # nobody is favoured
    correlation = np.corrcoef(joined.T)[np.triu_indices(SIZE, 1)]
    assert abs(correlation.mean()) < 4 / math.sqrt(STEPS * len(correlation))
    assert abs(correlation.var() * STEPS - 1) < 0.05
    after = np.mean(joined[1:] * joined[:-1]) - RATE**2  # nor does a step depend on the one before it
    assert abs(after) < 4 * RATE / math.sqrt(STEPS * SIZE)


def test_empty_batches_are_yielded() -> None:
    sizes = [len(b) for b in PoissonBatches(5, 0.05, Secrets(1), stop=400)]
    assert len(sizes) == 400
    assert abs(sizes.count(0) / 400 - 0.95**5) < 0.1
    assert len(next(iter(PoissonBatches(5, 1.0, Secrets(), stop=2)))) == 5


def test_ranks_have_disjoint_shards_and_one_poisson_batch_together() -> None:
    secrets = Secrets(3)
    ranks = [PoissonBatches(101, 0.3, secrets, rank, 3, stop=600) for rank in range(3)]
    sizes = []
    for parts in zip(*ranks):
        whole = torch.cat(parts)
        assert len(whole.unique()) == len(whole)
        assert all(bool((part % 3 == rank).all()) for rank, part in enumerate(parts))
        sizes.append(len(whole))
    law = stats.binom(101, 0.3)
    assert abs(np.mean(sizes) - law.mean()) < 4 * law.std() / math.sqrt(600)
    assert abs(np.var(sizes) / law.var() - 1) < 4 * math.sqrt(2 / 600)
    mask = np.array([[i in set(p.tolist()) for i in range(33)] for p in (r.batch(0) // 3 for r in ranks)])
    assert not (mask[0] == mask[1]).all()


def test_a_resumed_run_draws_other_batches_and_a_debugged_one_the_same() -> None:
    first, second = (PoissonBatches(200, 0.5, Secrets(), start=3, stop=9) for _ in range(2))
    assert len(first) == 6
    assert not torch.equal(first.batch(3), second.batch(3))
    again, whole = (PoissonBatches(200, 0.5, Secrets(5), start=s, stop=9) for s in (3, 0))
    assert torch.equal(next(iter(again)), whole.batch(3))


@pytest.mark.parametrize("secure", [False, True])
def test_noise_is_standard_normal_and_fresh(secure: bool) -> None:
    secrets, size = Secrets(), 40_001
    z = gaussian(secrets, 0, size, CPU, secure=secure)
    assert z.shape == (size,)
    assert z.dtype == torch.float32
    assert stats.kstest(z.double().numpy(), "norm").pvalue > 1e-4
    assert abs(float(z.std()) - 1) < 4 / math.sqrt(2 * size)
    for other in (
        gaussian(secrets, 1, size, CPU, secure=secure),
        gaussian(secrets, 0, size, CPU, secure=secure, rank=1),
        gaussian(Secrets(), 0, size, CPU, secure=secure),
    ):
        assert abs(float((z * other).mean())) < 4 / math.sqrt(size)


@pytest.mark.parametrize("secure", [False, True])
def test_a_debug_seed_repeats_each_step(secure: bool) -> None:
    one, two = (gaussian(Secrets(9), 4, 100, CPU, secure=secure) for _ in range(2))
    assert torch.equal(one, two)
    assert not torch.equal(one, gaussian(Secrets(10), 4, 100, CPU, secure=secure))
    assert not torch.equal(one, gaussian(Secrets(9), 5, 100, CPU, secure=secure))


def test_keys_have_all_their_bits() -> None:
    """Torch's own generator keeps 32 bits of a seed on a CPU: few enough to try them all."""
    secrets = Secrets()
    keys = [secrets.key("noise", step) for step in range(2000)]
    assert len({k & 0xFFFFFFFF for k in keys} | set(keys)) > 2000
    ones = sum(k.bit_count() for k in keys) / len(keys)
    assert abs(ones - 64) < 4 * math.sqrt(32 / 2000)
    state = np.random.Philox(key=keys[0]).state["state"]["key"]
    assert int(state[0]) + (int(state[1]) << 64) == keys[0]
