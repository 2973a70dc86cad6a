"""Classifier guidance: Bayes' rule with a classifier that knows noisy states.

Source: Dhariwal & Nichol 2021 (arXiv:2105.05233) alg. 2, eps - w std grad_{x_t} log p(y | x_t). Here for x0
and the canonical state x = x_t / alpha, whose score is (D - x) / sigma^2: D moves by w sigma^2
grad_x log p(y | x). The other form of the paper (alg. 1) shifts the mean of an ancestral step by its variance times the
gradient: it depends on the step, which gives the factor in the place of sigma^2 (`solvers.stochastic.mean_gains`). The
chain rule's grad_x = alpha grad_{x_t} is autograd's, for a classifier
that is fed x_t = alpha x.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gentool.diffusion.guidance.compose import Predictions, Wanted, per_sample
from gentool.errors import UserError

LogProb = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(x (B, ...) canonical state, sigma (B,), label (B,)) -> (B,) log p(label | x), each from its own sample."""


Gain = Callable[[Tensor], Tensor]
"""sigma (B,) -> (B,): how far the prediction moves along the gradient, at scale 1."""


@dataclass(frozen=True)
class StepGain:
    """The gain of the step that starts at the nearest of `levels` (N,)."""

    levels: Tensor
    gains: Tensor

    def __call__(self, sigma: Tensor) -> Tensor:
        levels, gains = self.levels.to(sigma), self.gains.to(sigma)
        return gains[(levels.log() - sigma.log().unsqueeze(-1)).abs().argmin(-1)]


@dataclass(frozen=True)
class Classifier:
    """D + w sigma^2 grad_x log p(label | x), the gradient in float32 or better; `gain` replaces sigma^2.

    The classifier's passes are not in `nfe`, which counts the diffusion network.
    """

    scale: float
    log_prob: LogProb
    gain: Gain = torch.square

    def wants(self, sigma: Tensor, memory: Any) -> Wanted:
        return Wanted()

    def correct(self, at: Predictions, memory: Any) -> tuple[Tensor, None]:
        if self.scale == 0:
            return torch.zeros_like(at.labelled), None
        if at.label is None:
            raise UserError("classifier guidance needs a label for every sample; add --label")
        gradient = self._gradient(at.x, at.sigma, at.label)
        step = self.scale * per_sample(self.gain(at.sigma), gradient) * gradient
        return step.to(at.labelled.dtype), None

    def _gradient(self, x: Tensor, sigma: Tensor, label: Tensor) -> Tensor:
        def total(x: Tensor) -> Tensor:
            value = self.log_prob(x, sigma, label)
            if value.shape != label.shape:
                raise ValueError(f"log_prob gave {tuple(value.shape)} for {label.shape[0]} samples")
            return value.sum()

        # Samplers may run in inference mode, whose tensors autograd refuses to save: hence the clones.
        with torch.inference_mode(False), torch.set_grad_enabled(torch.is_grad_enabled()):
            wide = torch.promote_types(x.dtype, torch.float32)
            sigma, label = sigma.clone().to(wide), label.clone()
            return torch.func.grad(total)(x.clone().to(wide))
