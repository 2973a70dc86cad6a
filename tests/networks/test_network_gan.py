"""Generators with a latent and their discriminators."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from gentool.errors import UserError
from gentool.networks import gan_config as configs
from gentool.networks.discriminator import (
    ConvDiscriminator,
    Discriminator,
    build_discriminator,
    group_size,
    minibatch_std,
)
from gentool.networks.generator import (
    AdaptiveGroupNorm,
    Generator,
    PixelNorm,
    StyleMapping,
    build_generator,
    scaled_uniform,
)

UNET = configs.LatentUNet(channels=8, mult=(1, 2), blocks=1, attention=(4,), latent=5, style=8, layers=1)
CONV = configs.ConvDiscriminator(channels=8, mult=(1, 2), embedding=8)
MLP, MLP_D = configs.LatentMlp(width=16, tanh=True), configs.MlpDiscriminator(width=16)


def shaken(module: nn.Module, by: float = 0.1) -> nn.Module:
    """In float64, off the initial values, of which some are nearly zero."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.double().parameters():
            parameter += by * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return module


def made(config: configs.GeneratorConfig, classes: int = 3, shape: tuple[int, ...] = (1, 8, 8)) -> Generator:
    torch.manual_seed(0)
    found = shaken(build_generator(config, shape, classes))
    assert isinstance(found, Generator)
    return found


def judge(config: configs.DiscriminatorConfig, classes: int = 3) -> Discriminator:
    torch.manual_seed(0)
    found = shaken(build_discriminator(config, (1, 8, 8), classes))
    assert isinstance(found, Discriminator)
    return found


