"""A lower bound of the log-likelihood of data under a model of data and velocity.

Source: CLD-SGM (2112.07068), appendix B.4 and score SDE (2011.13456), appendix D.2: log p(x0) is at least the mean of
log p(x0, w0) over the initial velocity's law q = N(0, gamma), plus q's entropy; with K velocities the
importance-weighted log mean_k p(x0, w_k) / q(w_k) is tighter. log p(x0, w0) is the probability flow's.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gentool.diffusion.langevin.process import Langevin
from gentool.diffusion.likelihood import Likelihood, Trace, gaussian_log_prob, solve_rk45
from gentool.diffusion.predictor import Denoise
from gentool.errors import GentoolError, UserError
from gentool.noise import Noise


def joint_log_likelihood(
    denoise: Denoise,
    process: Langevin,
    state: Tensor,
    noise: Noise,
    *,
    label: Tensor | None = None,
    tolerance: float = 1e-5,
    probes: int = 1,
    exact_dims: int = 128,
) -> Likelihood:
    """log p(x, w) of states (B, 2, ...) at the smallest trained time, by the probability flow up to the prior.

    Solved in ln t. The flow's divergence is -2 - 2 d S/d w alone: probes have the data's shape, which is `noise`'s.

    Args:
        denoise: the x0 prediction (state (B, 2, ...), sigma (B,), label) -> (B, ...), differentiable and vmap-safe in
            the state; it is given float64. A network in eval mode.

    Raises:
        GentoolError: when the network's output is not finite.
    """
    shape, dims = state.shape[2:], state[0, 0].numel()
    trace = Trace(noise, state[:, 0], probes, exact_dims)

    def slope(y: Tensor, place: Tensor, indices: Tensor) -> Tensor:
        t = place.exp()
        speed = (process.rate(t) * t).unsqueeze(1)
        on_x, on_w, on_x0 = (c.unsqueeze(1) for c in process.score(t))
        x, w = y[:, :dims], y[:, dims : 2 * dims]
        own = label[indices] if label is not None else None

        def force(w: Tensor) -> Tensor:
            whole = torch.stack([x, w], 1).view(-1, 2, *shape)
            x0 = denoise(whole, process.sigma(t), own).double().flatten(1)
            return speed * (-x - 2 * w - 2 * (on_x * x + on_w * w + on_x0 * x0))

        dw, divergence = trace(force, w, indices)
        return torch.cat([speed * w, dw, divergence], 1)

    first = torch.cat([state.double().flatten(1), state.new_zeros(len(state), 1, dtype=torch.float64)], 1)
    last, nfe = solve_rk45(slope, first, math.log(process.train_t_min), math.log(process.t_max), tolerance)
    if not last.isfinite().all():
        raise GentoolError("the likelihood is not finite: the network returned NaN or infinity")
    latent = last[:, : 2 * dims].view_as(state)
    return Likelihood(gaussian_log_prob(latent, 1.0) + last[:, -1], latent, nfe)


def log_likelihood_bound(
    denoise: Denoise,
    process: Langevin,
    x: Tensor,
    noise: Noise,
    *,
    label: Tensor | None = None,
    velocities: int = 1,
    tolerance: float = 1e-5,
    probes: int = 1,
    exact_dims: int = 128,
) -> Likelihood:
    """A lower bound of log p(x) (B,) in nats; arguments as `joint_log_likelihood`, nfe over all velocities.

    Args:
        x: (B, ...) data.
        velocities: K. 1 is the plain bound with the entropy in closed form; more are importance-weighted, and the
            bound's mean rises with K.

    Raises:
        UserError: gamma is 0, so that the initial velocity has no density.
        GentoolError: when the network's output is not finite.
    """
    if process.gamma == 0:
        raise UserError("a model with gamma = 0 has no likelihood: its initial velocity has no density")
    dims, weights, calls = x[0].numel(), [], torch.zeros(len(x), device=x.device)
    for k in range(velocities):
        w = process.gamma**0.5 * noise.normal("velocity", k).to(x.device, torch.float64)
        found = joint_log_likelihood(
            denoise,
            process,
            torch.stack([x.double(), w], 1),
            noise,
            label=label,
            tolerance=tolerance,
            probes=probes,
            exact_dims=exact_dims,
        )
        if velocities == 1:
            minus_q = torch.full_like(found.log_prob, dims / 2 * (1 + math.log(2 * math.pi * process.gamma)))
        else:
            minus_q = -gaussian_log_prob(w, process.gamma**0.5)
        weights.append(found.log_prob + minus_q)
        calls = calls + found.nfe
    bound = torch.stack(weights).logsumexp(0) - math.log(velocities)
    return Likelihood(bound, found.latent, calls, bound=True)
