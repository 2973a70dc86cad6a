"""Point-voxel networks: their published sizes, and what they may and may not depend on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from gentool.networks.pvcnn import HEAD_WIDTH, LinearAttention, StyledNorm
from gentool.networks.pvcnn_config import (
    LION_PRIOR,
    Abstraction,
    PointEncoder,
    PointUNet,
    Propagation,
    ResidualMlp,
)
from gentool.networks.pvcnn_unet import CloudEncoder, CloudUNet, centre_order, places_of
from gentool.networks.residual_mlp import VectorPrior
from gentool.points.neighbours import group
from gentool.points.sampling import farthest_point_sample

SMALL = PointUNet(
    down=(
        Abstraction(
            channels=8, resolution=4, centres=16, radius=0.7, neighbours=64, widths=(8,), attention=True
        ),
        Abstraction(centres=6, radius=1.5, neighbours=64, widths=(16,)),
    ),
    up=(
        Propagation(widths=(8,), channels=8, resolution=4),
        Propagation(widths=(8,), channels=8, resolution=4),
    ),
    head=8,
)


def size(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def cloud(count: int = 64, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, count, generator=torch.Generator().manual_seed(0))


def test_the_papers_networks_have_the_published_networks_parameters() -> None:
    """Counted in networks built from the authors' classes."""
    with torch.device("meta"):
        assert size(CloudEncoder(PointEncoder(), 256)) == 183_456
        assert size(CloudUNet(PointUNet(), 0, 8, 128)) == 11_109_448
        assert size(CloudUNet(PointUNet(), 1, 3, 128)) == 11_109_827
        assert size(CloudUNet(LION_PRIOR, 1, 4, 128, 64)) == 11_420_740
        assert size(VectorPrior(ResidualMlp(), 128)) == 77_173_376


def test_one_search_gives_the_centres_of_every_level() -> None:
    """Farthest points of farthest points are the first of them, bit for bit, ties included."""
    lattice = torch.cartesian_prod(*[torch.arange(4.0)] * 3).T[None]
    for x in (cloud(200), lattice):
        found = places_of(x, None, (50, 20, 5), "farthest")
        here = x
        for there in found[1:]:
            here = group(here, farthest_point_sample(here, there.shape[2]))
            assert torch.equal(there, here)


def test_levels_never_grow_and_small_clouds_keep_all_their_points() -> None:
    assert [p.shape[2] for p in places_of(cloud(10), None, (16, 6), "farthest")] == [10, 10, 6]
    assert torch.equal(centre_order(cloud(10), 4, "first"), cloud(10)[:, :, :4])


def test_a_reordered_cloud_gives_the_reordered_output() -> None:
    """The first point stays, as the search for centres starts there, and balls hold all points: a repeated first one
    would count twice in the norms."""
    torch.manual_seed(0)
    full = SMALL.model_copy(update={"down": tuple(d.model_copy(update={"radius": 99.0}) for d in SMALL.down)})
    network = CloudUNet(full, 2, 3, 8, time=8).eval().double()
    x, f, style = cloud().double(), torch.randn(2, 2, 64).double(), torch.randn(2, 8).double()
    order = torch.cat([torch.zeros(1, dtype=torch.long), 1 + torch.randperm(63)])
    level = torch.tensor([3.0, 700.0]).double()
    near = {"rtol": 1e-4, "atol": 1e-5}  # neighbours and voxels are sought in float32
    plain = network(x, f, style, level)
    assert plain.std() > 0.01
    torch.testing.assert_close(
        network(x[:, :, order], f[:, :, order], style, level), plain[:, :, order], **near
    )
    first = CloudEncoder(PointEncoder(down=full.down), 8).eval().double()
    nn.init.normal_(first.out.weight)
    torch.testing.assert_close(first(x[:, :, order]), first(x), **near)


def test_style_and_level_reach_every_point() -> None:
    torch.manual_seed(0)
    network = CloudUNet(SMALL, 0, 3, 8, time=8).eval()
    x, style, level = cloud(), torch.randn(2, 8), torch.tensor([3.0, 700.0])
    plain = network(x, None, style, level)
    for other in (network(x, None, -style, level), network(x, None, style, level.flip(0))):
        assert ((other - plain).abs().amax(1) > 0).all()


def test_a_styled_norm_starts_as_group_normalisation_and_a_small_term() -> None:
    torch.manual_seed(0)
    norm, f = StyledNorm(16, 32), torch.randn(4, 16, 5, 5)
    plain = nn.functional.group_norm(f, 8)
    torch.testing.assert_close(norm(f, torch.zeros(4, 32)), plain)
    assert norm.affine is not None
    # uniform of variance 0.1 / (2 C)
    assert float(norm.affine.weight.detach().abs().max()) <= (3 * 0.1 / 32) ** 0.5
    assert float(norm.affine.weight.detach().var()) == pytest.approx(0.1 / 32, rel=0.15)


def test_linear_attention_is_its_sum_over_points() -> None:
    torch.manual_seed(0)
    layer, f = LinearAttention(8, heads=2), torch.randn(1, 8, 5)
    q, k, v = layer.qkv(f)[0].view(3, 2, HEAD_WIDTH, 5)
    heads = []
    for h in range(2):
        weights = torch.softmax(k[h], dim=1)
        context = sum(torch.outer(weights[:, n], v[h, :, n]) for n in range(5))
        heads.append(context.T @ q[h])
    torch.testing.assert_close(layer(f), layer.out(torch.cat(heads)[None]))


def test_a_network_that_starts_as_nothing_says_nothing() -> None:
    network = CloudUNet(SMALL, 0, 3, 8, identity=True).eval()
    assert torch.equal(network(cloud(), None, torch.randn(2, 8)), torch.zeros(2, 3, 64))


def test_as_many_levels_up_as_down() -> None:
    with pytest.raises(ValueError, match="2 levels down and 1 up"):
        PointUNet(down=SMALL.down, up=SMALL.up[:1])
