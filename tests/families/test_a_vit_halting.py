"""A-ViT's arithmetic: closed forms of the account, limits of the gate, and dropping against masking."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from gentool.families.a_vit.config import AVitModel, Distillation, Halting
from gentool.families.a_vit.dropping import PACKING
from gentool.families.a_vit.halting import Account, Gate, accounted, distribution_loss, gaussian_target
from gentool.families.a_vit.model import AdaptiveViT
from gentool.families.a_vit.study import operations
from gentool.networks.vit_config import ViT

SMALL = ViT(patch=2, width=16, depth=5, heads=2, drop_path=0.0)


def made(
    center: float = 2.0,
    scale: float = 1.0,
    network: ViT = SMALL,
    size: int = 8,
    seed: int = 0,
    distilled: bool = False,
) -> AdaptiveViT:
    """A network in float64 whose tokens halt at mixed depths."""
    torch.manual_seed(seed)
    config = AVitModel(
        network=network.model_copy(update={"distilled": distilled}),
        halting=Halting(gate_scale=scale, gate_center=center),
        distillation=Distillation(teacher="any") if distilled else None,
    )
    model = AdaptiveViT(config, (1, size, size), 10).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return model


def spread(seed: int, registers: int = 0, distilled: bool = False) -> AdaptiveViT:
    """Its gate opens in the midst of the class tokens' range: pictures leave at different blocks."""
    network = SMALL.model_copy(update={"registers": registers})
    model = made(seed=seed, network=network, distilled=distilled)
    assert model.gate is not None
    z, first = model.network.embed(pictures(64)), []
    for block in model.network.blocks:
        z = block(z)
        first.append(z[:, 0, 0])
    highest = torch.stack(first[:4]).detach().amax(0)
    model.gate.scale.fill_(40.0)
    model.gate.center.fill_(40.0 * float(highest.median()))
    return model


@pytest.fixture(autouse=True)
def packed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks so small are never worth the packing."""
    monkeypatch.setitem(PACKING, "cpu", 0.0)


def pictures(count: int, size: int = 8) -> Tensor:
    return torch.randn(count, 1, size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def account_of(scores: Tensor) -> Account:
    """Of scores (blocks, ...), as a network adds them up."""
    return accounted(scores.cumsum(0), Gate(Halting(), 3).double())


@pytest.mark.parametrize(
    ("scores", "weights", "rho"),
    [
        ((0.3, 0.5, 0.1, 1.0), (0.3, 0.5, 0.1, 0.1), 4.1),
        ((0.995, 0.4, 1.0), (1.0, 0.0, 0.0), 2.0),
        ((0.0, 0.0, 1.0), (0.0, 0.0, 1.0), 4.0),
    ],
)
def test_weights_and_rho_of_given_scores(
    scores: tuple[float, ...], weights: tuple[float, ...], rho: float
) -> None:
    account = account_of(torch.tensor(scores, dtype=torch.float64))
    assert account.weights.tolist() == pytest.approx(weights)
    assert float(account.ponder) == pytest.approx(rho)


def test_weights_sum_to_one_and_rho_falls_by_one_with_every_score_before_the_halt() -> None:
    scores = torch.rand(6, 50, dtype=torch.float64).mul(0.6).requires_grad_()
    account = account_of(torch.cat([scores[:5], torch.ones(1, 50)]))
    torch.testing.assert_close(account.weights.sum(0), torch.ones(50, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(account.ponder.sum(), scores)
    before = torch.arange(1, 7)[:, None] < account.depth
    assert torch.equal(gradient, -before.double())
    assert 0 < before.double().mean() < 1


def test_the_target_is_the_papers_brought_to_a_sum_of_one() -> None:
    target = gaussian_target(12, 9.0)
    expected = [1.34e-4, 0.004432, 0.053998, 0.242003, 0.398996, 0.242003, 0.053998, 0.004432]
    assert target[4:].tolist() == pytest.approx(expected, rel=2e-3)
    assert float(target.sum()) == pytest.approx(1)
    uniform = distribution_loss(torch.full((12,), 0.3), target)
    assert float(uniform) == pytest.approx(1.067125, abs=1e-5)
    # what the paper's code computes, by a target of sum 3.2605 and a mean over the blocks
    assert 3.260477 / 12 * (float(uniform) + math.log(3.260477)) == pytest.approx(0.611067, abs=1e-5)
    assert float(distribution_loss(2 * target, target)) == pytest.approx(0, abs=1e-5)


def test_a_gate_that_never_opens_leaves_the_plain_network() -> None:
    model, x = made(center=1e4), pictures(3)
    trace = model.trace(x)
    torch.testing.assert_close(model(x), model.network(x))
    assert (trace.depth == 5).all()
    assert torch.allclose(trace.ponder, torch.full_like(trace.ponder, 6.0))
    torch.testing.assert_close(model.logits(model.dropped(x).mean), model.network(x))


def test_a_gate_that_is_open_stops_after_the_first_block() -> None:
    model, x = made(center=-1e4), pictures(3)
    first = model.network.blocks[0](model.network.embed(x))
    torch.testing.assert_close(model(x), model.network.output(model.network.norm(first[:, :1].flatten(1))))
    assert (model.trace(x).depth == 1).all()
    assert model.dropped(x).live[:, 0].tolist() == [17, 0, 0, 0, 0]


@pytest.mark.parametrize("count", [1, 3, 64])
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("registers", [0, 2])
def test_dropping_tokens_equals_masking_them(count: int, seed: int, registers: int) -> None:
    """Pictures that leave at different blocks included; depths too, up to the picture's end."""
    model, x = spread(seed, registers), pictures(count)
    trace, dropped = model.trace(x), model.dropped(x)
    torch.testing.assert_close(dropped.mean, trace.mean, rtol=1e-9, atol=1e-10)
    assert torch.equal(dropped.depth, trace.depth.minimum(trace.depth[:, :1]))
    per_block = torch.stack([(dropped.depth >= block).sum(1) for block in range(1, 6)])
    assert torch.equal(dropped.live, per_block)
    if count == 64:
        assert len(trace.depth[:, 0].unique()) > 1
        assert len(dropped.live[2].unique()) > 2
    if registers:
        assert (trace.depth[:, 1 : 1 + registers] == 5).all()


