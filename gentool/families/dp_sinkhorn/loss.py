"""The semi-debiased Sinkhorn loss (Cao et al. 2021, arXiv 2111.01177, section 4.2)."""

from __future__ import annotations

from torch import Tensor

from gentool.families.dp_sinkhorn.config import DpSinkhornModel
from gentool.transport.cost import MixedCost, with_labels
from gentool.transport.sinkhorn import Annealing, transport


class SemiDebiased:
    """L = 2 W(X[:n], Y) - W(X[:n], X[n':]) of n + n' generated images X and any number of real ones Y.

    The second term keeps generated images apart. Of an empirical measure against itself (n' = 0) it is biased:
    it vanishes on the diagonal, which rewards collapse less than the true one. Against an independent batch
    (n' = n) it is unbiased and noisier. Between, the two lists share n - n' images, which take gradients from both.
    The third term of the divergence, W(Y, Y), has no gradient and is left out.
    """

    def __init__(self, config: DpSinkhornModel, classes: int) -> None:
        c = config.transport
        self.cost = MixedCost(c.cost.l2, c.cost.l1)
        self.annealing = Annealing(c.blur, c.exponent, c.scaling, c.extra)
        self.label_scale, self.classes = c.cost.label, classes

    def points(self, images: Tensor, label: Tensor | None) -> Tensor:
        """Images (B, C, H, W) in [-1, 1] and their labels as points (B, D) of the cost."""
        flat = images.flatten(1)
        return flat if label is None else with_labels(flat, label, self.classes, self.label_scale)

    def __call__(self, x: Tensor, y: Tensor, n: int) -> Tensor:
        """The loss, a float64 scalar.

        Args:
            x: (n + n', D) generated points. y: (m, D) real ones; without any the second term alone is left.
        """
        apart = transport(x[:n], x[len(x) - n :], self.cost, self.annealing)
        if len(y) == 0:
            return -apart
        return 2 * transport(x[:n], y, self.cost, self.annealing) - apart
