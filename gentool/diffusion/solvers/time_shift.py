"""Time-Shift sampler: ask the network at the time the state looks like, not the one it should be at.

Source: "Alleviating Exposure Bias in Diffusion Models through Sampling with Shifted Time Steps" (2305.15583).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from gentool.diffusion.process import Process
from gentool.diffusion.solvers.core import STRICT, Plan, Predict, State, Wrapped
from gentool.noise import Noise


@dataclass(frozen=True, config=STRICT)
class TimeShift:
    """Shift the network's time by up to window/2 levels to where the state's variance is the expected one.

    After a step that reaches the nominal time t > cutoff, each sample picks the time in the window whose
    std^2 + alpha^2 data_variance is nearest to its own variance over elements. The prediction made there is
    taken as the one at t, and the state is brought from the chosen time to t by a DDIM step with it; so the
    next DDIM step is the paper's exactly, and any other solver goes on with nodes at its nominal times.

    window, cutoff: in levels of a model with `levels` times, spread evenly over the process's range.
    data_variance: of the data's elements; 0 is the paper's rule, right where data variance is small.
    """

    window: Annotated[int, Field(ge=2)]
    cutoff: Annotated[int, Field(ge=0)]
    data_variance: Annotated[float, Field(ge=0)] = 0.0
    levels: Annotated[int, Field(ge=2)] = 1000

    def around(self, plan: Plan, process: Process) -> Plan:
        """The same plan with shifted times."""
        unit = (process.t_max - process.t_min) / (self.levels - 1)
        shifts = torch.arange(-(self.window // 2), self.window // 2 + 1, dtype=torch.float64) * unit

        def step(state: State, i: int, predict: Predict, noise: Noise) -> State:
            sigma = plan.sigmas[i]
            t = process.t_of_sigma(torch.tensor(sigma, dtype=torch.float64))
            if i == 0 or (float(t) - process.t_min) / unit <= self.cutoff:
                return plan.step(state, i, predict, noise)
            times = (t + shifts).clamp(process.t_min, process.t_max)
            alphas, sigmas = process.alpha(times), process.sigma(times)
            expected = alphas**2 * (sigmas**2 + self.data_variance)
            alpha = float(process.alpha(t))
            variance = (alpha * state.x.detach()).flatten(1).double().var(1)
            pick = (variance[:, None] - expected.to(variance.device)).abs().argmin(1)
            level = sigmas.to(variance.device)[pick]
            x = state.x * _column(alpha / alphas.to(variance.device)[pick], state.x)
            x0 = predict(x, level)
            shifted = x0 + (x - x0) * _column(sigma / level, x)

            return plan.step(State(shifted, state.history), i, _Answered(predict, shifted, x0), noise)

        return replace(plan, step=step)


class _Answered(Wrapped):
    """Knows the prediction at one state already. Solvers that ask for a derivative there are refused before."""

    def __init__(self, predict: Predict, state: Tensor, x0: Tensor) -> None:
        super().__init__(predict)
        self.state, self.x0 = state, x0

    def __call__(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        return self.x0 if x is self.state else self.predict(x, sigma)


def _column(value: Tensor, x: Tensor) -> Tensor:
    return value.to(x.dtype).view(-1, *[1] * (x.dim() - 1))
