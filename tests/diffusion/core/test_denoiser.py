"""The denoiser: precision around the network, what it is told, features, range."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from gentool.diffusion import precond as p
from gentool.diffusion.config import DiffusionConfig, IddpmPrecond, VpProcess
from gentool.diffusion.denoiser import Denoiser, build
from gentool.diffusion.processes import Edm, Vp


class Features(NamedTuple):
    out: Tensor
    last: Tensor
    emb: Tensor


class Probe(nn.Module):
    """A 1x1 convolution that remembers what it was fed."""

    def __init__(self, channels: int, factor: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, factor * channels, 1)

    def forward(
        self, x: Tensor, c_noise: Tensor, label: Tensor | None = None, augment: Tensor | None = None
    ) -> Tensor:
        self.fed = (x, c_noise, label, augment)
        self.autocast = torch.is_autocast_enabled("cpu")
        return self.conv(x)

    def features(
        self, x: Tensor, c_noise: Tensor, label: Tensor | None = None, augment: Tensor | None = None
    ) -> Features:
        return Features(self(x, c_noise, label, augment), x, c_noise)


X = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
SIGMA = torch.tensor([0.01, 1.0, 60.0])


def test_float64_state_keeps_its_precision_around_a_float32_network() -> None:
    network = Probe(2)
    denoiser = Denoiser(network, p.VpEps(Vp()), Vp())
    found = denoiser(X.double(), SIGMA.double())
    assert found.dtype == torch.float64
    assert network.fed[0].dtype == torch.float32
    out = network.conv((X.double() / (1 + SIGMA.double() ** 2).sqrt().view(-1, 1, 1, 1)).float())
    expected = X.double() - SIGMA.double().view(-1, 1, 1, 1) * out.double()
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)


def test_autocast_covers_the_network_alone() -> None:
    network = Probe(2)
    denoiser = Denoiser(network, p.Edm(0.5), Edm(), autocast=torch.bfloat16)
    found = denoiser(X, SIGMA)
    assert network.autocast
    assert found.dtype == torch.float32
    plain = Denoiser(network, p.Edm(0.5), Edm())
    # c_out F, one hundredth of D here, has bfloat16's error; c_skip x, the rest, must not (it would be 4e-3)
    torch.testing.assert_close(found[0], plain(X, SIGMA)[0], rtol=0, atol=5e-4)
    with torch.autocast("cpu", torch.bfloat16):
        assert plain(X, SIGMA).dtype == torch.float32
    assert network.autocast, "the surrounding autocast reaches the network"


def test_half_state_is_scaled_in_float32() -> None:
    denoiser = Denoiser(Probe(2), p.Edm(0.5), Edm())
    assert denoiser(X.bfloat16(), SIGMA).dtype == torch.float32


def test_labels_reach_the_network_and_the_variance_half_is_dropped() -> None:
    network = Probe(2, factor=p.Iddpm.out_factor)
    denoiser = Denoiser(network, p.Iddpm(), Edm())
    label, augment = torch.tensor([0, 1, 2]), torch.ones(3, 9)
    assert denoiser(X, SIGMA, label, augment).shape == X.shape
    assert network.fed[2] is label
    assert network.fed[3] is augment
    assert torch.equal(network.fed[1], network.fed[1].round())


def test_features_come_with_the_denoised_from_one_call() -> None:
    network = Probe(2)
    denoiser = Denoiser(network, p.Edm(0.5), Edm())
    x0, found = denoiser.features(X, SIGMA)
    torch.testing.assert_close(x0, denoiser(X, SIGMA))
    assert found.emb.shape == (3,)


def test_eps_times_sigma_is_what_was_removed() -> None:
    denoiser = Denoiser(Probe(2), p.Edm(0.5), Edm())
    removed = SIGMA.view(-1, 1, 1, 1) * denoiser.eps(X, SIGMA)
    torch.testing.assert_close(removed, X - denoiser(X, SIGMA), rtol=1e-5, atol=1e-6)


def test_built_from_a_recipe_block_with_the_training_range() -> None:
    config = DiffusionConfig(process=VpProcess(), precond=IddpmPrecond())
    denoiser = build(config, lambda factor: Probe(2, factor))
    assert denoiser.network.conv.out_channels == 4
    assert isinstance(denoiser.precond, p.Iddpm)
    vp = Vp()
    assert (denoiser.sigma_min, denoiser.sigma_max) == (vp.train_sigma_min, vp.sigma_max)


def test_no_row_depends_on_its_batch() -> None:
    denoiser = Denoiser(Probe(2), p.Edm(0.5), Edm())
    whole = denoiser(X, SIGMA)
    alone = torch.cat([denoiser(X[i : i + 1], SIGMA[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(whole, alone, rtol=1e-6, atol=1e-6)
