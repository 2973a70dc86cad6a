"""What every network must keep so that samplers, vmap and forward-mode derivatives may use it.

A new network adds its block to `networks.config.NetworkConfig` and a small configuration here.
"""

from __future__ import annotations

import typing

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, jvp, vmap

from gentool import networks
from gentool.networks import config as blocks

SMALL: dict[str, dict[str, object]] = {
    "song-unet": {"channels": 8, "mult": (1, 2), "blocks": 1, "attention": (4,)},
    "adm-unet": {"channels": 8, "mult": (1, 2), "blocks": 1, "attention": (4,), "head_channels": 8},
    "dit": {"width": 16, "depth": 2, "heads": 2},
    "film-mlp": {"width": 16, "blocks": 2},
    "concat-mlp": {"width": 16, "blocks": 1},
}
UNION = typing.get_args(typing.get_args(blocks.NetworkConfig)[0])
CONFIGS = {block.model_fields["name"].default: block for block in UNION}


def make(name: str) -> networks.Network:
    torch.manual_seed(0)
    made = networks.build(CONFIGS[name](**SMALL[name]), 2, 4, 8, classes=3).double().eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return made


def inputs(count: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, 2, 8, 8, generator=generator, dtype=torch.float64)
    return x, torch.randn(count, generator=generator, dtype=torch.float64), torch.arange(count) % 4


@pytest.fixture(params=list(CONFIGS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_every_block_of_the_schema_is_built_and_tested() -> None:
    assert set(CONFIGS) == set(SMALL) == set(networks._BUILDERS)


def test_shapes_and_independence_of_the_batch(name: str) -> None:
    network, (x, level, label) = make(name), inputs()
    out = network(x, level, label)
    assert out.shape == (4, 4, 8, 8)
    alone = torch.cat([network(x[i : i + 1], level[i : i + 1], label[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(alone, out, rtol=1e-9, atol=1e-10)


def test_no_label_is_the_null_label(name: str) -> None:
    network, (x, level, _) = make(name), inputs()
    torch.testing.assert_close(network(x, level), network(x, level, torch.full((4,), 3)))
    assert (network(x, level) - network(x, level, torch.zeros(4, dtype=torch.int64))).abs().max() > 1e-4


def test_the_noise_level_matters(name: str) -> None:
    network, (x, level, label) = make(name), inputs()
    assert (network(x, level, label) - network(x, level + 0.5, label)).abs().max() > 1e-4


def test_features_end_in_the_output(name: str) -> None:
    network, (x, level, label) = make(name), inputs()
    found = network.features(x, level, label)
    assert torch.equal(found.out, network(x, level, label))
    assert len(found.last) == len(found.emb) == 4


def test_per_sample_gradients_and_tangents(name: str) -> None:
    """vmap of grad equals a loop (private training), a forward-mode tangent its finite difference (GENIE)."""
    network, (x, level, label) = make(name), inputs()
    weights = {key: value.detach() for key, value in network.named_parameters()}

    def loss(weights: dict[str, Tensor], x: Tensor, level: Tensor, label: Tensor) -> Tensor:
        return functional_call(network, weights, (x[None], level[None], label[None])).square().mean()

    together = vmap(grad(loss), in_dims=(None, 0, 0, 0))(weights, x, level, label)
    alone = grad(loss)(weights, x[2], level[2], label[2])
    for key in weights:
        torch.testing.assert_close(together[key][2], alone[key], rtol=1e-7, atol=1e-9)
    direction = torch.randn_like(x)
    with torch.no_grad():
        _, tangent = jvp(lambda v: network(v, level, label), (x,), (direction,))
        ends = [network(x + h * direction, level, label) for h in (1e-5, -1e-5)]
    torch.testing.assert_close(tangent, (ends[0] - ends[1]) / 2e-5, rtol=1e-5, atol=1e-6)
