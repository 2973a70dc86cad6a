"""d eps/d sigma along the flow: closed forms, both ways of taking it, and the head's parameterisation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from gentool.diffusion import processes
from gentool.diffusion.config import VpProcess
from gentool.diffusion.derivative import along_flow, find_mode, mixed
from gentool.diffusion.mixture import GaussianMixture

TRIAD = GaussianMixture.triad()
VP = processes.build(VpProcess())


def eps(x: Tensor, sigma: Tensor) -> Tensor:
    return (x - TRIAD.denoise(x, sigma)) / sigma[:, None]


def points(count: int = 32) -> tuple[Tensor, Tensor]:
    """States that the forward process reaches, from little noise to much."""
    generator = torch.Generator().manual_seed(0)
    sigma = torch.logspace(-2, 2, count, dtype=torch.float64)
    noise = torch.randn(count, 2, generator=generator, dtype=torch.float64)
    return TRIAD.sample(count, generator) + sigma[:, None] * noise, sigma


def exact(x: Tensor, sigma: Tensor) -> Tensor:
    return along_flow(eps, x, sigma, eps(x, sigma))[1]


def test_at_a_point_of_the_mixture() -> None:
    """x_t = (0.3, -0.2) at t = 0.37 of the variance-preserving process."""
    sigma = VP.sigma(torch.tensor([0.37], dtype=torch.float64))
    x = torch.tensor([[0.3, -0.2]], dtype=torch.float64) * (1 + sigma**2).sqrt()
    assert float(sigma) == pytest.approx(1.7469329610, abs=1e-10)
    assert eps(x, sigma)[0].tolist() == pytest.approx([0.2057296395, -0.3451124421], abs=1e-10)
    assert exact(x, sigma)[0].tolist() == pytest.approx([0.0428609049, -0.0020169442], abs=1e-10)


@pytest.mark.parametrize("std", [0.25, 1.0])
def test_of_a_gaussian(std: float) -> None:
    """eps = sigma x/(s^2 + sigma^2), its derivative s^2 eps/(sigma (s^2 + sigma^2)); 0 for a point mass."""
    x, sigma = points()
    for s in (std, 0.0):

        def linear(x: Tensor, sigma: Tensor, s: float = s) -> Tensor:
            return (sigma / (s**2 + sigma**2))[:, None] * x

        value = linear(x, sigma)
        want = value * (s**2 / (sigma * (s**2 + sigma**2)))[:, None]
        found = along_flow(linear, x, sigma, value)
        torch.testing.assert_close(found[0], value, rtol=1e-14, atol=0)
        torch.testing.assert_close(found[1], want, rtol=1e-11, atol=1e-12)


def test_it_is_the_change_of_eps_along_the_flow() -> None:
    x, sigma = points()
    h = 1e-5 * sigma
    ends = []
    for sign in (-1, 1):  # the midpoint rule: its error is of third order in h
        half = x + sign * (h / 2)[:, None] * eps(x, sigma)
        ends.append(eps(x + sign * h[:, None] * eps(half, sigma + sign * h / 2), sigma + sign * h))
    found = exact(x, sigma) * sigma[:, None]
    torch.testing.assert_close((ends[1] - ends[0]) / (2e-5), found, rtol=1e-5, atol=1e-6)


def test_it_is_the_papers_sum_of_three_terms() -> None:
    """J_x eps (eps/sqrt(1 + g^2) - x g/(1 + g^2)) + d eps/dt dt/dg, in the original variable and its time."""
    x, sigma = points()
    root = (1 + sigma**2).sqrt()

    def original(x_t: Tensor, t: Tensor) -> Tensor:
        g = VP.sigma(t)
        return eps(x_t * (1 + g**2).sqrt()[:, None], g)

    x_t, t = x / root[:, None], VP.t_of_sigma(sigma)
    value = original(x_t, t)
    slope_t = 2 * sigma / ((sigma**2 + 1) * (0.1 + 19.9 * t))
    torch.testing.assert_close(slope_t, 1 / VP.dsigma(t), rtol=1e-11, atol=0)
    slope_x = value / root[:, None] - x_t * (sigma / root**2)[:, None]
    space = torch.func.jvp(lambda y: original(y, t), (x_t,), (slope_x,))[1]
    time = torch.func.jvp(lambda u: original(x_t, u), (t,), (slope_t,))[1]
    torch.testing.assert_close(space + time, exact(x, sigma), rtol=1e-9, atol=1e-10)


def test_two_reverse_passes_give_the_forward_derivative() -> None:
    x, sigma = points()
    both = [along_flow(eps, x, sigma, eps(x, sigma), mode) for mode in ("forward", "double-backward")]
    for forward, backward in zip(*both):
        torch.testing.assert_close(forward, backward, rtol=1e-11, atol=1e-13)


class Kernel(torch.autograd.Function):
    """A square whose author wrote a backward pass, and no forward derivative."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x * x

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return 2 * grad * ctx.saved_tensors[0]


def test_a_network_without_a_forward_derivative_is_found_out() -> None:
    x, sigma = points()

    def odd(x: Tensor, sigma: Tensor) -> Tensor:
        out: Tensor = Kernel.apply(x)
        return out + sigma[:, None]

    assert find_mode(eps, x, sigma) == "forward"
    assert find_mode(odd, x, sigma) == "double-backward"
    value = odd(x, sigma)
    _, slope = along_flow(odd, x, sigma, value, "double-backward")
    torch.testing.assert_close(slope, 2 * x * value + 1)


def test_other_failures_are_not_taken_for_a_missing_derivative() -> None:
    x, sigma = points()

    def broken(x: Tensor, sigma: Tensor) -> Tensor:
        return x @ x

    with pytest.raises(RuntimeError, match="shape"):
        find_mode(broken, x, sigma)


def test_each_term_of_the_mixture_is_what_it_stands_for() -> None:
    """Standard normal data: k3 = eps alone; the products of a point mass: eps/gamma and x_t-shaped."""
    x, sigma = points()
    value = (sigma / (1 + sigma**2))[:, None] * x  # of N(0, I)
    none = torch.zeros_like(value)
    want = value / (sigma * (1 + sigma**2))[:, None]
    torch.testing.assert_close(mixed(torch.cat([none, none, value], 1), sigma), want)
    torch.testing.assert_close(mixed(torch.cat([value, none, none], 1), sigma), -value / sigma[:, None])
    torch.testing.assert_close(
        mixed(torch.cat([none, value, none], 1), sigma), value * (sigma / (1 + sigma**2))[:, None]
    )


def test_pictures_are_mixed_by_channel() -> None:
    parts = torch.randn(2, 9, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    sigma = torch.tensor([0.5, 20.0], dtype=torch.float64)
    out = mixed(parts, sigma)
    assert out.shape == (2, 3, 4, 4)
    k1, k2, k3 = parts[1, :, 2, 3].unflatten(0, (3, 3))
    want = -k1 / 20 + k2 * 20 / 401 + k3 / (20 * 401)
    torch.testing.assert_close(out[1, :, 2, 3], want)
