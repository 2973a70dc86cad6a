"""Purification: a little noise, then the model's own way back to data (DiffPure, arXiv 2205.07460).

    purifier = Purifier(denoiser, denoiser.process, steps=100)     # t* = 0.1 of the paper, in every process
    clean = purifier(x, indices=[7, 8], seed=0)                    # x (2, C, H, W) in [-1, 1]
    clean, gradient = purifier.vjp(x, [7, 8], 0, 0, lambda clean: dloss_dclean)

`purifier(x, ...)` is differentiable by autograd as well, with the same exact gradient in the same small memory.
A row's noise depends on (seed, its index, its draw, step) alone: never on its batch, and each `draw` is fresh
noise, so that copies for an expectation over noise go as rows of one batch: indices=[7, 7, 7], draw=[0, 1, 2].

All is in the canonical state x = x_t / alpha(t), so that one code serves VP, VE and EDM models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from gentool.diffusion.gradients.rollout import Replay, rollout
from gentool.diffusion.grids import Grid
from gentool.diffusion.predictor import Denoise, Predictor
from gentool.diffusion.process import Process
from gentool.diffusion.solvers.core import Solver
from gentool.diffusion.solvers.integrate import integrate
from gentool.diffusion.solvers.stochastic import Ddpm, EulerMaruyama
from gentool.errors import UserError
from gentool.noise import Noise, mix

Method = Literal["sde", "ode", "ancestral", "ld-sde"]
SIGMA_STAR = 0.3401765290774009
"""The noise level of the paper's t* = 0.1: sqrt(exp(0.1 t + 9.95 t^2) - 1), its std / alpha."""
LANGEVIN_SIGMA = 0.04468770900950955
"""The level at which ld-sde asks for the score: that of t = 0.01 in the paper's process."""


@dataclass(frozen=True)
class Langevin:
    """The constants of ld-sde, dx = -lam/2 [(x - x_a)/variance - score] dtau + eta sqrt(lam) dw, x_a the input.

    time: tau in all. The defaults are the released code's; it takes steps of 0.01.
    """

    time: float = 0.1
    variance: float = 1e-3
    lam: float = 1e-2
    eta: float = 5.0


