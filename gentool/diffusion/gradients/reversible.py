"""Reversible Heun: a solver that can be walked back, so that its exact gradient needs no state but the last.

Source: Kidger et al. 2021, Efficient and accurate gradients for neural SDEs (2105.13493), algorithms 1 and 2. Exact
in real arithmetic only: rounding grows on the way back, tolerably in float64, not over long runs in float32
(benchmarks/bench_purify_gradients.py measures it). Replay has no such limit; this one's memory is constant.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from gentool.diffusion.gradients.adjoint import Drift, Shocks

Pair = tuple[Tensor, Tensor]
"""The state x and its twin u."""


class Heun:
    """dx = f(x, s) ds + g(s) dw by steps of a pair, additive noise; one drift a step, strong order 1.

        u' = 2 x - u + f(u, s) ds + g(s) dw
        x' = x + (f(u, s) + f(u', s')) ds / 2 + (g(s) + g(s')) dw / 2

    Args:
        times: s at the steps' ends. dw: their Brownian increments; None for an ODE.
    """

    def __init__(
        self,
        drift: Drift,
        times: Sequence[float],
        g: Callable[[float], float] | None = None,
        dw: Shocks | None = None,
    ) -> None:
        self.drift, self.times, self.g, self.dw = drift, list(times), g, dw

    @property
    def steps(self) -> int:
        return len(self.times) - 1

    def forth(self, pair: Pair, i: int) -> Pair:
        """Step i."""
        return self._step(pair, self.times[i], self.times[i + 1], i, 1.0)

    def back(self, pair: Pair, i: int) -> Pair:
        """The inverse of step i."""
        return self._step(pair, self.times[i + 1], self.times[i], i, -1.0)

    def _step(self, pair: Pair, s: float, t: float, i: int, sign: float) -> Pair:
        (x, u), ds = pair, t - s
        slope = self.drift(u, s)
        twin = 2 * x - u + ds * slope + self._shock(s, i, sign)
        shock = (self._shock(s, i, sign) + self._shock(t, i, sign)) / 2
        return x + ds / 2 * (slope + self.drift(twin, t)) + shock, twin

    def _shock(self, s: float, i: int, sign: float) -> Tensor | float:
        return 0.0 if self.g is None or self.dw is None else sign * self.g(s) * self.dw(i)


def reversible_heun(heun: Heun, x: Tensor, wrt: Sequence[Tensor] = ()) -> Tensor:
    """x at times[0] -> x at times[-1], with gradients to x and `wrt` from the last pair alone."""
    found: Tensor = _Function.apply(heun, tuple(wrt), x, *wrt)
    return found


class _Function(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, heun: Heun, wrt: tuple[Tensor, ...], x: Tensor, *tensors: Tensor) -> Tensor:
        pair = (x, x)
        for i in range(heun.steps):
            pair = heun.forth(pair, i)
        ctx.heun, ctx.wrt, ctx.pair = heun, wrt, pair
        return pair[0].clone()

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        heun, wrt, pair = ctx.heun, ctx.wrt, ctx.pair
        grads = [cotangent, torch.zeros_like(cotangent)]
        sums = [torch.zeros_like(p) for p in wrt]
        for i in reversed(range(heun.steps)):
            with torch.no_grad():
                pair = heun.back(pair, i)
            with torch.enable_grad():
                fed = tuple(v.detach().requires_grad_() for v in pair)
                out = heun.forth(fed, i)
                found = torch.autograd.grad(out, (*fed, *wrt), grads, allow_unused=True)
            grads = [v if g is None else g for g, v in zip(found[:2], map(torch.zeros_like, pair))]
            sums = [s if v is None else s + v for s, v in zip(sums, found[2:], strict=True)]
        return None, None, grads[0] + grads[1], *sums
