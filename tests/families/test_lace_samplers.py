"""LACE's samplers against closed forms: linear and logistic energies, the exact posterior, the prior itself."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from gentool.diffusion.solvers.adaptive import Rk45
from gentool.errors import UserError
from gentool.families.lace.samplers import Settings, langevin, length, ode, predictor_corrector, rejection
from gentool.noise import Noise

WIDE = Settings(t_end=0)


def noise(count: int, dim: int, first: int = 0) -> Noise:
    return Noise(0, range(first, first + count), (dim,), dtype=torch.float64)


def start(count: int, dim: int) -> Tensor:
    return noise(count, dim).normal("prior")


def constant(z: Tensor) -> Tensor:
    return z.new_zeros(len(z))


def test_the_length_of_the_climb() -> None:
    assert length(0) == pytest.approx(5.025, abs=1e-12)
    assert length(1e-3) == pytest.approx(5.02494502, abs=1e-8)


@pytest.mark.parametrize(("norm", "sigma"), [(1.0, 1.0), (0.5, 1.0), (1.0, 2.0)])
def test_a_linear_regressor_decays_exponentially(norm: float, sigma: float) -> None:
    """r_end = r_0 exp(-5.025 |a|^2 / sigma^2), and what is orthogonal to a does not move."""
    z = start(20, 3)
    found = ode(lambda z: -(norm * z[:, 0] - 0.7).square() / (2 * sigma**2), z, noise(20, 3), WIDE)
    factor = math.exp(-5.025 * norm**2 / sigma**2)
    if norm == sigma == 1:
        assert factor == pytest.approx(0.0065715865, abs=1e-9)
    torch.testing.assert_close(norm * found.z[:, 0] - 0.7, (norm * z[:, 0] - 0.7) * factor, rtol=0, atol=5e-3)
    assert torch.equal(found.z[:, 1:], z[:, 1:])
    assert not found.failed.any()


def test_a_logistic_classifier_ends_where_its_closed_form_says() -> None:
    """u + e^u grows by 5.025; at the published tolerance of 1e-3 the one from -3 is still 0.09 off."""
    z = torch.tensor([[-3.0], [0.0], [2.0]], dtype=torch.float64)
    found = ode(
        lambda z: torch.nn.functional.logsigmoid(z[:, 0]), z, noise(3, 1), replace(WIDE, rtol=1e-4, atol=1e-4)
    )
    expected = torch.tensor([0.4718423726, 1.5078755973, 2.4794428541], dtype=torch.float64)
    torch.testing.assert_close(found.z[:, 0], expected, rtol=0, atol=5e-3)


def test_tighter_tolerance_comes_closer_at_more_gradients() -> None:
    z, end = start(10, 1), 1.5078755973

    def log_prob(z: Tensor) -> Tensor:
        return torch.nn.functional.logsigmoid(z[:, 0])

    loose, tight = (ode(log_prob, 0 * z, noise(10, 1), replace(WIDE, rtol=e, atol=e)) for e in (1e-2, 1e-6))
    assert (tight.z - end).abs().max() < 1e-5
    assert (tight.z - end).abs().max() < (loose.z - end).abs().max()
    assert tight.nfe > loose.nfe


def test_without_an_energy_the_ode_stands_still_and_langevin_keeps_the_priors_law() -> None:
    """Its discretisation's own law has variance 1/(1 - rate/2): it starts there, and stays."""
    z = start(300, 32)
    assert torch.equal(ode(constant, z, noise(300, 32), Settings()).z, z)
    variance = 1 / (1 - 1e-2 / 2)
    found = langevin(constant, z * math.sqrt(variance), noise(300, 32), Settings(temperature=1))
    error = math.sqrt(2 / (300 * 32)) * variance
    assert float(found.z.square().mean()) == pytest.approx(variance, abs=3 * error)
    cold = langevin(constant, z, noise(300, 32), Settings())  # the published noise: the norm falls as e^-1
    assert float(cold.z.norm(dim=1).mean() / z.norm(dim=1).mean()) == pytest.approx(math.exp(-1), abs=0.02)