@dataclass(frozen=True)
class Purifier:
    """A purification as a differentiable function of the picture.

    Attributes:
        denoise: a `Denoiser` in eval mode, or any function (x, sigma, label) -> D.
        process: its process; the noise levels that the network is asked about stay in its trained range.
        method: `sde`, Euler-Maruyama on the reverse SDE; `ode`, Euler on the probability flow; `ancestral`, DDPM's
            posterior steps; all three after the jump x + sigma_star eps. `ld-sde`: Langevin dynamics around the input.
        sigma_star: noise level of the jump, in units of [-1, 1] pixels against a signal of scale 1.
        steps: network calls a round, over even steps of the process's own time.
        rounds: the whole is repeated so often, with fresh noise.
        label: what a conditional model is told of every picture: its null label, as a rule.
        replay: how gradients go back through the steps; None keeps every step's graph.

    Raises:
        UserError: a level outside the process's range, a network in training mode, no steps or rounds.
    """

    denoise: Denoise
    process: Process
    method: Method = "sde"
    sigma_star: float = SIGMA_STAR
    steps: int = 100
    rounds: int = 1
    label: int | None = None
    replay: Replay | None = field(default_factory=Replay)
    langevin: Langevin = Langevin()

    def __post_init__(self) -> None:
        if self.process.state_parts != 1:
            raise UserError(
                f"the process {self.process.name} has a velocity beside the picture: no jump is defined"
            )
        if self.steps < 1 or self.rounds < 1:
            raise UserError(f"steps and rounds must be at least 1, not {self.steps} and {self.rounds}")
        low, high = self.process.train_sigma_min, self.process.sigma_max
        if self.method != "ld-sde" and not low < self.sigma_star <= high:
            raise UserError(
                f"the noise level sigma* must lie in ({low:.4g}, {high:.4g}], the range of the process "
                f"{self.process.name}, not at {self.sigma_star:.4g}"
            )
        if isinstance(self.denoise, torch.nn.Module) and self.denoise.training:
            raise UserError("the network is in training mode, with dropout: call eval() first")

    @property
    def t_star(self) -> float:
        """sigma_star in the process's own time; ld-sde's whole time."""
        if self.method == "ld-sde":
            return self.langevin.time
        return float(self.process.t_of_sigma(torch.tensor(self.sigma_star, dtype=torch.float64)))

    @property
    def nfe(self) -> int:
        """Network calls a picture; an exact gradient takes twice as many forward, and as many backward passes."""
        return self.steps * self.rounds

    def __call__(
        self, x: Tensor, indices: Sequence[int], seed: int, *, draw: int | Sequence[int] = 0
    ) -> Tensor:
        """x (B, ...) in [-1, 1] -> purified (B, ...) of the same dtype, not clamped; differentiable in x.

        Args:
            indices: (B,) the pictures' global numbers, which with the seed fix their noise.
            draw: which fresh noise of a picture's: one for all rows, or (B,).
        """
        draws = [draw] * len(x) if isinstance(draw, int) else list(draw)
        if not len(indices) == len(draws) == len(x):
            raise ValueError(f"{len(indices)} indices and {len(draws)} draws for a batch of {len(x)}")
        rows = [i if d == 0 else mix(i, "draw", d) for i, d in zip(indices, draws)]
        label = None if self.label is None else torch.full((len(x),), self.label, device=x.device)
        predict = Predictor(
            self.denoise,
            sigma_min=self.process.train_sigma_min,
            sigma_max=self.process.sigma_max,
            label=label,
            dtype=x.dtype,
        )
        for number in range(self.rounds):
            noise = Noise(mix(seed, "purify", number), rows, x.shape[1:], x.device, x.dtype)
            once = self._langevin if self.method == "ld-sde" else self._diffuse
            x = once(x, predict, noise)
        return x

    def vjp(
        self,
        x: Tensor,
        indices: Sequence[int],
        seed: int,
        draw: int | Sequence[int],
        grad_fn: Callable[[Tensor], Tensor],
    ) -> tuple[Tensor, Tensor]:
        """(purified, gradient of the loss in x), both (B, ...), of the loss whose gradient in the purified pictures
        is `grad_fn(purified)`.

        Zero gradients are handed back as they are: an attack counts them.
        """
        fed = x.detach().requires_grad_()
        with torch.enable_grad():
            purified = self(fed, indices, seed, draw=draw)
        cotangent = grad_fn(purified.detach())
        if cotangent.shape != x.shape:
            raise ValueError(f"grad_fn gave {tuple(cotangent.shape)} for pictures {tuple(x.shape)}")
        (gradient,) = torch.autograd.grad(purified, fed, cotangent)
        return purified.detach(), gradient

    def grid(self) -> Grid:
        """The levels from sigma* to data: even steps in the process's own time, as published."""
        end = 0.0 if self.method == "ancestral" else self.process.train_t_min
        t = torch.linspace(self.t_star, end, self.steps + 1, dtype=torch.float64)
        sigma = torch.zeros_like(t)
        sigma[:-1] = self.process.sigma(t[:-1])
        sigma[0] = self.sigma_star
        if end > 0:
            sigma[-1] = self.process.sigma(t[-1])
        return Grid("purify", t, sigma)

    def describe(self) -> dict[str, Any]:
        """What a file of purified pictures says of how they were made."""
        jump = {} if self.method == "ld-sde" else {"sigma_star": self.sigma_star}
        return {
            "method": self.method,
            "t_star": self.t_star,
            **jump,
            "steps": self.steps,
            "rounds": self.rounds,
            "nfe": self.nfe,
        }

    def _diffuse(self, x: Tensor, predict: Predictor, noise: Noise) -> Tensor:
        start = x + self.sigma_star * noise.normal("jump")
        solver: Solver = (
            Ddpm() if self.method == "ancestral" else EulerMaruyama(nu=float(self.method == "sde"))
        )
        grid = self.grid()
        out = integrate(predict, self.process, solver, grid, start, noise, replay=self.replay).x
        return (
            out * self.process.alpha(grid.t[-1]).item()
        )  # x_t itself, as published; 1 but for VP's last 1e-5

    def _langevin(self, x: Tensor, predict: Predictor, noise: Noise) -> Tensor:
        c, level = self.langevin, torch.tensor(LANGEVIN_SIGMA, dtype=torch.float64)
        t = self.process.t_of_sigma(level)
        alpha, std = self.process.alpha(t).item(), self.process.std(t).item()
        h = c.time / self.steps

        def step(state: tuple[Tensor, Tensor], i: int) -> tuple[Tensor, Tensor]:
            z, anchor = state  # the picture taken for a noisy one at this level, as published
            score = (alpha * predict(z / alpha, LANGEVIN_SIGMA) - z) / std**2
            drift = 0.5 * c.lam * (score - (z - anchor) / c.variance)
            return z + h * drift + c.eta * (c.lam * h) ** 0.5 * noise.normal("langevin", i), anchor

        found: tuple[Tensor, Tensor] = rollout(step, self.steps, (x, x), self.replay)
        return found[0]
