"""The purifier against closed forms: Gaussian data, whose score, maps and derivatives are all known."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from gentool.diffusion.config import CosineProcess, DdpmProcess, EdmProcess, FlowProcess, VeProcess, VpProcess
from gentool.diffusion.gradients.rollout import Replay
from gentool.diffusion.mixture import GaussianMixture
from gentool.diffusion.process import Process
from gentool.diffusion.processes import build
from gentool.diffusion.purify import LANGEVIN_SIGMA, SIGMA_STAR, Langevin, Purifier
from gentool.errors import UserError

VP = build(VpProcess())
S2 = 0.25
METHODS = ("sde", "ode", "ancestral", "ld-sde")


def gaussian(mean: float = 0.0, std: float = 0.5, dims: int = 1) -> GaussianMixture:
    return GaussianMixture([[mean] * dims], [std])


def jacobian(purifier: Purifier) -> float:
    x = torch.tensor([[0.3]], dtype=torch.float64)
    return float(purifier.vjp(x, [0], 0, 0, torch.ones_like)[1])


def test_the_levels_are_those_of_the_paper() -> None:
    t = torch.tensor([0.1, 0.01], dtype=torch.float64)
    assert torch.allclose(
        VP.sigma(t), torch.tensor([SIGMA_STAR, LANGEVIN_SIGMA], dtype=torch.float64), rtol=1e-13
    )
    alpha2 = VP.alpha(torch.tensor([0.075, 0.1, 0.125, 0.15], dtype=torch.float64)) ** 2
    published = torch.tensor([0.938503, 0.896282, 0.845380, 0.787513], dtype=torch.float64)
    assert torch.allclose(alpha2, published, atol=5e-7)


@pytest.mark.parametrize("replay", [None, Replay("all"), Replay("sqrt"), Replay("log")])
@pytest.mark.parametrize(
    ("method", "steps", "published"),
    [
        ("sde", 10, 0.662171),
        ("sde", 20, 0.672889),
        ("sde", 100, 0.681447),
        ("ode", 10, 0.817753),
        ("ode", 20, 0.822247),
        ("ode", 100, 0.825879),
    ],
)
def test_the_derivative_is_the_product_of_euler_steps(
    method: Any, steps: int, published: float, replay: Replay | None
) -> None:
    check_product(method, steps, published, replay)


@pytest.mark.parametrize(("method", "published"), [("sde", 0.683371), ("ode", 0.826701)])
def test_so_it_is_over_a_thousand_steps(method: Any, published: float) -> None:
    check_product(method, 1000, published, Replay("sqrt"))


def check_product(method: Any, steps: int, published: float, replay: Replay | None) -> None:
    """sqrt(alpha_bar(t*)) prod (1 + h (beta_i/2 - c beta_i/v_i)) with v = alpha_bar s^2 + 1 - alpha_bar."""
    found = jacobian(Purifier(gaussian().denoise, VP, method, steps=steps, replay=replay))
    t = torch.linspace(0.1, 1e-5, steps + 1, dtype=torch.float64)[:-1]
    bar, beta, h = VP.alpha(t) ** 2, 0.1 + 19.9 * t, (0.1 - 1e-5) / steps
    v = bar * S2 + 1 - bar
    share = 1.0 if method == "sde" else 0.5
    expected = VP.alpha(t[0]) * torch.prod(1 + h * (beta / 2 - share * beta / v))
    assert found == pytest.approx(float(expected), rel=1e-12)
    assert found == pytest.approx(published, abs=6e-7)


def spread(purifier: Purifier, x: float) -> tuple[float, float]:
    """Mean and variance over 4000 independent values, in pictures of 100."""
    with torch.no_grad():
        out = purifier(torch.full((40, 100), x, dtype=torch.float64), range(40), 0)
    return float(out.mean()), float(out.var())


def test_moments_of_the_sde_and_the_ode() -> None:
    """The SDE shrinks what the attacker added by g, the ODE by sqrt(g) alone: the reason for their ranking."""
    mu, x, g = 0.2, 0.9, 0.683583
    law = gaussian(mu, dims=100).denoise
    for method, pull, variance in (("sde", g, 0.13318), ("ode", math.sqrt(g), 0.07910)):
        mean, found = spread(Purifier(law, VP, method, steps=200), x)  # type: ignore[arg-type]
        assert mean == pytest.approx(mu + pull * (x - mu), abs=4 * math.sqrt(variance / 4000) + 1e-3)
        assert found == pytest.approx(variance, rel=0.1)


def test_langevin_rests_where_it_should() -> None:
    """A score of variance s^2 = 0.25: mean x_a 0.996016, variance 0.0249004 at the defaults."""
    alpha2 = float(VP.alpha(torch.tensor(0.01, dtype=torch.float64)) ** 2)
    std = math.sqrt((S2 - (1 - alpha2)) / alpha2)  # so that the noisy marginal's variance is 0.25
    purifier = Purifier(
        gaussian(std=std, dims=100).denoise, VP, "ld-sde", steps=200, langevin=Langevin(time=2.0)
    )
    mean, variance = spread(purifier, 0.8)
    assert mean == pytest.approx(0.8 * 0.996016, abs=4 * math.sqrt(0.0249 / 4000))
    assert variance == pytest.approx(0.0249004, rel=0.1)


def test_langevin_derivative_is_its_recursion() -> None:
    h, rate = 0.01, 0.5e-2
    alpha2 = float(VP.alpha(torch.tensor(0.01, dtype=torch.float64)) ** 2)
    v = alpha2 * S2 + 1 - alpha2
    expected = 1.0
    for _ in range(10):
        expected = expected * (1 - h * rate * (1 / v + 1e3)) + h * rate * 1e3
    assert jacobian(Purifier(gaussian().denoise, VP, "ld-sde", steps=10)) == pytest.approx(
        expected, rel=1e-10
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "config", [VpProcess(), VeProcess(), EdmProcess(), CosineProcess(), DdpmProcess(), FlowProcess()]
)
def test_replay_is_plain_back_propagation_for_every_method_and_process(method: Any, config: Any) -> None:
    law, x = GaussianMixture.triad().denoise, torch.tensor([[0.2, -0.4], [0.9, 0.1]], dtype=torch.float64)
    found = []
    for replay in (Replay("sqrt"), None):
        purifier = Purifier(law, build(config), method, steps=7, rounds=2, replay=replay)
        found.append(purifier.vjp(x, [3, 4], 1, 2, lambda y: y.cos()))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.allclose(found[0][1], found[1][1], rtol=1e-12, atol=1e-14)
    assert float(found[0][1].abs().min()) > 0


@pytest.mark.parametrize("config", [VeProcess(), EdmProcess(), CosineProcess(), FlowProcess()])
def test_the_same_level_forgets_as_much_in_every_process(config: Any) -> None:
    """The derivative tends to s^2/(s^2 + sigma*^2), in the canonical state the law of every process."""
    found = jacobian(Purifier(gaussian().denoise, build(config), "sde", steps=300))
    assert found == pytest.approx(S2 / (S2 + SIGMA_STAR**2), rel=1e-2)


def test_ancestral_steps_shrink_like_the_sde() -> None:
    found = jacobian(Purifier(gaussian().denoise, VP, "ancestral", steps=300))
    assert found == pytest.approx(0.683583, rel=5e-3)


def test_noise_too_small_to_matter_returns_the_picture() -> None:
    x = torch.tensor([[0.4]], dtype=torch.float64)
    sigma = 2 * VP.train_sigma_min
    out = Purifier(gaussian().denoise, VP, sigma_star=sigma, steps=5)(x, [0], 0)
    assert float((out - x).abs()) < 6 * sigma


def test_noise_as_large_as_it_gets_forgets_the_picture() -> None:
    assert abs(jacobian(Purifier(gaussian().denoise, VP, sigma_star=VP.sigma_max, steps=200))) < 1e-3


@pytest.mark.parametrize("method", METHODS)
def test_a_picture_does_not_know_its_batch(method: Any) -> None:
    """Bit for bit, its gradient included; seeds, indices and draws each change it."""
    purifier = Purifier(lambda x, sigma, label: 0.7 * x.tanh(), VP, method, steps=6)
    x = torch.linspace(-1, 1, 12, dtype=torch.float64).view(4, 3)

    def of(rows: list[int], seed: int = 0, draw: int | list[int] = 0) -> tuple[Tensor, Tensor]:
        return purifier.vjp(x[rows], [10 + r for r in rows], seed, draw, lambda y: y**2)

    whole = of([0, 1, 2, 3])
    for rows in ([2], [3, 1]):
        assert all(torch.equal(part, full[rows]) for part, full in zip(of(rows), whole))
    copies = purifier(x[[1, 1, 1]], [11, 11, 11], 0, draw=[0, 1, 2])
    assert torch.equal(copies[0], whole[0][1])
    assert torch.equal(copies[2:], of([1], draw=2)[0])
    assert len({tuple(row.tolist()) for row in (*copies, of([1], seed=1)[0][0])}) == 4


def test_a_conditional_model_is_told_its_label() -> None:
    seen: list[Tensor | None] = []

    def denoise(x: Tensor, sigma: Tensor, label: Tensor | None) -> Tensor:
        seen.append(label)
        return 0.5 * x

    Purifier(denoise, VP, steps=2, label=10)(torch.zeros(3, 2), [0, 1, 2], 0)
    assert [None if s is None else s.tolist() for s in seen] == [[10] * 3] * 2


def test_levels_stay_in_the_range_the_network_knows() -> None:
    seen: list[float] = []

    def denoise(x: Tensor, sigma: Tensor, label: Tensor | None) -> Tensor:
        seen.extend(sigma.tolist())
        return 0.5 * x

    for config in (VpProcess(), DdpmProcess()):
        process: Process = build(config)
        seen.clear()
        Purifier(denoise, process, "ancestral", steps=300)(torch.zeros(1, 2, dtype=torch.float64), [0], 0)
        assert min(seen) >= process.train_sigma_min


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"sigma_star": 1000.0}, "range of the process vp"),
        ({"sigma_star": 0.0}, "noise level sigma"),
        ({"steps": 0}, "at least 1"),
        ({"rounds": 0}, "at least 1"),
    ],
)
def test_what_cannot_be_is_refused(how: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        Purifier(gaussian().denoise, VP, **how)


def test_a_network_in_training_mode_is_refused() -> None:
    with pytest.raises(UserError, match="eval"):
        Purifier(torch.nn.Linear(2, 2), VP)


def test_rows_must_have_a_number_each() -> None:
    purifier = Purifier(gaussian().denoise, VP, steps=1)
    with pytest.raises(ValueError, match="2 indices"):
        purifier(torch.zeros(3, 1), [0, 1], 0)
    with pytest.raises(ValueError, match="grad_fn gave"):
        purifier.vjp(torch.zeros(3, 1), [0, 1, 2], 0, 0, lambda y: y.sum())
