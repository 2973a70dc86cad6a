"""What came of an evaluation, and what `gentool evaluate --json` prints of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gentool.metrics.evaluate import Evaluation
from gentool.recipes.resolve import Resolved
from gentool.training.findings import Picture


@dataclass(frozen=True)
class Evaluated:
    """`metrics` are `evaluation`'s and, of a run, its bits per dimension; `samples` is the file that was judged.

    Of a model that draws no samples they are its own figures, on `count` examples of `reference`, with what else it
    shows of itself.
    `main`: False in the further processes of several that share the sampling; rank 0 alone judges.
    """

    metrics: dict[str, float]
    evaluation: Evaluation | None
    details: dict[str, Any]
    samples: Path | None
    images: np.ndarray | None
    labels: np.ndarray | None
    resolved: Resolved | None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    reference: str | None = None
    count: int = 0
    pictures: Sequence[Picture] = ()
    warnings: Sequence[str] = ()
    main: bool = True

    def document(self) -> dict[str, Any]:
        """What `gentool evaluate --json` prints."""
        base: dict[str, Any] = {
            "features": None,
            "reference": self.reference,
            "count": self.count,
            "details": {},
            "warnings": list(self.warnings),
        }
        if self.evaluation is not None:
            base = self.evaluation.document()
        base["details"] = {**base["details"], **self.details}
        return base | {
            "metrics": self.metrics,
            "samples": None if self.samples is None else str(self.samples),
        }
