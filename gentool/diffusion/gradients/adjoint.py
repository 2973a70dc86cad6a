"""The continuous adjoint, as a reference: a gradient in constant memory, and not that of the sampler.

With dx = f(x, s) ds + g(s) dw, a = dL/dx obeys da = -(df/dx)^T a ds along the path, which is rebuilt backwards
from its end with the same Brownian increments (2001.01328; Ito and Stratonovich agree, g being free of x). The
rebuilt path is not the one that was walked: hence the error, which `gradients.check` measures. Replay has none.

AdjointDPM (2307.10711) solves the same equation in y = (alpha_T/alpha) x and rho = alpha_T (sigma - sigma_T). Up to
the constant alpha_T these are the canonical state and sigma, so its equation is `flow(predict)`, dx/dsigma = eps,
whose Euler step is DDIM's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from gentool.diffusion.process import Process
from gentool.diffusion.solvers.core import Predict

Drift = Callable[[Tensor, float], Tensor]
"""f(x (B, ...), s) -> dx/ds (B, ...)."""
Method = Literal["euler", "midpoint"]
Shocks = Callable[[int], Tensor]
"""i -> the noise g dw of the forward clock's step i, at the g of its start: what both directions share is dw."""


def flow(predict: Predict) -> Drift:
    """The probability flow in the canonical state over s = sigma: dx/dsigma = (x - D)/sigma."""
    return lambda x, sigma: (x - predict(x, sigma)) / sigma


def reverse_drift(predict: Predict, process: Process, nu: float) -> Drift:
    """The drift of the reverse SDE (nu = 1) or the probability flow (nu = 0) of the process's own variable x_t, in its
    own time: f x + (1 + nu^2)/2 g^2/std eps."""

    def drift(x: Tensor, t: float) -> Tensor:
        at = torch.tensor(t, dtype=torch.float64)
        alpha, sigma = process.alpha(at).item(), process.sigma(at).item()
        eps = (x / alpha - predict(x / alpha, sigma)) / sigma
        pull = 0.5 * (1 + nu**2) * process.g2(at).item() / process.std(at).item()
        return process.dlog_alpha(at).item() * x + pull * eps

    return drift


def diffusion(process: Process, nu: float) -> Callable[[float], float]:
    """g(t) of the reverse SDE in the process's own variable, times nu."""
    return lambda t: nu * process.g2(torch.tensor(t, dtype=torch.float64)).sqrt().item()


def solve(
    drift: Drift,
    times: Sequence[float],
    x: Tensor,
    *,
    method: Method = "euler",
    g: Callable[[float], float] | None = None,
    dw: Shocks | None = None,
) -> Tensor:
    """x at times[0] -> x at times[-1], one step an interval, in plain autograd.

    Args:
        g, dw: the noise: g(s) at each step's start times its Brownian increment dw(i), of variance |ds|.
    """
    for i, (s, t) in enumerate(pairwise(times)):
        x = x + _increment(drift, x, s, t, method)
        if g is not None and dw is not None:
            x = x + g(s) * dw(i)
    return x


def continuous_adjoint(
    drift: Drift,
    times: Sequence[float],
    end: Tensor,
    cotangent: Tensor,
    *,
    wrt: Sequence[Tensor] = (),
    method: Method = "euler",
    g: Callable[[float], float] | None = None,
    dw: Shocks | None = None,
) -> tuple[Tensor, list[Tensor], Tensor]:
    """(dL/dx at times[0], [dL/d each of `wrt`], the rebuilt x at times[0]) from x and dL/dx at times[-1].

    The augmented state (x, a, gradients) is solved backwards by the same method on the same times; its Euler steps see
    the late end of each interval, the forward ones saw the early one. `g`, `dw` as in `solve`.

    Raises:
        ValueError: `wrt` is a lone tensor.
    """
    if isinstance(wrt, Tensor):
        raise ValueError("wrt must be a sequence of tensors")
    x, a = end.detach(), cotangent
    sums = [torch.zeros_like(p) for p in wrt]
    for i, (s, t) in reversed(list(enumerate(pairwise(times)))):
        ds = s - t  # backwards
        late = _slopes(drift, x, t, a, wrt)
        if method == "midpoint":
            half = (s + t) / 2
            late = _slopes(drift, x + ds / 2 * late[0], half, a + ds / 2 * late[1], wrt)
        x, a = x + ds * late[0], a + ds * late[1]
        sums = [total + ds * slope for total, slope in zip(sums, late[2:], strict=True)]
        if g is not None and dw is not None:
            x = x - g(t) * dw(i)
    return a, sums, x


def _slopes(drift: Drift, x: Tensor, s: float, a: Tensor, wrt: Sequence[Tensor]) -> list[Tensor]:
    """(f, -(df/dx)^T a, -(df/dp)^T a for each p of `wrt`)."""
    with torch.enable_grad():
        fed = x.detach().requires_grad_()
        f = drift(fed, s)
        found = torch.autograd.grad(f, (fed, *wrt), a, allow_unused=True)
    pulled = [torch.zeros_like(p) if v is None else -v for p, v in zip((fed, *wrt), found, strict=True)]
    return [f.detach(), *(p.detach() for p in pulled)]


def _increment(drift: Drift, x: Tensor, s: float, t: float, method: Method) -> Tensor:
    slope = drift(x, s)
    if method == "midpoint":
        slope = drift(x + (t - s) / 2 * slope, (s + t) / 2)
    return (t - s) * slope
