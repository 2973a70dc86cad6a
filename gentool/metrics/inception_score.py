"""Inception score (Salimans et al. 2016, section 4), on whichever classifier the extractor has."""

from __future__ import annotations

import torch
from torch import Tensor

from gentool.metrics.evidence import Evidence, Judgement


def score(logits: Tensor) -> float:
    """exp(E KL(p(y|x) || p(y))) of logits (N, K), in [1, K].

    Over all N at once: the usual mean over ten splits only adds bias (Barratt and Sharma 2018, section 3.2).
    """
    log_p = logits.double().log_softmax(1)
    log_marginal = torch.logsumexp(log_p, 0) - torch.tensor(len(log_p), dtype=torch.float64).log()
    divergence = (log_p.exp() * (log_p - log_marginal)).sum(1).mean()
    return float(divergence.clamp(min=0).exp())


def inception_score(evidence: Evidence) -> Judgement:
    """`inception-score`: high for sure and varied classes; blind to variety within them and to copies."""
    logits = evidence.samples.logits
    return Judgement({"inception-score": score(logits)}, {"classes": logits.shape[1], "splits": 1})
