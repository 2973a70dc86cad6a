"""The parts of the U-Nets against closed forms and against diffusers' independent implementation."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gentool.networks.blocks import BlockStyle, FirDown, FirUp, GroupNorm, ResBlock
from gentool.networks.dit import grid_positions
from gentool.networks.embedding import OneHot, Positional

SONG = BlockStyle(16, 1e-6, False, math.sqrt(0.5), True, 0.0)
ADM = BlockStyle(16, 1e-5, True, 1.0, False, 0.0)


def test_fir_down_then_up_keeps_a_constant_and_up_multiplies_the_sum_by_four():
    flat = torch.ones(1, 3, 16, 16)
    down = FirDown()(flat)
    torch.testing.assert_close(down[..., 1:-1, 1:-1], torch.ones(1, 3, 6, 6))
    torch.testing.assert_close(FirUp()(flat)[..., 1:-1, 1:-1], torch.ones(1, 3, 30, 30))
    dot = F.pad(torch.ones(1, 1, 1, 1), (3, 3, 3, 3))
    assert FirUp()(dot).sum().item() == pytest.approx(4.0)


@pytest.mark.golden
def test_fir_equals_diffusers():
    from diffusers.models.downsampling import downsample_2d
    from diffusers.models.upsampling import upsample_2d

    x = torch.randn(2, 3, 8, 8)
    kernel = torch.tensor([1.0, 3.0, 3.0, 1.0])
    torch.testing.assert_close(FirDown()(x), downsample_2d(x, kernel))
    torch.testing.assert_close(FirUp()(x), upsample_2d(x, kernel))


@pytest.mark.golden
@pytest.mark.parametrize(("style", "projected"), [(SONG, True), (ADM, False)])
@pytest.mark.parametrize("resample", [None, "up", "down"])
@pytest.mark.parametrize("out", [8, 12])
def test_residual_block_equals_diffusers(style, projected, resample, out):
    from diffusers.models.resnet import ResnetBlock2D

    peer = ResnetBlock2D(
        in_channels=8,
        out_channels=out,
        temb_channels=16,
        groups=2,
        groups_out=out // 4,
        eps=style.eps,
        time_embedding_norm="scale_shift" if style.scale_shift else "default",
        output_scale_factor=1 / style.skip_scale,
        use_in_shortcut=out != 8 or (projected and resample is not None),
        up=resample == "up",
        down=resample == "down",
    )
    block = ResBlock(8, out, style, resample=resample)
    names = {"norm0": "norm1", "conv0": "conv1", "embed": "time_emb_proj", "norm1": "norm2", "conv1": "conv2"}
    state = {
        f"{names.get(k.split('.')[0], 'conv_shortcut')}.{k.split('.')[1]}": v
        for k, v in block.state_dict().items()
    }
    peer.load_state_dict(state)
    x, emb = torch.randn(2, 8, 6, 6), torch.randn(2, 16)
    torch.testing.assert_close(block(x, F.silu(emb)), peer(x, emb), rtol=1e-4, atol=1e-5)


@pytest.mark.golden
@pytest.mark.parametrize("endpoint", [True, False])
def test_positional_embedding_equals_diffusers(endpoint):
    from diffusers.models.embeddings import get_timestep_embedding

    c_noise = torch.tensor([-1.3, 0.0, 0.7, 999.0])
    expected = get_timestep_embedding(
        c_noise, 32, flip_sin_to_cos=not endpoint, downscale_freq_shift=float(endpoint)
    )
    torch.testing.assert_close(Positional(32, endpoint)(c_noise), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.golden
def test_grid_positions_equal_diffusers():
    from diffusers.models.embeddings import get_2d_sincos_pos_embed

    expected = get_2d_sincos_pos_embed(16, 4, base_size=4, output_type="pt")
    torch.testing.assert_close(grid_positions((4, 4), 16), expected.float())


def test_one_hot_maps_the_null_label_to_the_bias_alone():
    layer = OneHot(4, 6, scale=2.0, bias=True)
    nn.init.normal_(layer.linear.bias)
    out = layer(torch.tensor([1, 4]))
    torch.testing.assert_close(out[0], 2 * layer.linear.weight[:, 1] + layer.linear.bias)
    torch.testing.assert_close(out[1], layer.linear.bias)


@pytest.mark.parametrize(
    ("channels", "groups"), [(8, 2), (64, 16), (128, 32), (256, 32), (144, 24), (288, 32), (30, 6)]
)
def test_group_norm_groups_divide_the_channels(channels, groups):
    assert GroupNorm(channels, 1e-6).num_groups == groups


def test_group_norm_statistics_stay_in_float32_under_bfloat16():
    norm = GroupNorm(8, 1e-6)
    x = (300 + torch.randn(2, 8, 16, 16)).bfloat16()  # a mean that bfloat16 sums lose
    exact = F.group_norm(x.double(), 2, eps=1e-6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = norm(x)
    assert out.dtype == torch.bfloat16
    assert (out.double() - exact).abs().max() < 0.02


def test_a_block_with_a_silent_branch_is_its_shortcut_times_the_skip_scale():
    block = ResBlock(8, 8, SONG, heads=1)
    assert block.attention is not None
    for layer in (block.conv1, block.attention.proj):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    x = torch.randn(2, 8, 4, 4)
    torch.testing.assert_close(block(x, torch.randn(2, 16)), x / 2)  # one factor sqrt(1/2) a sum
