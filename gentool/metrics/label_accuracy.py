"""Do samples show what their labels say? The judge is the classifier of the reference set."""

from __future__ import annotations

from torchmetrics.functional.classification import multiclass_accuracy

from gentool.metrics.evidence import Evidence, Judgement


def label_accuracy(evidence: Evidence) -> Judgement:
    """`label-accuracy` in [0, 1]: a judge that errs bounds it, see the extractor's own accuracy in the result."""
    logits, labels = evidence.samples.logits, evidence.samples.labels
    per_class = multiclass_accuracy(logits, labels, logits.shape[1], average="none")
    value = float(multiclass_accuracy(logits, labels, logits.shape[1], average="micro"))
    present = labels.bincount(minlength=logits.shape[1]) > 0
    details = {str(i): float(per_class[i]) for i in present.nonzero().flatten().tolist()}
    return Judgement({"label-accuracy": value}, {"by_class": details})
