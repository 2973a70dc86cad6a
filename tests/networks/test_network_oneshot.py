"""One-shot generators: sizes, range, labels, and what BatchNorm depends on."""

from __future__ import annotations

import typing

import pytest
import torch
from torch import Tensor

from gentool import networks
from gentool.errors import UserError
from gentool.networks import oneshot_config as blocks
from gentool.networks.oneshot import Generator, measure_statistics

CONFIGS = {
    block.model_fields["name"].default: block
    for block in typing.get_args(typing.get_args(blocks.GeneratorConfig)[0])
}
SMALL = {
    "dcgan": {"latent": 4, "embedding": 3, "channels": 8},
    "biggan": {"latent": 4, "channels": 16},
    "mlp": {"latent": 4, "width": 16},
}


def make(name: str, classes: int = 3, size: int = 8) -> Generator:
    torch.manual_seed(0)
    return networks.build_oneshot(CONFIGS[name](**SMALL[name]), 2, size, classes)


def inputs(count: int, latent: int = 4, classes: int = 3) -> tuple[Tensor, Tensor]:
    z = torch.rand(count, latent, generator=torch.Generator().manual_seed(1))
    return z, torch.arange(count) % classes


@pytest.fixture(params=list(CONFIGS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_every_block_of_the_schema_is_built_and_tested() -> None:
    assert set(CONFIGS) == set(SMALL) == set(networks._GENERATORS)


@pytest.mark.parametrize(
    ("config", "shape", "classes", "parameters"),
    [
        # 24*256*49 + 512 + 256*128*16 + 256 + 128*64*16 + 128 + (64*9 + 1) + 10*8
        (blocks.DcganGenerator(), (1, 28), 10, 957_969),
        # (32 + 1)*4096 + 3 (2*(256*256*9 + 256) + 256*256 + 256 + 4*2*256) + 512 + 256*9*3 + 3
        (blocks.ResGenerator(), (3, 32), 2, 3_886_595),
        # 22*128 + 128 + 128*128 + 128 + 128*49 + 49
        (blocks.MlpGenerator(), (1, 7), 10, 25_777),
    ],
)
def test_parameters_of_the_papers_networks(
    config: typing.Any, shape: tuple[int, int], classes: int, parameters: int
) -> None:
    assert networks.summary(networks.build_oneshot(config, *shape, classes))["total"] == parameters


@pytest.mark.parametrize("classes", [0, 3])
def test_images_lie_in_the_open_range_of_tanh(name: str, classes: int) -> None:
    generator = make(name, classes)
    z, label = inputs(6)
    out = generator(z, label if classes else None).detach()
    assert out.shape == (6, 2, 8, 8)
    assert float(out.abs().max()) < 1


def test_an_image_depends_on_its_own_latent_and_label_alone(name: str) -> None:
    generator, (z, label) = make(name).eval(), inputs(6)
    whole = generator(z, label)
    torch.testing.assert_close(generator(z[2:3], label[2:3]), whole[2:3], rtol=1e-5, atol=1e-6)
    assert (generator(z[:1], label[1:2]) - whole[:1]).abs().max() > 1e-5
    assert (generator(z[1:2], label[:1]) - whole[:1]).abs().max() > 1e-5


@pytest.mark.parametrize("name", ["dcgan", "biggan"])
def test_measured_statistics_are_those_of_the_present_weights(name: str) -> None:
    """Eval mode then does to a batch what training mode did to it (but for N/(N - 1) of the variance)."""
    generator, (z, label) = make(name), inputs(64)
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2))
    for _ in range(30):  # the power iterations of spectral norm settle
        expected = generator(z, label).detach()
    generator.eval()
    assert (generator(z, label) - expected).abs().max() > 0.02
    measure_statistics(generator, [(z, label), (z, label)])
    torch.testing.assert_close(generator(z, label), expected, rtol=0, atol=5e-3)
    assert not generator.training
    assert {m.momentum for m in generator.modules() if isinstance(m, torch.nn.BatchNorm2d)} == {0.1}


@pytest.mark.parametrize(("name", "size"), [("dcgan", 10), ("dcgan", 4), ("biggan", 28), ("biggan", 4)])
def test_sizes_that_a_network_cannot_make_are_refused(name: str, size: int) -> None:
    with pytest.raises(UserError, match=rf"{name} makes images of .*not {size}"):
        make(name, size=size)
