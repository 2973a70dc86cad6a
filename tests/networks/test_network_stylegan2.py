"""StyleGAN2's networks: their definitions written out, the published names and numbers, what truncation means."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gentool.errors import UserError
from gentool.networks.blocks import FirDown, FirUp
from gentool.networks.discriminator import minibatch_std
from gentool.networks.stylegan2 import Generator, modulated_conv
from gentool.networks.stylegan2_config import StyleDiscriminator, StyleGenerator
from gentool.networks.stylegan2_discriminator import Discriminator
from gentool.networks.stylegan2_layers import Conv, Dense, unit_rms
from gentool.networks.upfirdn import down_conv, fir_kernel, up_conv, upfirdn2d

TINY = StyleGenerator(latent=6, style=5, layers=2, channel_base=64, channel_max=8)
TINY_D = StyleDiscriminator(channel_base=64, channel_max=8, layers=2)


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def tiny(classes: int = 0, size: int = 16, **changes: object) -> Generator:
    """In float64, with noise that shows and an average of w that is not zero."""
    made = Generator(TINY.model_copy(update=changes), 2, size, classes).double()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if name.endswith("noise_strength"):
                parameter.fill_(0.3)
        made.mapping.w_avg.normal_()
    return made


# --- up-sampling, filtering, down-sampling ---


def by_definition(x: Tensor, kernel: Tensor, up: int, down: int, padding: tuple[int, int]) -> Tensor:
    """Zeros put in, padding, the sum of the convolution, every down-th pixel: one picture (H, W), pixel by pixel."""
    before, after = padding
    k = len(kernel)
    wide = torch.zeros([side * up + max(before, 0) + max(after, 0) for side in x.shape], dtype=x.dtype)
    start = max(before, 0)
    wide[start : start + x.shape[0] * up : up, start : start + x.shape[1] * up : up] = x
    rows, columns = (slice(max(-before, 0), n - max(-after, 0)) for n in wide.shape)
    wide = wide[rows, columns]
    out = torch.zeros([n - k + 1 for n in wide.shape], dtype=x.dtype)
    for i, j in product(*map(range, out.shape)):
        out[i, j] = (wide[i : i + k, j : j + k] * kernel.flip(0, 1)).sum()
    return out[::down, ::down]


@pytest.mark.parametrize("up", [1, 2, 3])
@pytest.mark.parametrize("down", [1, 2])
@pytest.mark.parametrize("padding", [(0, 0), (1, 1), (2, 1), (1, 2), (-1, 0), (3, 4)])
def test_upfirdn_is_its_definition(up: int, down: int, padding: tuple[int, int]) -> None:
    x, kernel = normal(2, 3, 5, 6), normal(3, 3)
    found = upfirdn2d(x, kernel, up=up, down=down, padding=padding)
    for b, c in product(range(2), range(3)):
        torch.testing.assert_close(found[b, c], by_definition(x[b, c], kernel, up, down, padding))


def test_the_filter_is_that_of_the_residual_blocks() -> None:
    x, kernel = normal(2, 3, 8, 8), fir_kernel().double()
    assert kernel.sum() == 1
    torch.testing.assert_close(upfirdn2d(x, 4 * kernel, up=2, padding=(2, 1)), FirUp().double()(x))
    torch.testing.assert_close(upfirdn2d(x, kernel, down=2, padding=(1, 1)), FirDown().double()(x))


def test_constant_pictures_stay_constant_inside_and_fall_at_the_border() -> None:
    out = upfirdn2d(torch.ones(1, 1, 6, 6), 4 * fir_kernel(), up=2, padding=(2, 1))
    torch.testing.assert_close(out[..., 1:-1, 1:-1], torch.ones(1, 1, 10, 10))
    assert out[0, 0, 0, 0] < 0.6  # bilinear sampling would keep 1 here
    down = upfirdn2d(torch.ones(1, 1, 8, 8), fir_kernel(), down=2, padding=(1, 1))
    torch.testing.assert_close(down[..., 1:-1, 1:-1], torch.ones(1, 1, 2, 2))


@pytest.mark.parametrize("size", [1, 3])
def test_resampling_convolutions_are_filter_and_convolution(size: int) -> None:
    """Down: all pixels filtered and convolved, every second kept. Up: zeros put in, convolved, filtered."""
    x, weight, kernel = normal(2, 3, 8, 8), normal(4, 3, size, size), fir_kernel().double()
    half = size // 2
    whole = F.conv2d(upfirdn2d(x, kernel, padding=(1 + half, 1 + half)), weight)
    torch.testing.assert_close(down_conv(x, weight, kernel), whole[:, :, ::2, ::2])
    if size == 3:
        zeros = F.pad(
            F.conv_transpose2d(x, torch.ones(3, 1, 1, 1).double(), stride=2, groups=3), [2, 2, 2, 2]
        )
        spread = F.conv2d(zeros, weight.flip(2, 3))  # a transposed convolution does not turn its kernel round
        torch.testing.assert_close(up_conv(x, weight, kernel), upfirdn2d(spread, 4 * kernel, padding=(1, 1)))
        assert up_conv(x, weight, kernel).shape == (2, 4, 16, 16)


def test_second_derivatives_pass_through_resampling() -> None:
    weight, kernel = normal(2, 2, 3, 3).requires_grad_(), fir_kernel().double()
    x = normal(1, 2, 4, 4).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x, w: down_conv(x, w, kernel), (x, weight))
    assert torch.autograd.gradgradcheck(lambda x, w: up_conv(x, w, kernel), (x, weight))


# --- modulation ---


@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize("demodulate", [False, True])
def test_scaled_activations_equal_scaled_weights(up: bool, demodulate: bool) -> None:
    """Weights W_oi s_i / |W_o s|, a set for each picture, all in one grouped convolution."""
    x, weight, style = normal(3, 4, 5, 5), normal(6, 4, 3, 3), normal(3, 4)
    each = weight * style[:, None, :, None, None]
    if demodulate:
        each = each * (each.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
    if up:
        kernel = fir_kernel().double()
        expected = torch.cat([up_conv(picture[None], w, kernel) for picture, w in zip(x, each)])
    else:
        expected = F.conv2d(x.flatten(0, 1)[None], each.flatten(0, 1), padding=1, groups=3)[0].unflatten(
            0, (3, 6)
        )
    found = modulated_conv(x, weight, style, demodulate=demodulate, up=fir_kernel().double() if up else None)
    torch.testing.assert_close(found, expected)


def test_modulation_by_hand() -> None:
    """A 2x2 picture, two maps to one, 1x1: (s_0 w_0 x_0 + s_1 w_1 x_1)/sqrt(s_0^2 w_0^2 + s_1^2 w_1^2)."""
    x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]], [[0.0, 1.0], [1.0, 0.0]]]], dtype=torch.float64)
    weight = torch.tensor([1.0, 2.0], dtype=torch.float64).view(1, 2, 1, 1)
    style = torch.tensor([[3.0, 2.0]], dtype=torch.float64)
    plain = torch.tensor([[[[3.0, 10.0], [13.0, 12.0]]]], dtype=torch.float64)
    torch.testing.assert_close(modulated_conv(x, weight, style, demodulate=False), plain)
    torch.testing.assert_close(modulated_conv(x, weight, style), plain / 5)


def test_demodulation_keeps_unit_variance() -> None:
    out = modulated_conv(normal(8, 64, 16, 16), normal(64, 64, 3, 3), 1 + 0.5 * normal(8, 64))
    assert out[..., 1:-1, 1:-1].var().item() == pytest.approx(1, abs=0.1)


def test_equalised_layers_have_unit_variance_whatever_the_rate() -> None:
    x = torch.randn(500, 256)
    for rate in (1.0, 0.01):
        layer = Dense(256, 200, rate=rate, bias=0.5)
        assert layer.weight.std().item() == pytest.approx(1 / rate, rel=0.05)
        assert layer(x).var().item() == pytest.approx(1, rel=0.1)
        assert layer(0 * x)[0, 0].item() == pytest.approx(0.5 * rate)
    conv = Conv(64, 32, 3)
    out = conv(torch.randn(2, 64, 16, 16))[..., 1:-1, 1:-1]
    assert out.square().mean().item() == pytest.approx(1.04, rel=0.1)  # 2 E leaky(n)^2 = 1 + 0.2^2


def test_clamping() -> None:
    conv = Conv(4, 4, 3, clamp=0.5)
    assert conv(100 * torch.randn(2, 4, 8, 8), gain=0.5).abs().max() == 0.25


# --- the generator ---


def published_names(size: int, base: int, layers: int, classes: int = 0) -> dict[str, tuple[int, ...]]:
    """Names and shapes of an official generator's state dict, written down from its definition."""
    wide, taps = 512, (4, 4)
    names: dict[str, tuple[int, ...]] = {"mapping.w_avg": (wide,)}
    if classes:
        names |= {"mapping.embed.weight": (wide, classes), "mapping.embed.bias": (wide,)}
    for i in range(layers):
        inputs = 2 * wide if classes and i == 0 else wide
        names |= {f"mapping.fc{i}.weight": (wide, inputs), f"mapping.fc{i}.bias": (wide,)}
    before = 0
    for res in [2**k for k in range(2, size.bit_length())]:
        block, out = f"synthesis.b{res}", min(base // res, wide)
        names[f"{block}.resample_filter"] = taps
        if before:
            convs = {"conv0": before, "conv1": out}
        else:
            convs = {"conv1": out}
            names[f"{block}.const"] = (out, 4, 4)
        for conv, inputs in convs.items():
            names |= {
                f"{block}.{conv}.weight": (out, inputs, 3, 3),
                f"{block}.{conv}.bias": (out,),
                f"{block}.{conv}.noise_strength": (),
                f"{block}.{conv}.noise_const": (res, res),
                f"{block}.{conv}.resample_filter": taps,
                f"{block}.{conv}.affine.weight": (inputs, wide),
                f"{block}.{conv}.affine.bias": (inputs,),
            }
        names |= {
            f"{block}.torgb.weight": (3, out, 1, 1),
            f"{block}.torgb.bias": (3,),
            f"{block}.torgb.affine.weight": (out, wide),
            f"{block}.torgb.affine.bias": (out,),
        }
        before = out
    return names


@pytest.mark.parametrize(
    ("size", "base", "layers", "classes"), [(1024, 32768, 8, 0), (256, 16384, 8, 0), (32, 32768, 2, 10)]
)
def test_names_and_shapes_are_the_published_ones(size: int, base: int, layers: int, classes: int) -> None:
    with torch.device("meta"):
        made = Generator(StyleGenerator(channel_base=base, layers=layers), 3, size, classes)
    assert {name: tuple(v.shape) for name, v in made.state_dict().items()} == published_names(
        size, base, layers, classes
    )


def test_numbers_of_parameters_are_the_published_ones() -> None:
    """As the authors' program prints them for FFHQ at 1024 pixels."""
    with torch.device("meta"):
        g = Generator(StyleGenerator(channel_base=32768), 3, 1024)
        d = Discriminator(StyleDiscriminator(channel_base=32768), 3, 1024)
    assert sum(p.numel() for p in g.parameters()) == 30_370_060
    assert sum(p.numel() for p in d.parameters()) == 29_012_513
    assert g.synthesis.b4.conv1.weight.numel() == 2_359_296
    assert d.b4.fc.weight.shape == (512, 8192)


@pytest.mark.parametrize(("size", "count"), [(8, 4), (32, 8), (256, 14), (1024, 18)])
def test_how_many_w_a_picture_takes(size: int, count: int) -> None:
    with torch.device("meta"):
        made = Generator(StyleGenerator(channel_base=1024), 3, size)
    assert made.synthesis.num_ws == count == 2 * int(math.log2(size)) - 2


def test_which_layer_reads_which_w() -> None:
    """A block's picture reads the w of the next block's first convolution."""
    g = tiny()
    names = {"b4": ("conv1", "torgb"), "b8": ("conv0", "conv1", "torgb"), "b16": ("conv0", "conv1", "torgb")}
    place = {"b4": (0, 1), "b8": (1, 2, 3), "b16": (3, 4, 5)}
    seen: dict[str, Tensor] = {}

    def note(name: str) -> object:
        return lambda module, arguments: seen.__setitem__(name, arguments[0])

    for block, parts in names.items():
        for part in parts:
            layer = g.synthesis.get_submodule(f"{block}.{part}.affine")
            layer.register_forward_pre_hook(note(f"{block}.{part}"))  # type: ignore[arg-type]
    ws = normal(2, 6, 5)
    g.synthesis(ws)
    for block, parts in names.items():
        for part, i in zip(parts, place[block]):
            assert torch.equal(seen[f"{block}.{part}"], ws[:, i]), (block, part)


def test_w_alone_is_the_same_w_for_every_layer() -> None:
    g, w = tiny(), normal(3, 5)
    assert g.synthesis(w).shape == (3, 2, 16, 16)
    assert torch.equal(g.synthesis(w), g.synthesis(w[:, None].expand(-1, 6, -1)))


def test_the_direction_of_z_alone_matters() -> None:
    g, z = tiny(), normal(4, 6)
    torch.testing.assert_close(unit_rms(z).square().mean(1), torch.ones(4).double())
    torch.testing.assert_close(g.mapping(z), g.mapping(3 * z), rtol=1e-6, atol=1e-8)


def test_noise() -> None:
    g, w = tiny(), normal(2, 5)
    kept, none = g.synthesis(w, "const"), g.synthesis(w, "none")
    assert (kept - none).abs().max() > 1e-3
    own = [g.get_submodule(f"synthesis.{name}").noise_const for name in g.synthesis.layer_names]
    planes = [plane.expand(2, 1, -1, -1) for plane in own]
    torch.testing.assert_close(g.synthesis(w, planes), kept)
    assert [plane.shape[-1] for plane in own] == g.synthesis.planes
    torch.testing.assert_close(g.synthesis(w, [0 * plane for plane in planes]), none)
    with pytest.raises(ValueError, match="3 noise planes for 5 layers"):
        g.synthesis(w, planes[:3])


def test_labels_move_w_and_are_needed() -> None:
    g, z = tiny(classes=3), normal(2, 6)
    first, second = (g.mapping(z, torch.tensor([k, k])) for k in (0, 1))
    assert (first - second).abs().max() > 1e-3
    with pytest.raises(ValueError, match="needs labels"):
        g.mapping(z)


def test_the_average_of_w_follows_by_its_decay() -> None:
    g = tiny()
    before, w = g.mapping.w_avg.clone(), normal(7, 5)
    g.mapping.track(w)
    torch.testing.assert_close(g.mapping.w_avg, 0.995 * before + 0.005 * w.mean(0))


def test_truncation() -> None:
    g, w = tiny(), normal(3, 5)
    assert torch.equal(g.truncated(w, 1.0), w)
    torch.testing.assert_close(g.truncated(w, 0.0), g.mapping.w_avg.expand(3, -1))
    torch.testing.assert_close(g.truncated(w, 0.7), g.mapping.w_avg + 0.7 * (w - g.mapping.w_avg))
    pictures = g.synthesis(g.truncated(w, 0.0))
    torch.testing.assert_close(pictures[1:], pictures[:1].expand(2, -1, -1, -1))
    partly = g.truncated(w, 0.5, cutoff=2)
    torch.testing.assert_close(partly[:, :2], g.truncated(w, 0.5)[:, None].expand(-1, 2, -1))
    assert torch.equal(partly[:, 2:], w[:, None].expand(-1, 4, -1))


def test_features_are_the_maps_after_each_activation() -> None:
    g, w = tiny(), normal(2, 5)
    maps = g.features(w)
    assert g.synthesis.feature_names == [
        "b4.const",
        "b4.conv1",
        "b8.conv0",
        "b8.conv1",
        "b16.conv0",
        "b16.conv1",
    ]
    assert [tuple(m.shape) for m in maps] == [(2, 8, r, r) for r in (4, 4, 8, 8)] + [(2, 4, 16, 16)] * 2
    assert torch.equal(maps[0][0], g.synthesis.b4.const)
    torch.testing.assert_close(maps[1], g.synthesis.b4.conv1(maps[0], w, g.synthesis.b4.conv1.noise_const))


@pytest.mark.parametrize(("size", "base", "most", "count"), [(512, 32768, 512, 6016), (32, 2048, 64, 512)])
def test_channels_of_all_features(size: int, base: int, most: int, count: int) -> None:
    with torch.device("meta"):
        made = Generator(StyleGenerator(style=8, latent=8, channel_base=base, channel_max=most), 1, size)
        assert sum(m.shape[1] for m in made.features(torch.zeros(1, 8))) == count


def test_a_tap_may_replace_a_map() -> None:
    """Zeroing the last map leaves its bias and the picture of the blocks before."""
    g, w = tiny(), normal(2, 5)
    out = g.synthesis(w, "none", lambda name, x: 0 * x if name.startswith("b16") else x)
    before: list[Tensor] = []

    def note(module: nn.Module, arguments: object, image: Tensor) -> None:
        before.append(image)

    for block in ("b4", "b8"):
        g.get_submodule(f"synthesis.{block}.torgb").register_forward_hook(note)
    g.synthesis(w, "none")
    kernel = 4 * fir_kernel().double()
    up = upfirdn2d(
        before[1] + upfirdn2d(before[0], kernel, up=2, padding=(2, 1)), kernel, up=2, padding=(2, 1)
    )
    torch.testing.assert_close(out, up + g.synthesis.b16.torgb.bias[:, None, None])


@pytest.mark.parametrize("size", [4, 12, 28, 100])
def test_sizes_that_are_no_power_of_two(size: int) -> None:
    with pytest.raises(UserError, match=f"8, 16, 32 ... pixels, not {size}"):
        Generator(TINY, 1, size)


def test_a_base_that_leaves_a_resolution_without_maps() -> None:
    with pytest.raises(UserError, match="channel_base 8 leaves no feature map at 16 pixels"):
        Generator(TINY.model_copy(update={"channel_base": 8}), 1, 16)


def test_bfloat16_autocast_keeps_w_and_the_sum_of_pictures_in_float32() -> None:
    g, z = tiny().float(), torch.randn(2, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        w = g.mapping(z)
        image = g.synthesis(w)
    assert w.dtype == image.dtype == torch.float32
    torch.testing.assert_close(w, g.mapping(z))
    torch.testing.assert_close(image, g.synthesis(w), rtol=0.1, atol=0.1)


# --- the discriminator ---


@pytest.mark.parametrize("architecture", ["resnet", "orig"])
@pytest.mark.parametrize("classes", [0, 3])
def test_logits(architecture: str, classes: int) -> None:
    config = TINY_D.model_copy(update={"architecture": architecture})
    d = Discriminator(config, 2, 16, classes).double()
    label = torch.tensor([0, 1, 2, 0]) if classes else None
    x = normal(4, 2, 16, 16)
    assert d(x, label).shape == (4,)
    assert ("b16.skip.weight" in d.state_dict()) == (architecture == "resnet")
    if classes:
        assert (d(x, label) - d(x, label.roll(1))).abs().max() > 1e-6  # type: ignore[union-attr]


def test_a_residual_block_is_the_scaled_sum_of_its_paths() -> None:
    block = Discriminator(TINY_D, 2, 16).double().b16
    x = normal(2, 2, 16, 16)
    h = block.fromrgb(x)
    expected = (block.skip(h) + block.conv1(block.conv0(h))) / math.sqrt(2)
    torch.testing.assert_close(block(x), expected)


def test_the_projection_is_the_inner_product_over_the_root_of_its_width() -> None:
    d = Discriminator(TINY_D, 2, 8, 3).double()
    x, label = normal(4, 2, 8, 8), torch.tensor([0, 1, 2, 0])
    h = minibatch_std(d.b8(x), 4)
    out = d.b4.out(d.b4.fc(d.b4.conv(h).flatten(1)))
    torch.testing.assert_close(d(x, label), (out * d.mapping(None, label)).sum(1) / math.sqrt(8))


def test_logits_are_differentiable_twice() -> None:
    d = Discriminator(TINY_D.model_copy(update={"channel_max": 2}), 1, 8).double()
    assert torch.autograd.gradgradcheck(lambda x: d(x), normal(2, 1, 8, 8).requires_grad_())
