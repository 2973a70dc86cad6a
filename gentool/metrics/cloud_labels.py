"""Do clouds look like the class that was asked for? The judge is the nearest held-out cloud."""

from __future__ import annotations

import torch
from torch import Tensor

from gentool.errors import UserError
from gentool.metrics.clouds import chamfer_pairs
from gentool.metrics.evidence import Evidence, Judgement
from gentool.metrics.options import CloudOptions


def cloud_labels(evidence: Evidence, options: CloudOptions) -> Judgement:
    """`cloud-label-accuracy` in [0, 1]: the share of samples whose nearest held-out cloud has their label.

    Nearest by the Chamfer distance. The details say by class, and how often the nearest other held-out cloud shares
    a held-out cloud's label: more cannot be expected of samples.

    Raises:
        UserError: a single held-out cloud.
    """
    assert evidence.held_out is not None
    seen, real = evidence.samples, evidence.held_out
    if len(real.clouds) < 2:
        raise UserError("a single cloud cannot tell classes apart", real.name)
    samples, references = (
        s.clouds.unflatten(1, (-1, 3))[:, : options.points].contiguous() for s in (seen, real)
    )
    right = _nearest(chamfer_pairs(references, samples), real.labels) == seen.labels
    among = chamfer_pairs(references, references).fill_diagonal_(torch.inf)
    by_class = {str(c): float(right[seen.labels == c].double().mean()) for c in seen.labels.unique().tolist()}
    return Judgement(
        {"cloud-label-accuracy": float(right.double().mean())},
        {
            "by_class": by_class,
            "held_out": float((_nearest(among, real.labels) == real.labels).double().mean()),
            "samples": len(samples),
            "references": len(references),
            "points": samples.shape[1],
        },
    )


def _nearest(distances: Tensor, labels: Tensor) -> Tensor:
    """The label of the nearest reference (rows) of each column, (columns,)."""
    return labels[distances.argmin(0)]
