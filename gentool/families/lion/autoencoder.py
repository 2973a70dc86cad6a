"""The hierarchical autoencoder: a global latent, and latent points given it (LION, 2210.06978, section 3).

At the start it is the identity: the latent points are the cloud's, up to a standard deviation of e^-offset, and the
decoder gives them back unchanged.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from gentool.families.lion.config import LionModel
from gentool.networks.pvcnn_unet import CloudEncoder, CloudUNet, centre_order

STYLE_LOG_STD = (-10.0, 2.0)
POINTS_LOG_STD = (-12.0, 2.0)
"""Ranges of the logarithms of the posteriors' standard deviations: without them a rare fresh network overflows."""


class Gaussian(NamedTuple):
    """Independent normals of any shape (B, ...)."""

    mean: Tensor
    log_std: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        return torch.addcmul(self.mean, self.log_std.exp(), noise)

    def kl(self) -> Tensor:
        """(B,) divergence from N(0, 1), summed over dimensions: e^{2s}/2 + mean^2/2 - s - 1/2."""
        terms = ((2 * self.log_std).exp() + self.mean.square() - 1) / 2 - self.log_std
        return terms.flatten(1).sum(1)


class Encoded(NamedTuple):
    """Posteriors of both latents and a draw of each: `style` (B, S), `points` (B, 3 + F, N)."""

    style_law: Gaussian
    points_law: Gaussian
    style: Tensor
    points: Tensor

    def kl(self) -> Tensor:
        """(B,) of both latents together."""
        return self.style_law.kl() + self.points_law.kl()


class Autoencoder(nn.Module):
    """q(z0 | x), q(h0 | x, z0) and p(x | h0, z0) on clouds x (B, 3, N)."""

    def __init__(self, config: LionModel) -> None:
        super().__init__()
        vae, width = config.vae, config.features
        self.skip, self.offset, self.sampler = vae.skip, vae.log_std_offset, config.sampler
        self.style_encoder = CloudEncoder(vae.style_encoder, 2 * config.style, config.sampler)
        self.encoder = CloudUNet(
            vae.encoder, 0, 2 * (3 + width), config.style, sampler=config.sampler, identity=True
        )
        self.decoder = CloudUNet(vae.decoder, width, 3, config.style, sampler=config.sampler, identity=True)

    def encode(self, x: Tensor, style_noise: Tensor, point_noise: Tensor) -> Encoded:
        """Clouds (B, 3, N) with standard normal noise (B, S) and (B, 3 + F, N) to latents; zero noise gives means."""
        # both encoders look at the same cloud: its centres are sought once
        order = centre_order(x, max(*self.style_encoder.counts, *self.encoder.counts), self.sampler)
        mean, log_std = self.style_encoder(x, order).chunk(2, dim=1)
        style_law = Gaussian(mean, log_std.clamp(*STYLE_LOG_STD))
        style = style_law.sample(style_noise)
        points_law = self.points_law(x, self.encoder(x, None, style, order=order))
        return Encoded(style_law, points_law, style, points_law.sample(point_noise))

    def points_law(self, x: Tensor, out: Tensor) -> Gaussian:
        """The posterior of latent points; the network's channels: mean and log std of coordinates, then of features."""
        width = (out.shape[1] - 6) // 2
        move, log_std, mean, feature_log_std = out.split([3, 3, width, width], dim=1)
        log_std = torch.cat([log_std, feature_log_std], dim=1) - self.offset
        return Gaussian(torch.cat([x + self.skip * move, mean], dim=1), log_std.clamp(*POINTS_LOG_STD))

    def decode(self, style: Tensor, points: Tensor) -> Tensor:
        """Latents (B, S), (B, 3 + F, N) to clouds (B, 3, N)."""
        x, features = points[:, :3], points[:, 3:]
        return x + self.skip * self.decoder(x, features, style)


def kl_weight(step: int, config: LionModel) -> float:
    """Of optimiser step 0, 1, ...: from `kl_min` linearly to `kl_max` over the share `ramp` of the first stage."""
    vae = config.vae
    whole = vae.ramp * vae.steps
    done = min(1.0, step / whole) if whole > 0 else 1.0
    return vae.kl_min + (vae.kl_max - vae.kl_min) * done
