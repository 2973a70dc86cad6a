"""What a trained classifier reads in pictures before and after something was done to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gentool.errors import UserError
from gentool.metrics.classifier import Judge
from gentool.runs.folder import RunFolder
from gentool.tasks.model.load import load_run
from gentool.training.module import GenModule


@dataclass(frozen=True)
class Readings:
    """What a classifier reads before and after. `right`: shares that are the given labels, where there are any."""

    run: str
    before: list[int]
    after: list[int]
    class_names: tuple[str, ...]
    right: tuple[float, float] | None

    @property
    def changed(self) -> int:
        return sum(a != b for a, b in zip(self.before, self.after))

    def document(self) -> dict[str, Any]:
        right = {} if self.right is None else dict(zip(("accuracy_before", "accuracy_after"), self.right))
        return {
            "run": self.run,
            "before": self.before,
            "after": self.after,
            "class_names": list(self.class_names),
            "changed": self.changed,
            **right,
        }


def load_judge(path: str, shape: tuple[int, ...], device: torch.device) -> tuple[RunFolder, GenModule, Judge]:
    """A classifier's run for pictures of this shape.

    Raises:
        UserError: no classifier, or one of pictures of another shape.
    """
    run, _, module = load_run(path)
    judge = module.to(device).judge()
    if module.spec.shape != shape:
        theirs, ours = ("x".join(map(str, s)) for s in (module.spec.shape, shape))
        raise UserError(f"--classifier: it reads pictures of {theirs}, these are {ours}", path)
    return run, module, judge


@torch.no_grad()
def read_both(
    run: RunFolder, module: GenModule, judge: Judge, before: Tensor, after: Tensor, labels: np.ndarray | None
) -> Readings:
    """Readings of pictures (N, C, H, W) in [-1, 1], as they are: neither clamped nor rounded.

    Args:
        labels: (N,) what they are, -1 for unknown: shares are told where all are known.
    """
    said = [
        torch.cat([judge.logits(part.to(judge.device)).argmax(1).cpu() for part in x.split(256)])
        for x in (before, after)
    ]
    right = None
    if labels is not None and (labels >= 0).all():
        known = torch.from_numpy(labels)
        right = (float((said[0] == known).double().mean()), float((said[1] == known).double().mean()))
    return Readings(run.path.name, said[0].tolist(), said[1].tolist(), module.spec.class_names, right)
