"""Streaming moments: exact, stable, mergeable."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gentool.errors import UserError
from gentool.metrics.moments import Moments

Draw = Callable[..., Tensor]


def stream(x: Tensor, size: int) -> Moments:
    moments = Moments(x.shape[1])
    for batch in x.split(size):
        moments.update(batch)
    return moments


@pytest.mark.parametrize("size", [1, 7, 64, 500])
def test_equal_to_the_direct_computation_for_any_batch_size(normal: Draw, size: int) -> None:
    x = normal(500, 12) @ normal(12, 12, seed=1) + 3
    result = stream(x, size).compute()
    assert result.n == 500
    torch.testing.assert_close(result.mean, x.mean(0), rtol=1e-13, atol=0)
    torch.testing.assert_close(result.covariance, x.T.cov(), rtol=1e-12, atol=1e-13)


def test_stable_where_sums_around_zero_lose_every_digit(normal: Draw) -> None:
    x = normal(400, 3)
    far = stream(x + 1e8, 16).compute()
    torch.testing.assert_close(far.covariance, x.T.cov(), rtol=1e-6, atol=1e-6)
    naive = (x + 1e8).T @ (x + 1e8) / 400 - torch.outer((x + 1e8).mean(0), (x + 1e8).mean(0))
    assert (naive - x.T.cov()).abs().max() > 1e-2


def test_merging_ranks_equals_one_stream(normal: Draw) -> None:
    x = normal(300, 5) + 100
    whole = stream(x, 32).compute()
    first, second = stream(x[:90], 32), stream(x[90:], 32)
    first.merge_state(Moments(5))  # a rank that saw nothing
    first.merge_state(second)
    merged = first.compute()
    assert merged.n == 300
    torch.testing.assert_close(merged.mean, whole.mean, rtol=1e-13, atol=0)
    torch.testing.assert_close(merged.covariance, whole.covariance, rtol=1e-12, atol=1e-12)


def test_torchmetrics_gathers_ranks(normal: Draw) -> None:
    """`compute` under DDP, with the gathering itself replaced: every state arrives from every rank."""
    x = normal(200, 4) - 7
    ranks = [stream(part, 10) for part in (x[:50], x[50:120], x[120:])]

    def gather(state: Tensor, group: object) -> list[Tensor]:
        name = ("count", "mean", "scatter")[state.dim()]
        return [getattr(rank, name) for rank in ranks]

    mine = Moments(4, dist_sync_fn=gather, distributed_available_fn=lambda: True)
    mine.update(x[:50])
    torch.testing.assert_close(mine.compute().covariance, x.T.cov(), rtol=1e-12, atol=1e-13)


def test_float32_features_are_summed_in_float64(normal: Draw) -> None:
    x = (normal(1000, 3) + 1000).float()
    torch.testing.assert_close(stream(x, 10).compute().covariance, x.double().T.cov(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_features_are_refused(bad: float) -> None:
    with pytest.raises(UserError, match="NaN or infinite"):
        Moments(2).update(torch.tensor([[1.0, bad]]))


def test_one_image_has_no_covariance(normal: Draw) -> None:
    with pytest.raises(UserError, match="at least two"):
        stream(normal(1, 3), 1).compute()
