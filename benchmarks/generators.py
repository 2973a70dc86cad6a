"""Judges of private generators: a held-out loss, a distance in PCA features, and what classifiers learn from samples.

All are fitted to the real test set or to samples; nothing here asks the private training set.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from models import device

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from gentool.data import DataSet
    from gentool.diffusion.denoiser import Denoiser
    from gentool.metrics.moments import Gaussian
    from gentool.training.module import GenModule

BLOCK = 500
FEATURES = 50


def drawn(module: GenModule, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """uint8 pictures (N, C, H, W) by the recipe's own sampler, and their labels, all classes alike."""
    import torch

    from gentool.data import to_uint8
    from gentool.training.sampling import SampleRequest

    labels, pictures = torch.arange(count) % module.classes, []
    with torch.no_grad():
        for start in range(0, count, BLOCK):
            rows = range(start, min(start + BLOCK, count))
            asked = labels[rows.start : rows.stop].to(device())
            request = SampleRequest(seed, rows, asked, module.recipe.sample, device=device())
            pictures.append(to_uint8(module.draw(request).x).cpu())
    return torch.cat(pictures), labels


class PublicJudge:
    """Figures of a generator against the test set.

    Attributes:
        pictures, labels: the test set, uint8 (N, C, H, W) and int64 (N,).
    """

    def __init__(self, test: DataSet) -> None:
        from sklearn.decomposition import PCA

        batch = test.take(range(len(test)))
        self.pictures, self.labels, self._classes = batch.x, batch.label, test.spec.classes
        self._pca = PCA(FEATURES, random_state=0).fit(flat(self.pictures))
        self._reference = self._moments(self.pictures)

    def loss(self, denoiser: Denoiser) -> float:
        """DPDM's edm loss on the test set; the same draws for every denoiser, whatever it was trained by."""
        import torch

        from gentool.data import to_model
        from gentool.diffusion.loss import DiffusionLoss, EdmWeight
        from gentool.diffusion.times import LogNormal
        from gentool.families.dpdm.config import SIGMA_DATA

        loss, total = DiffusionLoss(LogNormal(-1.2, 1.2, 1.2), EdmWeight(SIGMA_DATA)), 0.0
        generator = torch.Generator(device()).manual_seed(0)
        with torch.no_grad():
            for pictures, labels in zip(self.pictures.split(BLOCK), self.labels.split(BLOCK), strict=True):
                x0 = to_model(pictures.to(device()))
                draws = loss.draw(len(x0), x0.shape[1:], generator, draws=4)
                total += float(loss(denoiser, x0, labels.to(device()), None, *draws).sum())
        return total / len(self.labels)

    def distance(self, pictures: Tensor) -> float:
        """Frechet distance of uint8 pictures from the test set in its 50 leading principal components."""
        from gentool.metrics.frechet import frechet_distance

        return frechet_distance(self._moments(pictures), self._reference)

    def accuracies(
        self, pictures: Tensor, labels: Tensor, networks: Sequence[str], epochs: int
    ) -> dict[str, float]:
        """Percent of the test set that classifiers read right, trained on the pictures by the papers' protocol."""
        import torch

        from gentool.metrics.downstream import NETWORKS, Part, learn, read

        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
        pictures, labels = pictures[order].to(device()), labels[order].to(device())
        kept = len(labels) // 10
        validation, train = Part(pictures[:kept], labels[:kept]), Part(pictures[kept:], labels[kept:])
        found = {}
        for name in networks:
            model = learn(NETWORKS[name], train, validation, self._classes, epochs, seed=0).model
            said = torch.cat([read(model, block).argmax(1).cpu() for block in self.pictures.split(BLOCK)])
            found[name] = 100 * float((said == self.labels).double().mean())
        return found

    def _moments(self, pictures: Tensor) -> Gaussian:
        import torch

        from gentool.metrics.moments import Moments

        moments = Moments(FEATURES)
        moments.update(torch.from_numpy(self._pca.transform(flat(pictures))))
        return moments.compute()


def flat(pictures: Tensor) -> np.ndarray:
    """uint8 (N, C, H, W) -> float32 (N, values) in [-1, 1]."""
    from gentool.data import to_model

    return to_model(pictures).flatten(1).numpy()
