"""Parameters of the papers' networks, exactly as many as in the official code, counted on the meta device."""

from __future__ import annotations

import pytest
import torch

from gentool import networks
from gentool.networks.base import Features
from gentool.networks.config import AdmUNet, Head, SongUNet
from gentool.networks.discriminator import build_discriminator
from gentool.networks.gan_config import ConvDiscriminator, LatentUNet
from gentool.networks.generator import build_generator
from gentool.networks.head import build_head

NCSNPP = {"embedding": "fourier", "resample": "fir", "encoder": "residual"}


@pytest.mark.parametrize(
    ("config", "channels", "size", "classes", "parameters"),
    [
        pytest.param(SongUNet(augment=9), (3, 3), 32, 0, 55_733_891, id="EDM: DDPM++, CIFAR-10"),
        pytest.param(SongUNet(augment=9, **NCSNPP), (3, 3), 32, 0, 56_397_827, id="EDM: NCSN++, CIFAR-10"),
        pytest.param(SongUNet(augment=9, mult=(1, 2, 2, 2)), (3, 3), 64, 0, 61_805_571, id="EDM: FFHQ-64"),
        pytest.param(AdmUNet(), (3, 3), 64, 1000, 295_899_267, id="EDM: ADM, ImageNet-64"),
        pytest.param(AdmUNet(), (3, 6), 64, 1000, 295_904_454, id="guided-diffusion: ImageNet-64"),
        pytest.param(
            AdmUNet(channels=256, mult=(1, 1, 2, 2, 4, 4), blocks=2),
            (3, 6),
            256,
            0,
            552_814_086,
            id="guided-diffusion: ImageNet-256",
        ),
        pytest.param(
            SongUNet(mult=(1, 2, 2, 2), blocks=8, **NCSNPP), (6, 3), 32, 0, 107_593_859, id="CLD: CIFAR-10"
        ),
        pytest.param(
            SongUNet(mult=(1, 1, 2, 2, 2, 2, 2), blocks=2), (6, 3), 256, 0, 65_466_371, id="CLD: CelebA-HQ"
        ),
        pytest.param(SongUNet(mult=(1, 2, 2, 2), blocks=8), (3, 3), 32, 0, 106_632_579, id="GENIE: CIFAR-10"),
    ],
)
def test_denoisers(config, channels, size, classes, parameters):
    with torch.device("meta"):
        net = networks.build(config, *channels, (size, size), classes)
    assert networks.summary(net)["total"] == parameters


def test_heads_and_gans():
    with torch.device("meta"):
        features = Features(
            torch.empty(1, 3, 32, 32), torch.empty(1, 128, 32, 32), torch.empty(1, 512)
        )  # of GENIE's CIFAR-10 base
        ours = {
            "GENIE head": build_head(Head(), (3, 32, 32), 3, features),
            "DDGAN CIFAR-10": build_generator(LatentUNet(), (3, 32, 32)),
            "DDGAN 256": build_generator(
                LatentUNet(channels=64, mult=(1, 1, 2, 2, 4, 4), layers=3), (3, 256, 256)
            ),
            "DDGAN D 32": build_discriminator(ConvDiscriminator(), (3, 32, 32)),
            "DDGAN D 256": build_discriminator(
                ConvDiscriminator(mult=(2, 4, 4, 4, 4, 4), full_blocks=0), (3, 256, 256)
            ),
        }
    assert {name: networks.summary(net)["total"] for name, net in ours.items()} == {
        "GENIE head": 526_473,
        "DDGAN CIFAR-10": 48_432_515,
        "DDGAN 256": 39_726_979,
        "DDGAN D 32": 12_741_633,
        "DDGAN D 256": 27_737_217,
    }
