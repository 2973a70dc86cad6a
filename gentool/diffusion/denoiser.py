"""The denoiser: the one object that samplers, purifiers, editors and losses see.

Source: EDM (Karras et al. 2022, arXiv 2206.00364), section 3.1 and table 1.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from gentool.diffusion import precond as preconds
from gentool.diffusion import processes
from gentool.diffusion.config import DiffusionConfig
from gentool.diffusion.convert import per_sample
from gentool.diffusion.precond import Precond, Scalings
from gentool.diffusion.process import Process


class Denoiser(nn.Module):
    """Network, preconditioning and process: D(x; sigma) = E[x0 | x = x0 + sigma eps].

    Scaling is done in float32 (float64 where x is), whatever autocast says; the network is fed its weights'
    dtype.

    Args:
        network: `network(x, c_noise, label=None, augment=None)` as in docs/architecture.md, with
            `precond.out_factor` times as many output channels as x has.
        autocast: run the network alone under this dtype; None leaves the surrounding autocast (Lightning's)
            as it is.
        variances: the network has another output for each channel, by which it says how wide an ancestral step is
            (improved DDPM, 2102.09672): `with_variance`.

    Attributes:
        sigma_min, sigma_max: the range of noise levels the process trains on.
    """

    def __init__(
        self,
        network: nn.Module,
        precond: Precond,
        process: Process,
        autocast: torch.dtype | None = None,
        variances: bool = False,
    ) -> None:
        super().__init__()
        self.network = network
        self.precond = precond
        self.process = process
        self.autocast = autocast
        self.variances = variances
        self.sigma_min, self.sigma_max = process.train_sigma_min, process.sigma_max

    def forward(
        self, x: Tensor, sigma: Tensor, label: Tensor | None = None, augment: Tensor | None = None
    ) -> Tensor:
        """x (B, ...) canonical state, sigma (B,), label (B,) int64 -> D (B, ...) in float32, or x's float64.

        Where the process carries a velocity, x is (B, 2, ...) and the network is fed both along its first
        dimension, each with its own c_in; D is of the data's shape.

        `augment` is the augmentation label (B, A); None where nothing was augmented.
        """
        x, sigma, scalings, fed, c_noise = self._inputs(x, sigma)
        with self._autocast(x):
            out = self.network(fed, c_noise, label, augment)
        return self._combine(out, x, scalings)

    def with_variance(
        self, x: Tensor, sigma: Tensor, label: Tensor | None = None, augment: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """(D, v) from one network call; arguments as `forward`.

        v (B, ...), in D's dtype, is where the log variance of an ancestral step from here lies between those of the
        posterior of known data, at -1, and of the forward step, at 1; not bounded by them.
        """
        if not self.variances:
            raise ValueError("this network learned no variances")
        x, sigma, scalings, fed, c_noise = self._inputs(x, sigma)
        with self._autocast(x):
            out = self.network(fed, c_noise, label, augment)
        return self._combine(out, x, scalings), out[:, x.shape[1] :].to(x.dtype)

    def features(
        self, x: Tensor, sigma: Tensor, label: Tensor | None = None, augment: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """(D, the network's `Features(out, last, emb)`) from one network call; arguments as `forward`."""
        x, sigma, scalings, fed, c_noise = self._inputs(x, sigma)
        with self._autocast(x):
            found = self.network.features(fed, c_noise, label, augment)  # type: ignore[operator]
        return self._combine(found.out, x, scalings), found

    def eps(
        self, x: Tensor, sigma: Tensor, label: Tensor | None = None, augment: Tensor | None = None
    ) -> Tensor:
        """The noise (x - D)/sigma; arguments as `forward`."""
        x0 = self(x, sigma, label, augment)
        return (x.to(x0.dtype) - x0) / per_sample(sigma.to(x0.dtype), x0)

    def _inputs(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Scalings, Tensor, Tensor]:
        work = torch.promote_types(x.dtype, torch.float32)
        x, sigma = x.to(work), sigma.to(work)
        scalings = self.precond(sigma)
        weights = next((p.dtype for p in self.network.parameters() if p.is_floating_point()), work)
        fed = (_parts(scalings.c_in, x) * x).to(weights)
        if self.process.state_parts > 1:
            fed = fed.flatten(1, 2)
        # half precision would round the larger noise embeddings (999 t) to whole steps
        return x, sigma, scalings, fed, scalings.c_noise.to(torch.promote_types(weights, torch.float32))

    def _combine(self, out: Tensor, x: Tensor, scalings: Scalings) -> Tensor:
        kept = _parts(scalings.c_skip, x) * x
        if self.process.state_parts > 1:
            kept = kept.sum(1)
        prediction = out[:, : kept.shape[1]].to(x.dtype)  # the rest, where there is any, is of the variance
        return torch.addcmul(kept, per_sample(scalings.c_out, kept), prediction)

    def _autocast(self, x: Tensor) -> AbstractContextManager[object]:
        return torch.autocast(x.device.type, self.autocast) if self.autocast is not None else nullcontext()


def _parts(c: Tensor, x: Tensor) -> Tensor:
    """(B,) or (B, parts) coefficients shaped to multiply x (B, ...)."""
    return c.reshape(*c.shape, *[1] * (x.dim() - c.dim()))


def build(config: DiffusionConfig, network: Callable[[int], nn.Module]) -> Denoiser:
    """The denoiser of a recipe's `model:` block; `network` makes its network, given the preconditioning's
    `out_factor`."""
    process = processes.build(config.process)
    precond = preconds.build(config.chosen_precond, process)
    variances = config.loss.hybrid is not None
    return Denoiser(network(precond.out_factor + variances), precond, process, variances=variances)
