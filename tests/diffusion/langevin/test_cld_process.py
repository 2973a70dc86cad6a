"""The transition of Langevin diffusion: against a matrix exponential, 50-digit arithmetic, and its own laws."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import torch
from torch import Tensor

from gentool.diffusion.grids import make_grid
from gentool.diffusion.langevin.config import LangevinProcess
from gentool.diffusion.langevin.process import Langevin, covariance, tail

PURE = Langevin(LangevinProcess(numerical_eps=0.0))
CASES = [
    LangevinProcess(),
    LangevinProcess(m_inv=1.0, gamma=1.0, numerical_eps=1e-6),
    LangevinProcess(beta0=0.1, beta1=6.9, numerical_eps=0.0),
    LangevinProcess(beta0=0.0, beta1=9.0, m_inv=2.5),
    LangevinProcess(gamma=0.0),
]


def times(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("m_inv", [1.0, 2.5, 4.0])
@pytest.mark.parametrize("whole", [0.01, 0.3, 4.0])
def test_moments_are_those_of_the_sde_in_its_own_variables(m_inv: float, whole: float) -> None:
    """Van Loan's matrix exponential, in 40 digits, of dx = v/M dB, dv = -(x + Gamma v/M) dB + sqrt(2 Gamma) dW_B."""
    process = Langevin(LangevinProcess(m_inv=m_inv, beta0=whole, numerical_eps=0.0, gamma=0.04))
    mass, damping = 1 / m_inv, 2 / math.sqrt(m_inv)
    drift = np.array([[0, m_inv], [-1, -damping * m_inv]])
    block = np.zeros((4, 4))
    block[:2, :2], block[2:, 2:] = -drift, drift.T
    block[1, 3] = 2 * damping
    with mpmath.workdps(40):
        found = np.array(mpmath.expm(mpmath.matrix(block * whole)).tolist(), dtype=np.float64)
    flow = found[2:, 2:].T
    spread = flow @ found[:2, 2:] + flow @ np.diag([0, 0.04 * mass]) @ flow.T
    keep, fed, turn, last = (float(c) for c in process.mean(times(1.0)[0]))
    root = math.sqrt(mass)
    np.testing.assert_allclose([[keep, fed / root], [turn * root, last]], flow, atol=1e-12)
    sigma = process.transition(times(1.0)[0])
    np.testing.assert_allclose(
        [[float(sigma.xx), float(sigma.xw) * root], [float(sigma.xw) * root, float(sigma.ww) * mass]],
        spread,
        atol=1e-12,
    )


@pytest.mark.parametrize("start", [0.0, 0.04, 1.0])
def test_moments_keep_their_digits_however_small_the_time(start: float) -> None:
    """The invariance formula I - Phi (I - diag(0, c)) Phi^T in 60 digits, where float64 would return noise."""
    with mpmath.workdps(60):
        for s in (1e-8, 1e-5, 8e-5, 1e-3, 0.1, 0.49999, 0.5, 0.51, 1.7, 8.0, 40.0):
            z, c = mpmath.mpf(s), mpmath.mpf(start)
            flow = mpmath.exp(-z) * mpmath.matrix([[1 + z, z], [-z, 1 - z]])
            exact = mpmath.eye(2) - flow * mpmath.diag([1, 1 - c]) * flow.T
            det = exact[0, 0] * exact[1, 1] - exact[0, 1] ** 2
            found = covariance(times(s)[0], start)
            for ours, theirs in zip(found, (exact[0, 0], exact[0, 1], exact[1, 1], det)):
                assert abs(float(ours) / theirs - 1) < 3e-15


def test_the_tail_of_the_exponential() -> None:
    with mpmath.workdps(60):
        for y in (0.0, 1e-9, 1e-3, 0.3, 0.999999, 1.0, 2.0, 30.0):
            z = mpmath.mpf(y)
            exact = mpmath.exp(z) - 1 - z - z**2 / 2
            assert abs(float(tail(times(y)[0])) - exact) <= 3e-15 * exact


def test_moments_add_up_over_intervals() -> None:
    a, b = times(0.2, 1.3, 0.01), times(0.7, 0.05, 0.01)

    def flow(s: Tensor) -> Tensor:
        rows = [torch.stack([1 + s, s], -1), torch.stack([-s, 1 - s], -1)]
        return torch.exp(-s)[:, None, None] * torch.stack(rows, -2)

    def spread(s: Tensor, start: float) -> Tensor:
        c = covariance(s, start)
        return torch.stack([torch.stack([c.xx, c.xw], -1), torch.stack([c.xw, c.ww], -1)], -2)

    torch.testing.assert_close(flow(a) @ flow(b), flow(a + b), rtol=1e-12, atol=1e-14)
    moved = flow(b) @ spread(a, 0.04) @ flow(b).mT + spread(b, 0.0)
    torch.testing.assert_close(moved, spread(a + b, 0.04), rtol=1e-12, atol=1e-14)


