"""Are samples copies of training images? Nearest-neighbour distances, with unseen images as yardstick."""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata
from torch import Tensor

from gentool.errors import UserError
from gentool.metrics.evidence import Evidence, Judgement
from gentool.metrics.neighbours import nearest_distances

NEAR = 0.01
"""A near-copy is closer to a training image than this share of held-out images is."""
COPYING_Z = -3.0


def copying_z(samples: Tensor, held_out: Tensor) -> float:
    """Mann-Whitney z of distances (n,) of samples against those (m,) of held-out images, ties at mid-rank.

    The test statistic of Meehan, Chaudhuri and Dasgupta (2020), over one cell: about N(0, 1) when both are
    drawn from one distribution, very negative when samples lie closer to the training set than new data
    would.
    """
    n, m = len(samples), len(held_out)
    ranks = rankdata(np.concatenate([samples.cpu().numpy(), held_out.cpu().numpy()]))
    wins = ranks[:n].sum() - n * (n + 1) / 2
    return float((wins - n * m / 2) / np.sqrt(n * m * (n + m + 1) / 12))


def memorisation(evidence: Evidence) -> Judgement:
    """`near-copies`, `nearest-ratio` and `copying-z`.

    - near-copies: share of samples nearer to a training image than all but 1 % of held-out images are; 0.01
      expected;
    - nearest-ratio: median distance of samples to the training set over that of held-out images; 1 expected;
    - copying-z: see `copying_z`; below -3 warns.
    """
    assert evidence.held_out is not None
    train = evidence.reference.features
    samples = nearest_distances(evidence.samples.features, train, 1)[:, 0]
    held_out = nearest_distances(evidence.held_out.features, train, 1)[:, 0]
    threshold = held_out.quantile(NEAR)
    if (median := float(held_out.median())) == 0:
        raise UserError(
            "most held-out images are copies of training images: they cannot be a yardstick of memorisation",
            evidence.held_out.name,
        )
    z = copying_z(samples, held_out)
    values = {
        "near-copies": float((samples <= threshold).double().mean()),
        "nearest-ratio": float(samples.median()) / median,
        "copying-z": z,
    }
    warnings: tuple[str, ...] = ()
    if z < COPYING_Z:
        warnings = (
            "memorisation: samples lie closer to the training images than unseen images do "
            f"(z = {z:.1f}); look at the nearest pairs before sharing them",
        )
    details = {"near": NEAR, "threshold": float(threshold), "held_out": len(held_out), "train": len(train)}
    return Judgement(values, details, warnings)
