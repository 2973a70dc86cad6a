"""Classification accuracy score (Ravuri and Vinyals 2019): train on synthetic, test on real."""

from __future__ import annotations

from gentool.metrics.classifier import accuracy, train_judge
from gentool.metrics.evidence import Evidence, Judgement
from gentool.metrics.images import LIMIT


def cas(evidence: Evidence) -> Judgement:
    """`cas` in [0, 1]: how good samples are as training data for the judges' own network and recipe."""
    assert evidence.held_out is not None
    judge = train_judge(evidence.samples.images, evidence.reference.images.classes or 0, evidence.device)
    unseen = evidence.held_out.images
    trained = min(len(evidence.samples.images), LIMIT)
    return Judgement({"cas": accuracy(judge, unseen)}, {"trained_on": trained, "tested_on": len(unseen)})
