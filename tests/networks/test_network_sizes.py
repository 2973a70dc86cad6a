"""Parameters and arithmetic of the published networks, counted on the meta device."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from gentool import networks
from gentool.networks.config import AdmUNet, DiT, SongUNet

NCSNPP = {"embedding": "fourier", "resample": "fir", "encoder": "residual"}
DPDM = {"channels": 32, "blocks": 2, "label_embedding": "table"}


def on_meta(config, in_channels, out_channels, size, classes=0):
    with torch.device("meta"):
        return networks.build(config, in_channels, out_channels, size, classes)


@pytest.mark.parametrize(
    ("config", "channels", "size", "parameters", "gflop"),
    [
        pytest.param(SongUNet(augment=9), 3, 32, 55.73e6, 42.4, id="DDPM++ EDM"),
        pytest.param(SongUNet(augment=9, **NCSNPP), 3, 32, 56.40e6, 42.8, id="NCSN++ EDM"),
        pytest.param(SongUNet(mult=(1, 2, 2, 2)), 3, 32, 61.8e6, 21.7, id="DDPM++ original"),
        pytest.param(SongUNet(mult=(1, 2, 2, 2), blocks=8, **NCSNPP), 6, 32, 107.6e6, 37.4, id="NCSN++ CLD"),
        pytest.param(SongUNet(mult=(1, 2, 2, 2), augment=9), 3, 64, 61.8e6, 83.7, id="DDPM++ 64"),
        pytest.param(SongUNet(mult=(1, 2, 2, 2), augment=9, **NCSNPP), 3, 64, 62.8e6, 84.9, id="NCSN++ 64"),
        pytest.param(AdmUNet(), 3, 64, 295.9e6, 219, id="ADM 64"),
        pytest.param(SongUNet(channels=64, mult=(1, 2, 2), blocks=2), 3, 32, 7.0e6, 3.5, id="small"),
        pytest.param(SongUNet(channels=96, mult=(1, 2, 2), blocks=2), 3, 32, 15.7e6, 7.8, id="medium"),
        pytest.param(
            SongUNet(channels=32, mult=(1, 2), blocks=1, attention=(4,)), 1, 8, 0.75e6, 0.04, id="digits"
        ),
    ],
)
def test_unets_have_the_published_parameters_and_flops(config, channels, size, parameters, gflop):
    net = on_meta(
        config, channels, 3 if channels == 6 else channels, size, 1000 if config.name == "adm-unet" else 0
    )
    assert networks.summary(net)["total"] == pytest.approx(parameters, rel=2e-3)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(torch.empty(1, channels, size, size, device="meta"), torch.empty(1, device="meta"))
    assert counter.get_total_flops() / 1e9 == pytest.approx(gflop, rel=2e-3, abs=5e-3)


@pytest.mark.parametrize(
    ("mult", "attention", "channels", "size", "classes", "parameters"),
    [
        pytest.param((1, 2, 2), (7,), 1, 28, 10, 1_753_345, id="MNIST"),
        pytest.param((1, 2, 2), (8, 16), 3, 32, 0, 1_804_451, id="CelebA-32"),
        pytest.param((1, 2, 2), (16,), 3, 32, 10, 1_754_499, id="CIFAR-10"),
        pytest.param((1, 2, 2), (8, 16), 3, 32, 1000, 1_836_483, id="ImageNet-32"),
        pytest.param((1, 1, 2, 2), (8, 16), 3, 64, 0, 1_999_907, id="CelebA-64"),
    ],
)
def test_dpdm_networks_have_exactly_the_published_parameters(
    mult, attention, channels, size, classes, parameters
):
    net = on_meta(SongUNet(mult=mult, attention=attention, **DPDM), channels, channels, size, classes)
    assert networks.summary(net)["total"] == parameters


def test_adm_starts_as_wide_as_its_first_level():
    """As in guided-diffusion, whose network of these sizes has as many parameters."""
    net = on_meta(AdmUNet(channels=128, mult=(2, 1), blocks=1, attention=(8,)), 3, 6, 16, 5)
    assert net.input.out_channels == 256
    assert networks.summary(net)["total"] == 10_776_710


@pytest.mark.parametrize(
    ("depth", "width", "heads", "millions", "gmac"),
    [(12, 384, 6, 33, 6.0), (12, 768, 12, 130, None), (24, 1024, 16, 458, None), (28, 1152, 16, 675, 118.4)],
)
def test_dit_has_the_published_parameters(depth, width, heads, millions, gmac):
    net = on_meta(DiT(depth=depth, width=width, heads=heads), 4, 8, 32, 1000)
    assert round(networks.summary(net)["total"] / 1e6) == millions
    if gmac is not None:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            net(torch.empty(1, 4, 32, 32, device="meta"), torch.empty(1, device="meta"))
        # The formula counts the blocks' products alone: patches, embedding and output add up to 1 %.
        assert counter.get_total_flops() / 2e9 == pytest.approx(gmac, rel=0.01)


def test_summary_counts_shared_and_own_parameters_once():
    inner = torch.nn.Linear(3, 3, bias=False)
    outer = torch.nn.Module()
    outer.scale = torch.nn.Parameter(torch.ones(5))
    outer.one, outer.two, outer.none = (
        inner,
        torch.nn.Sequential(inner, torch.nn.Linear(3, 1)),
        torch.nn.SiLU(),
    )
    assert networks.summary(outer) == {"total": 18, "by_module": {"one": 9, "two": 4, "(own)": 5}}


def test_configs_reach_down_to_thirty_thousand_parameters():
    net = on_meta(SongUNet(channels=8, mult=(1, 2), blocks=1, attention=()), 1, 1, 8)
    assert networks.summary(net)["total"] < 50_000
