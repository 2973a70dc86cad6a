"""Networks: plain modules that know nothing of diffusion or training, built from a config by name.

Every network takes `(x, c_noise, label=None, augment=None)`; see `gentool.networks.base.Network`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

from gentool.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import nn

    from gentool.networks.base import Network
    from gentool.networks.classifier import Classifier
    from gentool.networks.config import ClassifierConfig, NetworkConfig
    from gentool.networks.oneshot import Generator
    from gentool.networks.oneshot_config import GeneratorConfig

_BUILDERS: Registry[Callable[..., Network]] = Registry(
    "network",
    {
        "song-unet": "gentool.networks.song:song_unet",
        "adm-unet": "gentool.networks.adm:adm_unet",
        "dit": "gentool.networks.dit:DiT",
        "film-mlp": "gentool.networks.mlp:FilmMLP",
        "concat-mlp": "gentool.networks.mlp:ConcatMLP",
    },
)
_CLASSIFIERS: Registry[Callable[..., Classifier]] = Registry(
    "classifier network",
    {
        "resnet": "gentool.networks.classifier:ResNetClassifier",
        "logreg": "gentool.networks.baselines:LogRegClassifier",
        "mlp": "gentool.networks.baselines:MlpClassifier",
        "cnn": "gentool.networks.baselines:CnnClassifier",
        "wrn": "gentool.networks.wrn:WrnClassifier",
    },
)

_GENERATORS: Registry[Callable[..., Generator]] = Registry(
    "generator",
    {
        "dcgan": "gentool.networks.oneshot:Dcgan",
        "biggan": "gentool.networks.oneshot:Biggan",
        "mlp": "gentool.networks.oneshot:Mlp",
    },
)


class Summary(TypedDict):
    """Parameter counts: `total`, and of each direct child that has any, in order (`by_module`)."""

    total: int
    by_module: dict[str, int]


def build(
    config: NetworkConfig, in_channels: int, out_channels: int, size: int | tuple[int, ...], classes: int = 0
) -> Network:
    """The network of a config, with fresh weights from torch's global generator.

    Args:
        config: one of `networks.config`'s blocks.
        in_channels, out_channels: channels of the input and of the output (for vectors: how many vectors of
            length D come side by side, 1 for plain ones).
        size: side of a square image, `(H, W)`, or `(D,)` for vectors of length D (film-mlp, concat-mlp). So
            `DataSpec.shape[1:]` of images and `DataSpec.shape` of vectors.
        classes: K labels 0..K-1 with K the null label; 0 for an unconditional network.

    Raises:
        UserError: the size does not fit the config (levels, patch, attention resolutions, vectors).
    """
    shape = (size, size) if isinstance(size, int) else tuple(size)
    return _BUILDERS.get(config.name)(config, in_channels, out_channels, shape, classes)


def build_classifier(config: ClassifierConfig, shape: Sequence[int], classes: int) -> Classifier:
    """The image classifier of a config, with fresh weights from torch's global generator.

    Args:
        shape: (C, H, W) of the images. A resnet also reads other sizes, not under 2^(levels-1), a wrn any from 4 on;
            logreg, mlp and cnn read this one alone.
        classes: number of logits.

    Raises:
        UserError: images too small for the config.
    """
    return _CLASSIFIERS.get(config.name)(config, tuple(shape), classes)


def build_oneshot(config: GeneratorConfig, channels: int, size: int, classes: int = 0) -> Generator:
    """The one-shot generator of a config: latent and label to (channels, size, size) images in [-1, 1].

    Raises:
        UserError: the network cannot make images of this size.
    """
    return _GENERATORS.get(config.name)(config, channels, size, classes)


def summary(module: nn.Module) -> Summary:
    """Parameter counts of a module, also of one on the meta device; shared parameters count once."""
    seen: set[int] = set()

    def count(part: nn.Module, recurse: bool = True) -> int:
        fresh = {id(p): p.numel() for p in part.parameters(recurse=recurse) if id(p) not in seen}
        seen.update(fresh)
        return sum(fresh.values())

    by_module = {name: number for name, child in module.named_children() if (number := count(child))}
    own = count(module, recurse=False)
    if own:
        by_module["(own)"] = own
    return {"total": sum(by_module.values()), "by_module": by_module}
