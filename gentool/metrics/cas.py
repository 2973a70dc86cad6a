"""Classification accuracy score (Ravuri and Vinyals 2019): train on synthetic, test on real."""

from __future__ import annotations

import torch

from gentool.metrics.evidence import Evidence, Judgement
from gentool.metrics.images import LIMIT


def cas(evidence: Evidence) -> Judgement:
    """`cas` in [0, 1]: how good samples are as training data for the judges' own network and recipe."""
    assert evidence.held_out is not None
    classifier = evidence.train_classifier(evidence.samples.images)
    right = total = 0
    with torch.inference_mode():
        for x, label in evidence.held_out.images:
            assert label is not None
            right += int((classifier(x).argmax(1).cpu() == label).sum())
            total += len(label)
    trained = min(len(evidence.samples.images), LIMIT)
    return Judgement({"cas": right / total}, {"trained_on": trained, "tested_on": total})
