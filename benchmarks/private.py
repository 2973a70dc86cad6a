"""Judges of private generators at a benchmark's size: a loss, a distance in PCA features, and classifiers' accuracies."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from gentool.data import DataSet
    from gentool.diffusion.denoiser import Denoiser
    from gentool.metrics.moments import Gaussian


class Figures(NamedTuple):
    """Of one model: held-out EDM loss, Frechet distance in 50 PCA features, accuracies in percent on real test data."""

    loss: float
    fd50: float
    logreg: float
    mlp: float


class PublicJudge:
    """Everything is fitted to the real test set, or to samples; the training set is never looked at."""

    def __init__(self, test: DataSet, seed: int) -> None:
        from sklearn.decomposition import PCA

        batch = test.take(range(len(test)))
        self.pictures, self.labels, self.seed = batch.x, batch.label.numpy(), seed
        self._pca = PCA(50, random_state=0).fit(flat(self.pictures))
        self._reference = self._moments(self.pictures)

    def held_out_loss(self, denoiser: Denoiser, classes: int) -> float:
        """EDM's loss with sigma_data sqrt(1/3) on the test set, the same draws for every denoiser."""
        import torch

        from gentool.data import to_model
        from gentool.diffusion.loss import DiffusionLoss, EdmWeight
        from gentool.diffusion.times import LogNormal
        from gentool.families.dpdm.config import SIGMA_DATA

        loss = DiffusionLoss(LogNormal(-1.2, 1.2, 1.2), EdmWeight(SIGMA_DATA))
        device = next(denoiser.parameters()).device
        generator = torch.Generator(device).manual_seed(self.seed)
        total, x0 = 0.0, to_model(self.pictures).to(device)
        labels = torch.from_numpy(self.labels).to(device) if classes else None
        with torch.no_grad():
            for start in range(0, len(x0), 1000):
                rows = slice(start, start + 1000)
                u, noise = loss.draw(len(x0[rows]), x0.shape[1:], generator, draws=4)
                label = None if labels is None else labels[rows]
                total += float(loss(denoiser, x0[rows], label, None, u, noise).sum())
        return total / len(x0)

    def distance(self, pictures: Tensor) -> float:
        """Frechet distance of uint8 pictures (N, C, H, W) from the test set's."""
        from gentool.metrics.frechet import frechet_distance

        return frechet_distance(self._moments(pictures), self._reference)

    def accuracies(self, pictures: Tensor, labels: Tensor) -> tuple[float, float]:
        """Percent of the real test set that logistic regression and an MLP of 100 units get right, fitted to pictures."""
        import warnings

        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
        from sklearn.neural_network import MLPClassifier

        found = []
        for classifier in (LogisticRegression(C=0.1, max_iter=100), MLPClassifier((100,), max_iter=15, random_state=0)):
            with warnings.catch_warnings():  # a fixed number of passes is the protocol
                warnings.simplefilter("ignore", ConvergenceWarning)
                classifier.fit(flat(pictures), labels.numpy())
            found.append(100 * float(classifier.score(flat(self.pictures), self.labels)))
        return found[0], found[1]

    def _moments(self, pictures: Tensor) -> Gaussian:
        import torch

        from gentool.metrics.moments import Moments

        moments = Moments(50)
        moments.update(torch.from_numpy(self._pca.transform(flat(pictures))))
        return moments.compute()


def flat(pictures: Tensor) -> np.ndarray:
    """uint8 (N, C, H, W) -> float32 (N, values) in [-1, 1]."""
    from gentool.data import to_model

    return to_model(pictures).flatten(1).numpy()