def test_the_published_process_at_known_times() -> None:
    """Values of M = 1/4, beta = 4, gamma = 0.04 without numerical_eps, computed independently."""
    golden = {
        1e-5: (2.5664162803e-10, 1.6060150170e-06, 1.0076787649e-02, 193.7174543140),
        1e-3: (3.1938928026e-06, 2.1918483672e-04, 1.7557629863e-02, 19.9370986342),
        0.01: (8.2391311040e-04, 6.7080759067e-03, 7.5535489222e-02, 6.9138102517),
        0.1: (2.2181006104e-01, 1.2985984037e-01, 2.1575835055e-01, 2.6751814495),
        0.25: (7.6482719667e-01, 7.2529929999e-02, 2.2728860778e-01, 2.1300210467),
        1.0: (9.9998397e-01, 7.0762118e-06, 2.4999688e-01, 2.0000124962),
    }
    for t, expected in golden.items():
        found = PURE.transition(times(t)[0])
        ell = float((found.xx / found.det).sqrt()) / 0.5
        ours = (float(found.xx), float(found.xw) * 0.5, float(found.ww) * 0.25, ell)
        np.testing.assert_allclose(ours, expected, rtol=1e-7)


@pytest.mark.parametrize(
    ("eps", "known", "t", "ell"),
    [
        (0.0, True, 1e-5, 223.611270),
        (0.0, True, 1e-3, 22.405404),
        (0.0, True, 0.01, 7.212582),
        (0.0, True, 1.0, 2.000013),
        (1e-9, False, 1e-5, 11.163421),
        (1e-9, False, 1e-6, 10.009),
        (1e-9, False, 1e-3, 19.918466),
        (1e-9, True, 1e-5, 111.8),
        (1e-9, True, 1e-6, 353.5),
    ],
)
def test_the_size_of_the_score_near_data(eps: float, known: bool, t: float, ell: float) -> None:
    """Hybrid score matching bounds it by 1/sqrt(gamma M) = 10 only because of numerical_eps; the other is unbounded."""
    found = Langevin(LangevinProcess(numerical_eps=eps)).transition(times(t)[0], velocity_known=known)
    assert float((found.xx / found.det).sqrt()) / 0.5 == pytest.approx(ell, rel=1e-3)


@pytest.mark.parametrize("config", CASES)
def test_noise_level_and_time_are_each_others_inverses(config: LangevinProcess) -> None:
    process = Langevin(config)
    t = torch.logspace(-8, 0, 500, dtype=torch.float64)
    sigma = process.sigma(t)
    assert (sigma.diff() > 0).all()
    torch.testing.assert_close(process.t_of_sigma(sigma), t, rtol=1e-12, atol=0.0)
    torch.testing.assert_close(process.t_of_s(process.s(t)), t, rtol=1e-12, atol=0.0)


@pytest.mark.parametrize("config", CASES)
def test_derivatives_are_derivatives(config: LangevinProcess) -> None:
    process, t = Langevin(config), times(0.02, 0.3, 0.9).requires_grad_()
    for function, slope in (
        (process.s, process.rate),
        (process.sigma, process.dsigma),
        (lambda t: process.alpha(t).log(), process.dlog_alpha),
    ):
        (exact,) = torch.autograd.grad(function(t).sum(), t)
        torch.testing.assert_close(slope(t), exact, rtol=1e-9, atol=1e-12)


def test_the_score_of_a_point_mass_is_the_kernels() -> None:
    """grad_w log N(u; Phi (x0, 0), Sigma) by autograd, numerical_eps included."""
    process, t = Langevin(), times(0.001, 0.05, 0.6)
    generator = torch.Generator().manual_seed(0)
    x0, x, w = (torch.randn(3, dtype=torch.float64, generator=generator) for _ in range(3))
    w.requires_grad_()
    sigma, (keep, _, turn, _) = process.transition(t), process.mean(t)
    matrix = torch.stack([torch.stack([sigma.xx, sigma.xw], -1), torch.stack([sigma.xw, sigma.ww], -1)], -2)
    at = torch.stack([keep * x0, turn * x0], -1)
    log = torch.distributions.MultivariateNormal(at, matrix).log_prob(torch.stack([x, w], -1))
    (exact,) = torch.autograd.grad(log.sum(), w)
    on_x, on_w, on_x0 = process.score(t)
    torch.testing.assert_close(on_x * x + on_w * w + on_x0 * x0, exact, rtol=1e-6, atol=1e-9)


def test_the_quadratic_grid_is_the_papers() -> None:
    grid = make_grid("quadratic-t", 11, PURE, final="zero")
    k = torch.arange(11, dtype=torch.float64)
    generation = (1 - 1e-3) * (1 - ((10 - k) / 10) ** 2)
    torch.testing.assert_close(grid.t[:-1], 1 - generation, rtol=1e-9, atol=1e-12)
    assert grid.t[-1] == 0


def test_states_are_data_and_velocity_from_the_equilibrium() -> None:
    process = Langevin()
    assert process.state_shape((3, 8, 8)) == (2, 3, 8, 8)
    state = torch.randn(4, 2, 3)
    assert torch.equal(process.data_part(state), state[:, 0])
    assert process.prior_scale(process.sigma_max) == process.prior_scale(process.sigma_min) == 1
    assert process.mismatch == pytest.approx(0.00302, rel=1e-2)  # e^-8 (1 + 8)
