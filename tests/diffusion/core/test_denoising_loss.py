"""The loss: closed forms at the start and at the optimum, multiplicity, per-sample gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from gentool.diffusion import config as c
from gentool.diffusion import denoiser as denoisers
from gentool.diffusion import loss as losses
from gentool.diffusion import loss_config as lc
from gentool.diffusion.loss import DiffusionLoss

PAIRS = [
    c.DiffusionConfig(process=c.EdmProcess(), precond=c.EdmPrecond(sigma_data=0.5)),
    c.DiffusionConfig(process=c.VpProcess()),
    c.DiffusionConfig(process=c.VeProcess()),
    c.DiffusionConfig(process=c.DdpmProcess()),
    c.DiffusionConfig(process=c.CosineProcess()),
    c.DiffusionConfig(process=c.TrigProcess()),
    c.DiffusionConfig(process=c.FlowProcess()),
    c.DiffusionConfig(process=c.EdmProcess(), precond=c.IddpmPrecond()),
    c.DiffusionConfig(process=c.EdmProcess(), precond=c.X0Precond(sigma_data=0.5)),
]


class Small(nn.Module):
    """A little network that uses all it is given; zero at the start when asked."""

    def __init__(self, dims: int = 4, factor: int = 1, zero: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.hidden, self.out = nn.Linear(dims + 1, 8), nn.Linear(8, factor * dims)
        if zero:
            nn.init.zeros_(self.out.weight)
            nn.init.zeros_(self.out.bias)

    def forward(
        self, x: Tensor, c_noise: Tensor, label: Tensor | None = None, augment: Tensor | None = None
    ) -> Tensor:
        told = c_noise / 1000 if label is None else c_noise / 1000 + label
        hidden = self.hidden(torch.cat([x, told.unsqueeze(1).to(x.dtype)], 1)).tanh()
        return self.out(hidden if augment is None else hidden + augment)


def build(config: c.DiffusionConfig, zero: bool = False) -> tuple[denoisers.Denoiser, DiffusionLoss]:
    denoiser = denoisers.build(config, lambda factor: Small(4, factor, zero))
    return denoiser, losses.build(config, denoiser)


def data(count: int, std: float) -> Tensor:
    return std * torch.randn(count, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def test_untrained_edm_on_gaussian_data_has_loss_one_per_dimension_at_every_sigma() -> None:
    denoiser, loss = build(PAIRS[0], zero=True)
    x0 = data(20_000, 0.5)
    for u in (0.01, 0.5, 0.99):
        noise = torch.randn(20_000, 1, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        values = loss(denoiser, x0, None, None, torch.full((20_000, 1), u, dtype=torch.float64), noise)
        # mean of 80 000 squares of N(0, 1): standard deviation sqrt(2/80 000)
        assert values.mean().item() == pytest.approx(1, abs=4 * (2 / 80_000) ** 0.5)


@pytest.mark.parametrize("variance", [0.04, 1.0])
def test_untrained_edm_on_other_data_has_the_closed_form(variance: float) -> None:
    denoiser, loss = build(PAIRS[0], zero=True)
    x0, sd = data(20_000, variance**0.5), 0.5
    draws = loss.draw(20_000, (4,), torch.Generator().manual_seed(2))
    sigma = loss.times(draws.u)
    expected = (sigma**2 * variance + sd**4) / (sd**2 * (sigma**2 + sd**2))  # dpdm.md 8
    found = loss(denoiser, x0, None, None, draws.u, draws.noise.double())
    assert found.mean().item() == pytest.approx(expected.mean().item(), rel=0.02)


@pytest.mark.parametrize("config", PAIRS[1:8], ids=lambda v: v.process.name)
def test_network_weight_makes_the_loss_the_squared_error_of_the_networks_target(
    config: c.DiffusionConfig,
) -> None:
    denoiser, loss = build(config, zero=True)
    x0 = data(64, 0.7)
    draws = loss.draw(64, (4,), torch.Generator().manual_seed(2))
    eps, sigma = draws.noise[:, 0].double(), loss.times(draws.u)
    v = (eps - sigma * x0) / (1 + sigma**2).sqrt()
    target = {"v": v, "flow": x0 - eps}.get(denoiser.precond.name, eps)
    found = loss(denoiser, x0, None, None, draws.u, eps.unsqueeze(1))
    torch.testing.assert_close(found, target.square().mean(1), rtol=1e-7, atol=0)


def test_weights_in_x0_space() -> None:
    precond = denoisers.build(PAIRS[0], lambda factor: Small()).precond
    s = torch.tensor([0.01, 0.3, 1.0, 40.0], dtype=torch.float64)
    sd = 0.5
    soft_f_space = (s * sd) ** 2 / (s**2 + sd**2) ** 2  # k-diffusion's, times 1/c_out^2
    table = [
        (lc.NetworkWeight(), (s**2 + sd**2) / (s * sd) ** 2),
        (lc.EdmWeight(sigma_data=sd), (s**2 + sd**2) / (s * sd) ** 2),
        (lc.X0Weight(), torch.ones_like(s)),
        (lc.EpsWeight(), 1 / s**2),
        (lc.VWeight(), (1 + s**2) / s**2),
        (lc.FlowWeight(), ((1 + s) / s) ** 2),
        (lc.MinSnrWeight(), torch.minimum(1 / s**2, torch.tensor(5.0))),
        (lc.SoftMinSnrWeight(sigma_data=sd), soft_f_space / precond(s).c_out ** 2),
    ]
    for config, expected in table:
        torch.testing.assert_close(losses.build_weight(config, precond)(s), expected, rtol=1e-12, atol=0)


def _per_sample(
    denoiser: nn.Module,
    loss: DiffusionLoss,
    x0: Tensor,
    label: Tensor,
    augment: Tensor,
    u: Tensor,
    noise: Tensor,
) -> dict[str, Tensor]:
    parameters = dict(denoiser.named_parameters())

    def one(p: dict[str, Tensor], x: Tensor, y: Tensor, a: Tensor, u: Tensor, n: Tensor) -> Tensor:
        def bound(*args: Tensor | None) -> Tensor:
            return functional_call(denoiser, p, args)  # type: ignore[no-any-return]

        return loss(bound, *(v.unsqueeze(0) for v in (x, y, a, u, n))).squeeze(0)

    return vmap(grad(one), in_dims=(None, 0, 0, 0, 0, 0))(parameters, x0, label, augment, u, noise)


@pytest.mark.parametrize("config", PAIRS, ids=lambda v: f"{v.process.name}-{v.chosen_precond.name}")
def test_per_sample_gradients_with_noise_multiplicity(config: c.DiffusionConfig) -> None:
    """vmap works for every pair, and a K-draw gradient is the mean of K single-draw gradients."""
    denoiser, loss = build(config)
    x0, label = data(3, 0.5).float(), torch.tensor([0, 1, 2])
    augment = torch.randn(3, 8, generator=torch.Generator().manual_seed(4))
    u, noise = loss.draw(3, (4,), torch.Generator().manual_seed(6), draws=4)
    many = _per_sample(denoiser, loss, x0, label, augment, u, noise)
    singles = [
        _per_sample(denoiser, loss, x0, label, augment, u[:, k : k + 1], noise[:, k : k + 1])
        for k in range(4)
    ]
    loss(denoiser, x0, label, augment, u, noise).sum().backward()
    for name, value in many.items():
        mean = torch.stack([s[name] for s in singles]).mean(0)
        torch.testing.assert_close(value, mean, rtol=1e-4, atol=1e-6 * value.abs().max().item())
        whole = denoiser.get_parameter(name).grad
        torch.testing.assert_close(value.sum(0), whole, rtol=1e-4, atol=1e-5 * value.abs().max().item())


def test_gradient_variance_falls_as_the_number_of_draws() -> None:
    denoiser, loss = build(PAIRS[0])
    x0, label, augment = data(1, 0.5).float(), torch.tensor([0]), torch.zeros(1, 8)

    def trace(draws: int) -> float:
        u, noise = loss.draw(4000, (4,), torch.Generator().manual_seed(7), draws=draws)
        grads = _per_sample(
            denoiser, loss, x0.expand(4000, -1), label.expand(4000), augment.expand(4000, -1), u, noise
        )
        return sum(g.flatten(1).var(0).sum().item() for g in grads.values())

    assert trace(1) / trace(8) == pytest.approx(8, rel=0.1)


def test_labels_are_shared_by_a_samples_draws_in_order() -> None:
    seen: list[tuple[Tensor, Tensor | None]] = []

    def spy(x: Tensor, sigma: Tensor, label: Tensor | None, augment: Tensor | None) -> Tensor:
        seen.append((x, label))
        return x

    loss = build(PAIRS[0])[1]
    x0 = torch.tensor([[1.0], [2.0]])
    loss(spy, x0, torch.tensor([7, 9]), None, torch.full((2, 3), 0.5), torch.zeros(2, 3, 1))
    x, label = seen[0]
    assert x.flatten().tolist() == [1, 1, 1, 2, 2, 2]
    assert label is not None
    assert label.tolist() == [7, 7, 7, 9, 9, 9]


def test_loss_of_the_exact_denoiser_is_the_floor_no_other_goes_below() -> None:
    """For N(0, v) data and weight 1 the floor is the posterior variance sigma^2 v/(sigma^2 + v)."""
    loss = build(PAIRS[0].model_copy(update={"loss": lc.LossConfig(weight=lc.X0Weight())}))[1]
    x0, v = data(40_000, 0.8), 0.64
    draws = loss.draw(40_000, (4,), torch.Generator().manual_seed(2))
    sigma = loss.times(draws.u)

    def value(scale: float) -> float:
        def scaled(x: Tensor, s: Tensor, label: Tensor | None, augment: Tensor | None) -> Tensor:
            return scale * x * (v / (v + s**2)).unsqueeze(1)

        return loss(scaled, x0, None, None, draws.u, draws.noise).mean().item()

    assert value(1.0) == pytest.approx((sigma**2 * v / (sigma**2 + v)).mean().item(), rel=0.02)
    assert value(1.0) < min(value(0.97), value(1.03))


def test_zero_draws_of_an_empty_batch_are_an_empty_loss() -> None:
    denoiser, loss = build(PAIRS[0])
    u, noise = loss.draw(0, (4,), torch.Generator(), draws=2)
    assert loss(denoiser, torch.zeros(0, 4), None, None, u, noise).shape == (0,)
