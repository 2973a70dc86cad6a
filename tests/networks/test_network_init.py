"""Initial weights: their scales are those of the papers, and the output starts at (nearly) zero."""

import math

import pytest
import torch

from gentool import networks
from gentool.networks.blocks import ResBlock
from gentool.networks.config import AdmUNet, DiT, FilmMLP, SongUNet

SONG = SongUNet(channels=64, mult=(1, 2), blocks=1, attention=(), augment=9)
ADM = AdmUNet(channels=64, mult=(1, 2), blocks=1, attention=(), augment=9)


def built(config, classes=10):
    torch.manual_seed(0)
    return networks.build(config, 3, 3, 8, classes)


def rms(weight):
    return weight.detach().square().mean().sqrt().item()


def test_song_weights_are_xavier_uniform_and_branches_end_near_zero():
    net = built(SONG)
    block = next(m for m in net.modules() if isinstance(m, ResBlock) and m.attention is not None)
    c = block.conv0.in_channels
    xavier = math.sqrt(2 / (9 * 2 * c))
    assert rms(block.conv0.weight) == pytest.approx(xavier, rel=0.02)
    assert block.conv0.weight.abs().max().item() == pytest.approx(math.sqrt(3) * xavier, rel=0.01)
    assert rms(block.conv1.weight) == pytest.approx(1e-5 * xavier, rel=0.02)
    assert rms(block.attention.qkv.weight) == pytest.approx(math.sqrt(0.2 * 2 / (4 * c)), rel=0.02)
    assert rms(block.attention.proj.weight) == pytest.approx(1e-5 / math.sqrt(c), rel=0.02)
    biases = [p for name, p in net.named_parameters() if name.endswith("bias")]
    assert all(not p.any() for p in biases)
    assert rms(net.mapping.label.linear.weight) == pytest.approx(math.sqrt(2 / (10 + 64)), rel=0.1)


def test_dpdm_label_table_is_standard_normal():
    net = built(SONG.model_copy(update={"label_embedding": "table"}), classes=200)
    assert net.mapping.label.weight.shape == (201, 64)
    assert rms(net.mapping.label.weight) == pytest.approx(1, rel=0.03)


def test_adm_weights_are_uniform_in_fan_in_and_labels_standard_normal():
    net = built(ADM, classes=50)
    block = net.middle[0]
    fan_in = 9 * block.conv0.in_channels
    assert rms(block.conv0.weight) == pytest.approx(1 / math.sqrt(3 * fan_in), rel=0.02)
    assert block.conv0.bias.abs().max().item() <= 1 / math.sqrt(fan_in)
    assert rms(block.conv0.bias) == pytest.approx(1 / math.sqrt(3 * fan_in), rel=0.25)
    assert rms(net.mapping.label.linear.weight) == pytest.approx(1, rel=0.03)
    assert not net.mapping.augment.weight.any()


@pytest.mark.parametrize("config", [SONG, ADM, DiT(width=32, depth=2, heads=2), FilmMLP(width=32)])
def test_the_output_starts_at_zero(config):
    out = built(config)(torch.randn(2, 3, 8, 8), torch.randn(2), torch.tensor([0, 10]))
    assert out.abs().max().item() <= (1e-4 if config.name == "song-unet" else 0)


def test_the_same_seed_gives_the_same_weights():
    one, two = built(SONG).state_dict(), built(SONG).state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
