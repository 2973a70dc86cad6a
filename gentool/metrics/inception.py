"""The Inception V3 that FID figures in papers are made with, in plain torch, without pickle.

The network of 2015-12-05 differs from later ones: its average pools leave padding out, and its last pool
takes maxima. Names of parameters are those of the widespread PyTorch port, so that its state dict, saved as
safetensors, loads.

Sources: Szegedy et al. 2016 (the architecture); Heusel et al. 2017 (pool features); the weights are not
distributed here.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gentool.errors import UserError
from gentool.metrics.features import Workshop
from gentool.metrics.images import Images
from gentool.runs.weights import fingerprint, load_weights

VARIABLE = "GENTOOL_INCEPTION"
SIDE = 299

Layer = dict[str, tuple[int, int, int]]
"""Convolutions side by side on one input (one, or two): name -> (channels, kernel height, kernel width)."""

_average = partial(F.avg_pool2d, kernel_size=3, stride=1, padding=1, count_include_pad=False)
_maximum = partial(F.max_pool2d, kernel_size=3, stride=1, padding=1)
_halving = partial(F.max_pool2d, kernel_size=3, stride=2)


class Conv(nn.Module):
    """Convolution without bias, batch norm, ReLU."""

    def __init__(
        self, width: int, channels: int, kernel: tuple[int, int], stride: int = 1, same: bool = True
    ) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2) if same else (0, 0)
        self.conv = nn.Conv2d(width, channels, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(channels, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class Mixed(nn.Module):
    """Chains of convolutions and one pool, side by side.

    Args:
        width: input channels.
        branches: each a chain of layers; their outputs are joined in this order, the pool's last.
        pool: the last branch.
        projection: channels of the 1 x 1 convolution after the pool; None in the blocks that halve the map,
            where the last convolution of each branch has stride 2 and no padding.
    """

    def __init__(
        self,
        width: int,
        branches: list[list[Layer]],
        pool: Callable[[Tensor], Tensor],
        projection: int | None = None,
    ) -> None:
        super().__init__()
        self._chains = [[list(layer) for layer in branch] for branch in branches]
        self._pool = pool
        for branch in branches:
            inner = width
            for layer in branch:
                halve = projection is None and layer is branch[-1]
                for name, (channels, *kernel) in layer.items():
                    conv = Conv(inner, channels, (kernel[0], kernel[1]), 2 if halve else 1, same=not halve)
                    self.add_module(name, conv)
                inner = sum(channels for channels, *_ in layer.values())
        self.branch_pool = nn.Identity() if projection is None else Conv(width, projection, (1, 1))

    def forward(self, x: Tensor) -> Tensor:
        out = []
        for chain in self._chains:
            h = x
            for names in chain:
                h = torch.cat([self.get_submodule(name)(h) for name in names], 1)
            out.append(h)
        return torch.cat([*out, self.branch_pool(self._pool(x))], 1)


def _grid35(width: int, projection: int) -> Mixed:
    """Figure 5 of the paper, with 5 x 5 kernels kept."""
    return Mixed(
        width,
        [
            [{"branch1x1": (64, 1, 1)}],
            [{"branch5x5_1": (48, 1, 1)}, {"branch5x5_2": (64, 5, 5)}],
            [{"branch3x3dbl_1": (64, 1, 1)}, {"branch3x3dbl_2": (96, 3, 3)}, {"branch3x3dbl_3": (96, 3, 3)}],
        ],
        _average,
        projection,
    )


def _grid17(inner: int) -> Mixed:
    """Figure 6: 7 x 7 kernels as 1 x 7 and 7 x 1."""
    return Mixed(
        768,
        [
            [{"branch1x1": (192, 1, 1)}],
            [{"branch7x7_1": (inner, 1, 1)}, {"branch7x7_2": (inner, 1, 7)}, {"branch7x7_3": (192, 7, 1)}],
            [
                {"branch7x7dbl_1": (inner, 1, 1)},
                {"branch7x7dbl_2": (inner, 7, 1)},
                {"branch7x7dbl_3": (inner, 1, 7)},
                {"branch7x7dbl_4": (inner, 7, 1)},
                {"branch7x7dbl_5": (192, 1, 7)},
            ],
        ],
        _average,
        192,
    )


def _grid8(width: int, pool: Callable[[Tensor], Tensor]) -> Mixed:
    """Figure 7: 3 x 3 kernels as 1 x 3 beside 3 x 1."""
    return Mixed(
        width,
        [
            [{"branch1x1": (320, 1, 1)}],
            [{"branch3x3_1": (384, 1, 1)}, {"branch3x3_2a": (384, 1, 3), "branch3x3_2b": (384, 3, 1)}],
            [
                {"branch3x3dbl_1": (448, 1, 1)},
                {"branch3x3dbl_2": (384, 3, 3)},
                {"branch3x3dbl_3a": (384, 1, 3), "branch3x3dbl_3b": (384, 3, 1)},
            ],
        ],
        pool,
        192,
    )


class InceptionV3(nn.Module):
    """Images (B, 3, 299, 299) in [-1, 1] to pool features (B, 2048) and logits (B, 1008).

    The logits leave the bias out, as those of the original inception score do.
    """

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Conv(3, 32, (3, 3), stride=2, same=False)
        self.Conv2d_2a_3x3 = Conv(32, 32, (3, 3), same=False)
        self.Conv2d_2b_3x3 = Conv(32, 64, (3, 3))
        self.Conv2d_3b_1x1 = Conv(64, 80, (1, 1))
        self.Conv2d_4a_3x3 = Conv(80, 192, (3, 3), same=False)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = _grid35(192, 32), _grid35(256, 64), _grid35(288, 64)
        self.Mixed_6a = Mixed(
            288,
            [
                [{"branch3x3": (384, 3, 3)}],
                [
                    {"branch3x3dbl_1": (64, 1, 1)},
                    {"branch3x3dbl_2": (96, 3, 3)},
                    {"branch3x3dbl_3": (96, 3, 3)},
                ],
            ],
            _halving,
        )
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = map(_grid17, (128, 160, 160, 192))
        self.Mixed_7a = Mixed(
            768,
            [
                [{"branch3x3_1": (192, 1, 1)}, {"branch3x3_2": (320, 3, 3)}],
                [
                    {"branch7x7x3_1": (192, 1, 1)},
                    {"branch7x7x3_2": (192, 1, 7)},
                    {"branch7x7x3_3": (192, 7, 1)},
                    {"branch7x7x3_4": (192, 3, 3)},
                ],
            ],
            _halving,
        )
        self.Mixed_7b, self.Mixed_7c = _grid8(1280, _average), _grid8(2048, _maximum)
        self.fc = nn.Linear(2048, 1008)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = _halving(self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x))))
        x = _halving(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x)))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        features = x.mean((2, 3))
        return features, features @ self.fc.weight.T


class InceptionExtractor:
    """Pool features of the FID Inception V3."""

    name = "inception"
    dim = 2048
    preprocessing = (
        "grayscale repeated to RGB, bilinear resize to 299x299 without antialiasing, x / 127.5 - 1"
    )

    def __init__(self, model: InceptionV3, digest: str, device: torch.device) -> None:
        self._model = model.to(device).eval()
        self.device = device
        self.identity = f"inception-1 {digest}"
        self.note = f"weights of SHA-256 {digest}"

    @torch.inference_mode()
    def __call__(self, x: Tensor, classify: bool) -> tuple[Tensor, Tensor | None]:
        outputs = [self._model(_prepared(part.to(self.device))) for part in x.split(32)]
        features, logits = (torch.cat(parts) for parts in zip(*outputs))
        return features, logits if classify else None


def _prepared(x: Tensor) -> Tensor:
    x = x.expand(-1, 3, -1, -1).float()
    return F.interpolate(x, (SIDE, SIDE), mode="bilinear", align_corners=False) / 127.5 - 1


def inception(reference: Images, workshop: Workshop) -> InceptionExtractor:
    """The extractor from a local weights file: the workshop's, or the one that GENTOOL_INCEPTION names.

    Raises:
        UserError: there is no such file, or it holds another network's weights. CorruptError: it is damaged.
    """
    named = workshop.inception or os.environ.get(VARIABLE)
    if not named:
        raise UserError(
            f"the extractor inception needs a weights file: set {VARIABLE} to the FID Inception V3's "
            "state dict as .safetensors (docs/metrics.md says how); classifier and pixels need no file"
        )
    path = Path(named)
    if not path.is_file():
        raise UserError(f"no such weights file ({VARIABLE})", str(path))
    if path.suffix != ".safetensors":
        raise UserError(
            "weights are read from .safetensors alone; docs/metrics.md says how to convert them", str(path)
        )
    tensors, _ = load_weights(path)
    model = InceptionV3()
    known = model.state_dict()
    wrong = [name for name in known if name not in tensors or tensors[name].shape != known[name].shape]
    wrong = [name for name in wrong if not name.endswith("num_batches_tracked")]
    if wrong or not set(tensors) <= set(known):
        first = (wrong or sorted(set(tensors) - set(known)))[0]
        raise UserError(
            f"not the FID Inception V3: {first} is missing, unknown or misshapen",
            str(path),
        )
    model.load_state_dict(tensors, strict=False)
    return InceptionExtractor(model, fingerprint(path), workshop.device)