@pytest.mark.parametrize("price", [0.0, 2e5, 1e6, 1e9])
def test_how_long_halted_tokens_are_kept_changes_nothing(
    price: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = spread(1, registers=1), pictures(40)
    monkeypatch.setitem(PACKING, "cpu", price)
    trace, dropped = model.trace(x), model.dropped(x)
    torch.testing.assert_close(dropped.mean, trace.mean, rtol=1e-9, atol=1e-10)
    assert torch.equal(dropped.depth, trace.depth.minimum(trace.depth[:, :1]))


def test_dropping_in_float32_agrees_to_rounding() -> None:
    model, x = spread(0).float(), pictures(64).float()
    assert torch.equal(model.trace(x).depth[:, 0], model.dropped(x).depth[:, 0])
    torch.testing.assert_close(model.dropped(x).mean, model.trace(x).mean, rtol=1e-4, atol=1e-5)


def test_a_class_token_that_outlives_all_patches_attends_to_itself() -> None:
    model, x = made(center=0.0, scale=1e6), pictures(4)
    with torch.no_grad():  # the class token's first coordinate far below, all others far above
        model.network.pos_embed[..., 0] = 100.0
        model.network.pos_embed[:, 0, 0] = -100.0
    dropped = model.dropped(x)
    assert dropped.live[:, 0].tolist() == [17, 1, 1, 1, 1]
    torch.testing.assert_close(dropped.mean, model.trace(x).mean, rtol=1e-9, atol=1e-10)


def test_a_halted_tokens_state_matters_to_nobody() -> None:
    model, x = made(center=0.5), pictures(8)
    expected, depth = model(x), model.trace(x).depth
    halted = depth[:, 1:] <= 2
    assert halted.any()

    def disturb(block: torch.nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        z = given[0].clone()
        z[:, 1:][halted] += 7.0
        return (z, *given[1:])

    handle = model.network.blocks[2].register_forward_pre_hook(disturb)
    torch.testing.assert_close(model(x), expected, rtol=1e-9, atol=1e-10)
    handle.remove()


def test_permuting_patches_with_their_places_permutes_depths_and_leaves_the_logits() -> None:
    model, x = made(), pictures(4)
    logits, depth = model(x), model.trace(x).depth
    order = torch.randperm(16)
    embed = model.network.embed
    model.network.embed = lambda x: torch.cat([embed(x)[:, :1], embed(x)[:, 1:][:, order]], 1)  # type: ignore[method-assign]
    torch.testing.assert_close(model(x), logits, rtol=1e-9, atol=1e-10)
    assert torch.equal(model.trace(x).depth[:, 1:], depth[:, 1:][:, order])


def test_scores_are_of_the_patches_that_reached_a_block() -> None:
    model, x = made(), pictures(5)
    trace = model.trace(x)
    z = model.network.embed(x)
    assert model.gate is not None
    first = model.gate(model.network.blocks[0](z)[:, 1:])
    torch.testing.assert_close(trace.scores[0], first.mean())
    stopped = made(center=-1e4).trace(x)
    assert stopped.scores[1:].tolist() == [0.0] * 4


def test_multiply_adds_of_deit_t() -> None:
    """12 (12 197 192^2 + 2 197^2 192) in the blocks, 0.03e9 in the embedding, and the head."""
    config = AVitModel(network=ViT())
    with torch.device("meta"):
        model = AdaptiveViT(config, (3, 224, 224), 1000)
    blocks = 12 * (12 * 197 * 192**2 + 2 * 197**2 * 192)
    assert blocks == pytest.approx(1.22e9, rel=0.01)
    found = operations(model, torch.full((12, 1), 197))
    assert float(found) == blocks + 196 * 16 * 16 * 3 * 192 + 192 * 1000
    assert sum(p.numel() for p in model.parameters()) == 5_717_416  # DeiT-T


def test_the_gate_is_placed_where_hardly_a_token_halts() -> None:
    model, x = made(), pictures(64)
    model.place_gate(x)
    assert model.gate is not None
    z, low = model.network.embed(x), []
    for block in model.network.blocks[:3]:
        z = block(z)
        low.append(model.gate(z) < 0.05)
    assert float(torch.stack(low).double().mean()) == pytest.approx(0.95, abs=0.01)


def test_scores_and_their_sums_stay_in_float32_under_half_precision() -> None:
    model, x = made().float(), pictures(4).float()
    with torch.autocast("cpu", torch.bfloat16):
        trace = model.trace(x)
    assert trace.ponder.dtype == trace.scores.dtype == torch.float32
    assert trace.mean.isfinite().all()
