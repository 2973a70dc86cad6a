"""Logistic regression, MLP and CNN of the private-generation papers: their exact sizes, and where they adapt."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from gentool import networks
from gentool.errors import UserError
from gentool.networks.baselines import CnnClassifier
from gentool.networks.config import ClassifierConfig, Cnn, LogReg, Mlp

BLOCKS: list[ClassifierConfig] = [LogReg(), Mlp(), Cnn()]
MNIST = (1, 28, 28)


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (LogReg(), 784 * 10 + 10),
        (Mlp(), 784 * 100 + 100 + 1010),
        (Cnn(), 320 + 18_496 + 73_856 + (1152 * 128 + 128) + 1290),
    ],
)
def test_sizes_are_those_of_the_papers_on_mnist(config: ClassifierConfig, parameters: int) -> None:
    assert networks.summary(networks.build_classifier(config, MNIST, 10))["total"] == parameters


@pytest.mark.parametrize(
    "shape", [(1, 8, 8), (3, 8, 8), MNIST, (3, 32, 32), (1, 18, 20), (1, 17, 28), (1, 4, 4)]
)
@pytest.mark.parametrize("config", BLOCKS, ids=lambda config: config.name)
def test_logits_of_any_size_and_colour(config: ClassifierConfig, shape: tuple[int, int, int]) -> None:
    net = networks.build_classifier(config, shape, 7).eval()
    x = torch.randn(3, *shape)
    assert net(x).shape == (3, 7)
    torch.testing.assert_close(net(x), net.output(net.features(x)))
    torch.testing.assert_close(net(x[1:2]), net(x)[1:2])


def test_the_cnn_pads_only_where_it_would_have_nothing_left() -> None:
    def paddings(side: int) -> set[tuple[int, ...]]:
        net = CnnClassifier(Cnn(), (1, side, side), 10)
        return {layer.padding for layer in net.modules() if isinstance(layer, nn.Conv2d)}  # type: ignore[misc]

    assert [paddings(side) for side in (28, 18, 17, 8)] == [{(0, 0)}, {(0, 0)}, {(1, 1)}, {(1, 1)}]


def test_logistic_regression_is_linear() -> None:
    net = networks.build_classifier(LogReg(), MNIST, 10)
    a, b = torch.randn(2, *MNIST), torch.randn(2, *MNIST)
    torch.testing.assert_close(net(0.3 * a + 0.7 * b), 0.3 * net(a) + 0.7 * net(b), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("config", BLOCKS, ids=lambda config: config.name)
def test_per_sample_gradients_by_vmap_equal_a_loop(config: ClassifierConfig) -> None:
    """What training by DP-SGD needs: no layer mixes examples."""
    net = networks.build_classifier(config, (1, 8, 8), 10).double().eval()
    parameters = {name: p.detach() for name, p in net.named_parameters()}
    x, y = torch.randn(3, 1, 8, 8, dtype=torch.float64), torch.tensor([1, 5, 9])

    def loss(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(net, parameters, (x[None],)), y[None])

    together = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, x, y)
    for i in range(3):
        alone = grad(loss)(parameters, x[i], y[i])
        for name in parameters:
            torch.testing.assert_close(together[name][i], alone[name], rtol=1e-8, atol=1e-10)


def test_images_too_small_for_the_cnn_are_refused() -> None:
    with pytest.raises(UserError, match=r"3x8 are too small for the cnn.* 4x4; take mlp or logreg"):
        networks.build_classifier(Cnn(), (1, 3, 8), 10)
