"""Do samples show what their labels say? The judge is the classifier of the reference set."""

from __future__ import annotations

from torchmetrics.functional.classification import multiclass_confusion_matrix

from gentool.metrics.evidence import Evidence, Judgement


def label_accuracy(evidence: Evidence) -> Judgement:
    """`label-accuracy` in [0, 1], bounded by the judge's own accuracy (which the result states)."""
    logits, labels = evidence.samples.logits, evidence.samples.labels
    table = multiclass_confusion_matrix(logits, labels, logits.shape[1]).double()  # rows: what was asked for
    asked, shown = table.sum(1), table.diagonal()
    by_class = {str(i): float(shown[i] / asked[i]) for i in asked.nonzero().flatten().tolist()}
    return Judgement({"label-accuracy": float(shown.sum() / asked.sum())}, {"by_class": by_class})
