"""Noise by counter: what a sample gets depends on seed, index, stream and step alone; the path is Brownian."""

from __future__ import annotations

import math

import pytest
import torch

from gentool.noise import Noise, mix


def test_keys_are_the_same_on_every_machine() -> None:
    assert mix(0, "order", 3) == int.from_bytes(bytes.fromhex("0f6468849c97f9f0"), "little") >> 1
    assert mix(1, 23) != mix(12, 3)
    assert 0 <= mix("anything") < 2**63


def test_a_sample_does_not_depend_on_its_batch() -> None:
    many, one = Noise(7, range(10), (3, 2)), Noise(7, [6], (3, 2))
    assert torch.equal(many.normal("prior", 4)[6], one.normal("prior", 4)[0])
    assert torch.equal(many.uniform("u", 4)[6], one.uniform("u", 4)[0])
    assert torch.equal(many.increment("w", 0.1, 0.7)[6], one.increment("w", 0.1, 0.7)[0])


def test_seed_index_stream_and_step_each_matter() -> None:
    draws = [
        Noise(seed, [index], (4,)).normal(stream, step)
        for seed, index, stream, step in (
            (0, 0, "a", 0),
            (1, 0, "a", 0),
            (0, 1, "a", 0),
            (0, 0, "b", 0),
            (0, 0, "a", 1),
        )
    ]
    assert all(not torch.equal(x, y) for i, x in enumerate(draws) for y in draws[:i])


def test_seeds_draw_what_they_always_drew() -> None:
    """Samples of earlier versions can be drawn again: neither the keys nor the generator behind them may change."""
    noise = Noise(3, [0, 5], (3,))
    normal = [[0.3641047, -2.7221763, 0.7019892], [-0.9986730, -0.5595248, -0.1401497]]
    torch.testing.assert_close(noise.normal("prior", 2), torch.tensor(normal))
    assert noise.uniform("radius", 2).tolist() == [0.6399435923284498, 0.8533616944968857]


def test_types_see_the_same_noise() -> None:
    single, double = Noise(1, [0, 1], (5,)), Noise(1, [0, 1], (5,), dtype=torch.float64)
    assert torch.equal(single.normal("prior").double(), double.normal("prior"))


def test_increments_are_standard_normal_and_independent_where_disjoint() -> None:
    noise = Noise(0, range(4000), (2,))
    first, second = noise.increment("w", 0.0, 0.3), noise.increment("w", 0.3, 0.55)
    for part in (first, second):
        assert abs(float(part.mean())) < 4 / math.sqrt(8000)
        assert float(part.std()) == pytest.approx(1, abs=4 / math.sqrt(2 * 8000))
    assert abs(float((first * second).mean())) < 4 / math.sqrt(8000)


def test_finer_steps_see_the_same_path() -> None:
    noise = Noise(0, range(6), (3,))
    whole = noise.increment("w", 0.25, 1.0) * math.sqrt(0.75)
    parts = [
        noise.increment("w", a, a + 0.125) * math.sqrt(0.125) for a in (0.25, 0.375, 0.5, 0.625, 0.75, 0.875)
    ]
    torch.testing.assert_close(torch.stack(parts).sum(0), whole, rtol=1e-5, atol=1e-5)


def test_resolution_does_not_move_the_path() -> None:
    coarse = Noise(0, [0], (3,)).increment("w", 0.25, 0.75, depth=3)
    assert torch.equal(coarse, Noise(0, [0], (3,)).increment("w", 0.25, 0.75, depth=14))


def test_forgotten_nodes_come_back_the_same() -> None:
    noise = Noise(0, [0], (2,))
    before = noise.increment("w", 0.5, 0.75)
    for k in range(300):  # far more nodes than are kept
        noise.increment("w", k / 400, (k + 1) / 400)
    assert torch.equal(noise.increment("w", 0.5, 0.75), before)


@pytest.mark.parametrize(("a", "b"), [(0.5, 0.5), (0.6, 0.4), (-0.1, 0.5), (0.5, 1.1), (0.5, 0.5 + 1e-9)])
def test_empty_or_outside_intervals_are_refused(a: float, b: float) -> None:
    with pytest.raises(ValueError, match="no Brownian increment"):
        Noise(0, [0], (1,)).increment("w", a, b)