@pytest.mark.parametrize(("stale", "ends"), [(False, 1.027), (True, 1.055)])
def test_the_predictor_corrector_nearly_keeps_the_prior(stale: bool, ends: float) -> None:
    """Its own discretisation makes |z|^2/d 1.027 with fresh scores, 1.055 with the published code's."""
    z = start(60, 64)
    found = predictor_corrector(constant, z, noise(60, 64), Settings(stale_score=stale))
    assert float(found.z.square().mean()) == pytest.approx(ends, abs=3 * math.sqrt(2 / (60 * 64)) + 0.01)
    assert found.nfe == (1000 if stale else 3000)


def test_langevin_and_rejection_sample_the_posterior_and_the_ode_its_mode() -> None:
    """u ~ N(0, 1), E = (u - y)^2/2: the posterior is N(y/2, 1/2); the ODE goes to y."""
    y, count = 1.0, 2000

    def log_prob(z: Tensor) -> Tensor:
        return -(z[:, 0] - y).square() / 2

    z = start(count, 1)
    exact = rejection(lambda z, rows: log_prob(z), z, noise(count, 1), 0.0)
    slow = langevin(log_prob, z, noise(count, 1), Settings(temperature=1, rate=0.02, steps=200))
    for found in (exact, slow):
        u = found.z[:, 0]
        assert float(u.mean()) == pytest.approx(y / 2, abs=3 * math.sqrt(0.5 / count))
        assert float(u.var()) == pytest.approx(0.5, abs=3 * 0.5 * math.sqrt(2 / count) + 0.006)
    # proposals needed: 1 / E exp(-(u - 1)^2/2) = sqrt(2) exp(1/4)
    assert exact.nfe == pytest.approx(math.sqrt(2) * math.exp(0.25), rel=0.1)
    assert float(ode(log_prob, z, noise(count, 1), Settings()).z.var()) < 1e-3


def bent(z: Tensor) -> Tensor:
    return -(z[:, 0] + z[:, 1].sin() - 1).square() - (z[:, 1] - 0.3).square()


@pytest.mark.parametrize("name", ["ode", "langevin", "pc", "rejection"])
def test_a_latent_does_not_depend_on_its_batch(name: str) -> None:
    z, few = start(8, 2), replace(Settings(), pc_steps=100)
    run = {"ode": ode, "langevin": langevin, "pc": predictor_corrector}

    def found(rows: slice) -> Tensor:
        n = noise(8, 2) if rows == slice(None) else noise(3, 2, first=rows.start)
        if name == "rejection":
            return rejection(lambda z, rows: bent(z), z[rows], n, 0.0).z
        return run[name](bent, z[rows], n, few).z

    torch.testing.assert_close(found(slice(5, 8)), found(slice(None))[5:8], rtol=1e-9, atol=1e-9)


def test_one_bad_latent_is_given_up_and_the_others_are_not() -> None:
    z = start(6, 2)
    z[2] = 40.0

    def log_prob(z: Tensor) -> Tensor:
        return torch.where(z[:, 0] > 30, torch.nan, bent(z))

    for run in (ode, langevin):
        found = run(log_prob, z, noise(6, 2), Settings())
        assert found.failed.tolist() == [False, False, True, False, False, False]
        kept = [0, 1, 3, 4, 5]
        alone = run(bent, z[kept], Noise(0, kept, (2,), dtype=torch.float64), Settings())
        torch.testing.assert_close(found.z[kept], alone.z, rtol=1e-9, atol=1e-9)
        assert found.z[2].isnan().all()


def test_the_integrator_gives_up_a_sample_that_blows_up() -> None:
    """x' = x^2 from 2 has no value beyond 1/2; from -1 it is -1/(1 + t)."""
    x = torch.tensor([[-1.0], [2.0]], dtype=torch.float64)
    found = Rk45(atol=1e-8, rtol=1e-8).solve(x, 0.0, 1.0, lambda x, t: x.square(), smallest=1e-6)
    assert float(found[0]) == pytest.approx(-0.5, abs=1e-6)
    assert found[1].isnan().all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rtol": 0.0}, "rtol: must be above 0"),
        ({"atol": -1.0}, "atol"),
        ({"steps": 0}, "steps"),
        ({"t_end": 1.0}, "t_end: must be in"),
        ({"temperature": -1.0}, "temperature"),
        ({"snr": 0.0}, "snr"),
    ],
)
def test_settings_out_of_range(change: dict[str, float], words: str) -> None:
    with pytest.raises(UserError, match=words):
        Settings(**change)  # type: ignore[arg-type]
