"""Schedule, networks and sampling against DDGAN's own code."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gentool.families.ddgan.chain import Chain
from gentool.families.ddgan.config import VpSchedule
from gentool.networks.discriminator import build_discriminator
from gentool.networks.gan_config import ConvDiscriminator, LatentUNet
from gentool.networks.generator import build_generator
from tests.parity.fixed import close, fill, golden, told, waves

GOLDEN = golden("ddgan")
K = torch.arange(4)


@pytest.mark.parametrize("steps", [2, 4, 8])
def test_the_posterior_is_ddgan_s(steps):
    chain = Chain(VpSchedule(), steps)
    ours = torch.stack([chain.from_x0, chain.from_next, chain.variance])
    torch.testing.assert_close(
        ours, torch.tensor(GOLDEN[f"posterior T={steps}"], dtype=torch.float64), rtol=1e-11, atol=0
    )


def test_the_generator_gives_what_ddgan_s_gives_with_the_same_weights():
    config = LatentUNet(channels=16, mult=(1, 2, 2), blocks=2, attention=(8,), latent=10, style=32, layers=3)
    net = fill(build_generator(config, (3, 16, 16)))
    with torch.no_grad():
        out = net(waves((4, 3, 16, 16)), K, waves((4, 10), 300))
    close(told(out), GOLDEN["generator"])


@pytest.mark.parametrize(
    ("name", "config", "size"),
    [
        ("small", ConvDiscriminator(channels=16, embedding=32), 16),
        (
            "large",
            ConvDiscriminator(channels=16, embedding=32, mult=(2, 4, 4, 4, 4, 4), full_blocks=0),
            64,
        ),
    ],
)
def test_discriminators_give_what_ddgan_s_give_with_the_same_weights(name, config, size):
    net = fill(build_discriminator(config, (3, size, size)))
    with torch.no_grad():
        out = net(waves((4, 3, size, size)), waves((4, 3, size, size), 777), K)
    close(out, GOLDEN[f"discriminator {name}"])


def test_sampling_ends_where_ddgan_s_ends():
    chain, x = Chain(VpSchedule(), 4), waves((2, 1, 2, 2), 50)

    def generator(x: Tensor, k: int, z: Tensor) -> Tensor:
        return (0.5 * x + z[:, :1, None, None]).tanh() * (1 + 0.1 * k)

    for k in reversed(range(4)):
        x0 = generator(x, k, waves((2, 1), 10 * k))
        x = chain.posterior(x0, x, torch.full((2,), k), waves((2, 1, 2, 2), 100 * k))
    close(x.flatten(), GOLDEN["sample"])
