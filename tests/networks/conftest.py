"""Small networks of every kind, with weights away from their (partly zero) initial values."""

from collections.abc import Callable

import pytest
import torch

from gentool import networks
from gentool.networks.base import Network
from gentool.networks.config import AdmUNet, DiT, FilmMLP, NetworkConfig, SongUNet

CLASSES = 3
SMALL = {
    "ddpmpp": SongUNet(channels=8, mult=(1, 2), blocks=1, attention=(4,), augment=9),
    "ncsnpp": SongUNet(
        channels=8,
        mult=(1, 2),
        blocks=1,
        attention=(),
        embedding="fourier",
        resample="fir",
        encoder="residual",
        label_embedding="table",
        augment=9,
    ),
    "adm": AdmUNet(channels=8, mult=(1, 2), blocks=1, attention=(4,), head_channels=8, augment=9),
    "dit": DiT(width=16, depth=2, heads=2, augment=9),
    "mlp": FilmMLP(width=16, blocks=2, augment=9),
}


def build_small(kind: str, classes: int = CLASSES, size: int | tuple[int, ...] = 8) -> Network:
    """A two-channel network of float64 with every weight moved off its initial value."""
    torch.manual_seed(0)
    net = networks.build(SMALL[kind], 2, 2, size, classes).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        for name, buffer in net.named_buffers():
            if name.endswith("frequencies"):
                buffer /= 16  # finite differences in c_noise need a smooth function
    return net


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=list(SMALL))
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def small() -> Callable[..., Network]:
    """(kind, classes=3, size=8) -> a small network."""
    return build_small


@pytest.fixture
def config(kind: str) -> NetworkConfig:
    return SMALL[kind]


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    """Four inputs, one of them with the null label."""
    generator = torch.Generator().manual_seed(1)
    return {
        "x": torch.randn(4, 2, 8, 8, generator=generator, dtype=torch.float64),
        "c_noise": torch.randn(4, generator=generator, dtype=torch.float64),
        "label": torch.tensor([0, 1, 2, CLASSES]),
        "augment": torch.randn(4, 9, generator=generator, dtype=torch.float64),
    }