def inputs(count: int = 4) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, x_next, k and label."""
    x, x_next = torch.randn(
        2, count, 1, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    return x, x_next, torch.arange(count) % 4, torch.arange(count) % 3


def latents(count: int, width: int) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def test_pixel_norm_keeps_the_direction_alone() -> None:
    z = latents(6, 7)
    out = PixelNorm()(z)
    torch.testing.assert_close(out.square().mean(1), torch.ones(6, dtype=torch.float64), rtol=0, atol=1e-6)
    torch.testing.assert_close(F.cosine_similarity(out, z), torch.ones(6, dtype=torch.float64))
    torch.testing.assert_close(PixelNorm()(3 * z), out, rtol=1e-6, atol=1e-6)
    assert (PixelNorm()(torch.zeros(1, 7)) == 0).all()


def test_the_adaptive_norm_starts_as_the_plain_one_at_w_zero_and_only_there() -> None:
    norm, x = AdaptiveGroupNorm(8, 5, eps=1e-6).double(), torch.randn(2, 8, 4, 4, dtype=torch.float64)
    plain = F.group_norm(x, 2, eps=1e-6)
    torch.testing.assert_close(norm(x, torch.zeros(2, 5, dtype=torch.float64)), plain)
    w = latents(2, 5)
    gamma, beta = norm.style(w)[:, :, None, None].chunk(2, 1)
    torch.testing.assert_close(norm(x, w), gamma * plain + beta)
    assert (norm(x, w) - plain).abs().max() > 1e-2


@pytest.mark.parametrize("layer", [nn.Linear(30, 50), nn.Conv2d(20, 40, 3)])
def test_initial_weights_have_the_variance_asked_for(layer: nn.Linear | nn.Conv2d) -> None:
    """scale / fan-out, uniform: its largest value is sqrt 3 standard deviations."""
    torch.manual_seed(0)
    fan_out = layer.weight.shape[0] * layer.weight[0, 0].numel()
    weight = scaled_uniform(layer, 0.5).weight
    assert weight.var().item() == pytest.approx(0.5 / fan_out, rel=0.1)
    assert weight.abs().max().item() <= math.sqrt(3 * 0.5 / fan_out)
    assert layer.bias is not None
    assert (layer.bias == 0).all()


@pytest.mark.parametrize("config", [UNET, MLP], ids=lambda c: c.name)
def test_the_generator_answers_each_example_by_itself(config: configs.GeneratorConfig) -> None:
    network, (x, _, k, label), z = made(config), inputs(), latents(4, config.latent)
    out = network(x, k, z, label)
    assert out.shape == x.shape
    assert out.abs().max() < 1
    for i in range(4):
        alone = network(x[i : i + 1], k[i : i + 1], z[i : i + 1], label[i : i + 1])
        torch.testing.assert_close(alone, out[i : i + 1], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("config", [UNET, MLP], ids=lambda c: c.name)
def test_everything_that_the_generator_is_told_matters(config: configs.GeneratorConfig) -> None:
    network, (x, x_next, k, label), z = made(config), inputs(), latents(4, config.latent)
    out = network(x, k, z, label)
    others = (
        network(x_next, k, z, label),
        network(x, (k + 1) % 4, z, label),
        network(x, k, z.flip(0), label),
        network(x, k, z, (label + 1) % 3),
    )
    for other in others:
        assert ((other - out).flatten(1).norm(dim=1) > 1e-6).all()


@pytest.mark.parametrize("config", [UNET, MLP], ids=lambda c: c.name)
def test_without_a_latent_the_generator_has_no_mapping_of_it(config: configs.GeneratorConfig) -> None:
    plain = config.model_copy(update={"latent": 0})
    network, (x, _, k, _) = made(plain, classes=0), inputs()
    assert network(x, k, latents(4, 0)).shape == x.shape
    less = sum(p.numel() for p in made(config, classes=0).parameters())
    assert sum(p.numel() for p in network.parameters()) < less


def test_per_example_gradients_pass_through_the_generator() -> None:
    network, (x, _, k, label), z = made(UNET), inputs(), latents(4, 5)
    weights = dict(network.named_parameters())

    def loss(weights: dict[str, Tensor], *example: Tensor) -> Tensor:
        return functional_call(network, weights, tuple(v[None] for v in example)).square().sum()

    each = vmap(grad(loss), in_dims=(None, 0, 0, 0, 0))(weights, x, k, z, label)
    third = grad(loss)(weights, x[2], k[2], z[2], label[2])
    for name, value in third.items():
        torch.testing.assert_close(each[name][2], value, rtol=1e-7, atol=1e-9)


def test_the_latent_does_not_reach_w_by_its_length_or_the_step() -> None:
    mapping = StyleMapping(latent=5, width=8, layers=2, classes=0).double()
    z = latents(3, 5)
    torch.testing.assert_close(mapping(10 * z, None), mapping(z, None), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("config", [CONV, MLP_D], ids=lambda c: c.name)
def test_everything_that_the_discriminator_is_told_matters(config: configs.DiscriminatorConfig) -> None:
    network, (x, x_next, k, label) = judge(config), inputs()
    out = network(x, x_next, k, label)
    assert out.shape == (4,)
    others = (
        network(x_next, x_next, k, label),
        network(x, x, k, label),
        network(x, x_next, (k + 1) % 4, label),
        network(x, x_next, k, (label + 1) % 3),
    )
    for other in others:
        assert ((other - out).abs() > 1e-7).all()


def test_groups_are_pictures_apart_and_have_no_order() -> None:
    """Of 8 pictures, j and j + 2, 4, 6 share a deviation: reordered among themselves, nothing changes."""
    network, (x, x_next, k, _) = judge(CONV, classes=0), inputs(8)
    out = network(x, x_next, k)
    within = torch.tensor([4, 1, 0, 3, 2, 5, 6, 7])
    torch.testing.assert_close(network(x[within], x_next[within], k[within]), out[within])
    across = torch.tensor([1, 0, 2, 3, 4, 5, 6, 7])
    assert (network(x[across], x_next[across], k[across]) - out[across]).abs().max() > 1e-7


def test_the_deviation_of_a_minibatch_is_its_groups_mean_deviation() -> None:
    x = torch.randn(8, 3, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    out = minibatch_std(x, 4)
    assert torch.equal(out[:, :3], x)
    for j in (0, 1):
        expected = (x[j::2].var(0, unbiased=False) + 1e-8).sqrt().mean()
        torch.testing.assert_close(out[j::2, 3], expected.expand(4, 2, 2))
    torch.testing.assert_close(
        minibatch_std(x[:1].repeat(4, 1, 1, 1), 4)[:, 3], torch.full((4, 2, 2), 1e-4).double()
    )


@pytest.mark.parametrize(("batch", "size"), [(8, 4), (4, 4), (6, 3), (2, 2), (1, 1), (7, 1), (10, 2)])
def test_groups_divide_the_batch(batch: int, size: int) -> None:
    assert group_size(batch, 4) == size
    assert minibatch_std(torch.randn(batch, 2, 2, 2), 4).shape == (batch, 3, 2, 2)


def test_at_first_the_branches_of_the_discriminator_are_nearly_shut() -> None:
    """A residual block is its shortcut, and the head's logits are close to its output bias, 0."""
    torch.manual_seed(0)
    network = build_discriminator(CONV, (1, 8, 8))
    assert isinstance(network, ConvDiscriminator)
    h, emb = torch.randn(2, 8, 8, 8), torch.randn(2, 8)
    block = network.blocks[0]
    torch.testing.assert_close(block(h, emb), block.skip(h) * math.sqrt(0.5), rtol=0, atol=1e-3)
    x, x_next, k, _ = (v.float() for v in inputs())
    assert network(x, x_next, k.long()).abs().max() < 1e-2


def test_blocks_halve_the_resolution_after_the_full_ones() -> None:
    network = build_discriminator(
        configs.ConvDiscriminator(channels=4, mult=(1, 2, 4, 4), embedding=8), (3, 32, 32)
    )
    assert isinstance(network, ConvDiscriminator)
    sides, h, emb = [], torch.randn(1, 4, 32, 32), torch.randn(1, 8)
    for block in network.blocks:
        h = block(h, emb)
        sides.append((h.shape[1], h.shape[2]))
    assert sides == [(4, 32), (8, 16), (16, 8), (16, 4)]


@pytest.mark.parametrize(
    ("shape", "words"),
    [((2,), "discriminator mlp"), ((1, 28, 28), "cannot be halved 3 times"), ((3, 32, 20), "32x20")],
)
def test_shapes_that_the_discriminator_cannot_take(shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(UserError, match=words):
        build_discriminator(configs.ConvDiscriminator(channels=4, embedding=8), shape)


@pytest.mark.parametrize(
    ("shape", "words"),
    [((2,), "needs images"), ((1, 30, 30), "cannot be halved 3 times"), ((3, 64, 64), "")],
)
def test_shapes_that_the_generator_cannot_take(shape: tuple[int, ...], words: str) -> None:
    config = configs.LatentUNet(channels=8, style=8)
    if not words:
        build_generator(config, shape)
        return
    with pytest.raises(UserError, match=words):
        build_generator(config, shape)
