"""Logistic regression, MLP and CNN: the classifiers by which private generators are judged.

Architectures of DP-Sinkhorn (2111.01177) and DPDM (2210.09929): trained on synthetic images and tested on real ones,
or, as the baseline, trained by DP-SGD on the real ones. All read clean images of one size.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from gentool.errors import UserError
from gentool.networks.classifier import Classifier
from gentool.networks.config import Cnn, LogReg, Mlp

LEAST = 4
"""Smallest side, in pixels, that the CNN's two poolings leave something of."""


class LogRegClassifier(Classifier):
    """One linear layer; its features are the pixels."""

    def __init__(self, config: LogReg, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.dropout = nn.Identity()
        self.output = nn.Linear(math.prod(shape), classes)

    def extract(self, x: Tensor, c_noise: Tensor | None) -> Tensor:
        return x.flatten(1)


class MlpClassifier(Classifier):
    """Pixels, ReLU units, logits: 784-100-10 on 28x28 grey images and 10 classes."""

    def __init__(self, config: Mlp, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), config.width), nn.ReLU())
        self.dropout = nn.Identity()
        self.output = nn.Linear(config.width, classes)

    def extract(self, x: Tensor, c_noise: Tensor | None) -> Tensor:
        return self.hidden(x)


class CnnClassifier(Classifier):
    """conv, pool, ReLU, dropout, twice; conv, ReLU; linear, ReLU, dropout; logits.

    The convolutions are 3x3. As in the papers they are not padded where the shorter side leaves them something, which
    is from 18 pixels on (28x28 ends as 3x3, colour or grey: only the first convolution changes); below that they are
    padded by one pixel, so that 8x8 images work too (they end as 2x2).

    Raises:
        UserError: a side shorter than 4 pixels.
    """

    def __init__(self, config: Cnn, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        channels, *sides = shape
        if min(sides) < LEAST:
            raise UserError(
                f"images of {sides[0]}x{sides[1]} are too small for the cnn, which halves them twice: "
                f"it needs {LEAST}x{LEAST}; take mlp or logreg"
            )
        padding = 0 if min(self.left(side, 0) for side in sides) >= 1 else 1
        area = math.prod(self.left(side, padding) for side in sides)
        first, second, third = config.channels
        self.convolutions = nn.Sequential(
            nn.Conv2d(channels, first, 3, padding=padding),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Conv2d(first, second, 3, padding=padding),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Conv2d(second, third, 3, padding=padding),
            nn.ReLU(),
            nn.Flatten(),
        )
        self.hidden = nn.Sequential(nn.Linear(area * third, config.width), nn.ReLU())
        self.dropout = nn.Dropout(config.dropout)
        self.output = nn.Linear(config.width, classes)

    @staticmethod
    def left(side: int, padding: int) -> int:
        """What is left of a side after the three convolutions and two poolings."""
        cut = 2 - 2 * padding
        return ((side - cut) // 2 - cut) // 2 - cut

    def extract(self, x: Tensor, c_noise: Tensor | None) -> Tensor:
        return self.hidden(self.convolutions(x))
