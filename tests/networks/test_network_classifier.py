"""The classifier: sizes, features, noise conditioning, per-sample gradients, and that it learns."""

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.func import functional_call, grad, vmap

from gentool import networks
from gentool.networks.config import ResNet

TINY = ResNet(channels=8)


@pytest.mark.parametrize(("channels", "size"), [(1, 8), (1, 28), (3, 32), (3, 64)])
def test_takes_images_from_8_to_64_pixels(channels, size):
    net = networks.build_classifier(TINY, (channels, size, size), 10)
    x = torch.randn(2, channels, size, size)
    features = net.features(x)
    assert features.shape == (2, 32)
    torch.testing.assert_close(net(x), net.output(features))


def test_noise_level_is_wanted_exactly_by_noise_conditioned_classifiers():
    x, c_noise = torch.randn(2, 1, 8, 8), torch.tensor([-1.0, 1.0])
    clean = networks.build_classifier(TINY, (1, 8, 8), 10)
    noisy = networks.build_classifier(TINY.model_copy(update={"noise_conditioned": True}), (1, 8, 8), 10)
    assert (noisy(x, c_noise) - noisy(x, c_noise.flip(0))).abs().max() > 1e-4
    with pytest.raises(ValueError, match="needs c_noise"):
        noisy(x)
    with pytest.raises(ValueError, match="clean images"):
        clean(x, c_noise)


@pytest.mark.filterwarnings("error:There is a performance drop")
def test_per_sample_gradients_by_vmap_equal_a_loop():
    net = networks.build_classifier(TINY, (1, 8, 8), 10).double()
    parameters = {name: p.detach() for name, p in net.named_parameters()}
    x, y = torch.randn(3, 1, 8, 8, dtype=torch.float64), torch.tensor([1, 5, 9])

    def loss(parameters, x, y):
        return F.cross_entropy(functional_call(net, parameters, (x[None],)), y[None])

    together = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, x, y)
    for i in range(3):
        alone = grad(loss)(parameters, x[i], y[i])
        for name in parameters:
            torch.testing.assert_close(together[name][i], alone[name], rtol=1e-8, atol=1e-10)


def test_learns_the_digits_in_a_few_passes():
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 8 - 1
    y = torch.tensor(labels)
    torch.manual_seed(0)
    net = networks.build_classifier(ResNet(channels=16), (1, 8, 8), 10)
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    for _ in range(4):
        for rows in torch.randperm(1400).split(64):
            optimizer.zero_grad()
            F.cross_entropy(net(x[rows]), y[rows]).backward()
            optimizer.step()
    with torch.no_grad():
        accuracy = (net(x[1400:]).argmax(1) == y[1400:]).float().mean().item()
    assert accuracy > 0.9
