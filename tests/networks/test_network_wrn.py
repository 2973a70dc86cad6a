"""Wide residual networks: the published sizes, the resolutions of the groups, and what batch statistics do."""

from __future__ import annotations

import pytest
import torch

from gentool import networks
from gentool.errors import UserError
from gentool.networks.config import Wrn


@pytest.mark.parametrize(
    ("depth", "widen", "millions"), [(28, 10, 36.5), (40, 4, 8.9), (16, 8, 11.0), (16, 10, 17.1)]
)
def test_published_sizes(depth: int, widen: int, millions: float) -> None:
    """Zagoruyko and Komodakis 2016, table 4 and the text beside it."""
    with torch.device("meta"):
        net = networks.build_classifier(Wrn(depth=depth, widen=widen), (3, 32, 32), 10)
    assert round(networks.summary(net)["total"] / 1e6, 1) == millions


def test_groups_halve_the_resolution_twice() -> None:
    net = networks.build_classifier(Wrn(depth=16, widen=1), (3, 32, 32), 10)
    shapes: list[torch.Size] = []
    for block in net.blocks:  # type: ignore[union-attr]
        block.register_forward_hook(lambda module, given, out: shapes.append(out.shape[1:]))
    net(torch.randn(2, 3, 32, 32))
    assert shapes == [(16, 32, 32)] * 2 + [(32, 16, 16)] * 2 + [(64, 8, 8)] * 2


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_in_training_only_batch_norm_lets_examples_see_each_other(norm: str) -> None:
    net = networks.build_classifier(Wrn(depth=10, widen=1, norm=norm), (1, 8, 8), 3).double()
    x = torch.randn(4, 1, 8, 8, dtype=torch.float64)
    assert torch.allclose(net(x)[:2], net(x[:2])) == (norm == "group")
    net.eval()
    torch.testing.assert_close(net(x)[:2], net(x[:2]))


def test_pictures_that_cannot_be_halved_twice_are_refused() -> None:
    with pytest.raises(UserError, match="3x8 are too small for the wrn"):
        networks.build_classifier(Wrn(), (1, 3, 8), 10)
